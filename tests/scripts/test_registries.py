"""An embedded data set or task needs one entry in its registry: a recipe then trains on it by its name."""

import sys

from datasets import Dataset

from gpt1_scratch.finetuning.tasks import TASKS, EmbeddedRows, Task
from gpt1_scratch.pretraining.embedded import EMBEDDED_TEXTS, EmbeddedTexts
from papers_to_gpt import finetune_gpt1, pretrain_gpt1, train_translation
from papers_to_gpt.settings.finetuning import TaskSettings
from seq2seq_scratch.data.embedded import EMBEDDED_PAIRS, EmbeddedPairs

SHORT = "--max_steps 2 --logging_steps 1 --warmup_steps 0 --bf16 false --save_total_limit 0".split()
COLOURS = {"red": "rot", "blue": "blau", "green": "grün", "white": "weiß"}
LIMIT = "The model knows four colours."


def colour_pairs(source_language, target_language):
    sides = [(f"{a} and {b}", f"{COLOURS[a]} und {COLOURS[b]}") for a in COLOURS for b in COLOURS]
    rows = [{source_language: source, target_language: target} for source, target in sides]
    return {split: Dataset.from_list(rows) for split in ("train", "validation", "test")}


def colour_texts():
    texts = [f"the sky was {a} and the sea was {b} and {a}" for a in COLOURS for b in COLOURS]
    return {split: Dataset.from_dict({"text": texts}) for split in ("train", "validation")}


def colour_rows(argument):
    rows = {"sentence": [f"the {argument} was {name}" for name in COLOURS], "label": ["warm", "cold", "cold", "cold"]}
    return {split: Dataset.from_dict(rows) for split in ("train", "validation", "test")}


def run(recipe, folder, arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe", *SHORT, "--output_dir", str(folder), *arguments.split()])
    recipe.main()
    return (folder / "README.md").read_text()


def test_an_entry_for_pairs_is_enough_to_train_a_translator_on_them(tmp_path, monkeypatch):
    entry = EmbeddedPairs(f"{__name__}:colour_pairs", "Names of colours.", LIMIT, examples={"en": "red and blue"})
    monkeypatch.setitem(EMBEDDED_PAIRS, "colours", entry)
    sizes = (
        "--model_type bahdanau --embedding_size 8 --hidden_size 8 --attention_size 8 --maxout_size 4 --vocab_size 300"
    )
    card = run(
        train_translation, tmp_path, f"--dataset_name colours {sizes} --num_beams 1 --max_new_tokens 4", monkeypatch
    )
    assert "Names of colours." in card and "red and blue" in card and LIMIT in card


def test_an_entry_for_texts_and_one_for_a_task_are_enough_to_train_gpt1_on_them(tmp_path, monkeypatch):
    entry = EmbeddedTexts(f"{__name__}:colour_texts", "Sentences about colours.", LIMIT, "en", "the sky was")
    monkeypatch.setitem(EMBEDDED_TEXTS, "colours", entry)
    sizes = "--hidden_size 8 --num_hidden_layers 1 --num_attention_heads 2 --max_position_embeddings 16 --num_merges 9"
    pretrained = tmp_path / "pretrained"
    card = run(pretrain_gpt1, pretrained, f"--dataset_name colours {sizes} --num_samples 1", monkeypatch)
    assert "Sentences about colours." in card and "the sky was" in card and LIMIT in card

    rows = EmbeddedRows(f"{__name__}:colour_rows", "sky", "colours", "Skies and how warm they look.")
    task = Task("colours_sky", "classification", ("sentence",), ("warm", "cold"), ("accuracy",), embedded=rows)
    monkeypatch.setitem(TASKS, "colours_sky", task)
    assert TaskSettings(task=["colours"]).names() == ["colours_sky"]
    start = f"--model_name_or_path {pretrained} --task colours_sky"
    card = run(finetune_gpt1, tmp_path / "finetuned", start, monkeypatch)
    assert "Skies and how warm they look." in card
