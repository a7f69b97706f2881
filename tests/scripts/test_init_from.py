"""Runs that start from a trained model: what they load, add, freeze, refuse, record, and how they resume."""

import json
import shutil
import sys

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from killed_runs import forget_the_end
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from papers_to_gpt import pretrain_gpt1, train_translation
from papers_to_gpt.publishing.clean_process import compare_probes, probe_in_clean_process, probe_model
from seq2seq_scratch.translation import load_translator

FAMILY = ["--model_type", "bahdanau"]
SIZES = [*FAMILY, *"--embedding_size 8 --hidden_size 12 --attention_size 8 --maxout_size 6 --vocab_size 300".split()]
UPDATES = "--max_steps 4 --eval_steps 2 --logging_steps 2 --bf16 false --use_cpu true --save_total_limit 0".split()
NEW_WORDS = ["zweitausend", "Jahrtausendwende"]


def run_script(script, *arguments):
    sys.argv = [f"{script.__name__.rpartition('.')[2]}.py", *map(str, arguments)]
    script.main()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for split, count in (("train", 60), ("validation", 8)):
        lines = [f"word{index % 7} and word{index % 5} by word{index % 3}" for index in range(count)]
        (folder / f"{split}.en").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.de").write_text("\n".join(line.replace("and", "und") for line in lines) + "\n")
        (folder / f"{split}.txt").write_text("\n\n".join(lines) + "\n")
    (folder / "words.txt").write_text("\n".join(NEW_WORDS) + "\n")
    return folder


@pytest.fixture(autouse=True)
def restore_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)


def translation(texts, *arguments):
    """The arguments of a translator's run of a few updates."""
    files = [f"--{split}_file={texts / split}" for split in ("train", "validation")]
    return [*files, "--num_beams", 1, "--max_new_tokens", 8, "--learning_rate", 0.01, *UPDATES, *arguments]


def language_model(texts, *arguments):
    """The arguments of a GPT-1's run of a few updates."""
    files = [f"--{split}_file={texts / split}.txt" for split in ("train", "validation")]
    return [*files, "--num_samples", 0, "--block_size", 16, "--learning_rate", 0.01, *UPDATES, *arguments]


@pytest.fixture(scope="module")
def translators(texts, tmp_path_factory):
    """Two trained translators: with one vocabulary, and with one for each side."""
    folder = tmp_path_factory.mktemp("translators")
    for name, more in (("shared", []), ("separate", ["--share_vocabulary", "false"])):
        arguments = translation(texts, *SIZES, *more, "--readout_dropout", 0.1, "--output_dir", folder / name)
        run_script(train_translation, *arguments)
    return folder


@pytest.fixture(scope="module")
def gpt1(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt1") / "first"
    sizes = "--hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --max_position_embeddings 32".split()
    run_script(
        pretrain_gpt1,
        *language_model(texts, *sizes, "--num_merges", 30, "--output_dir", folder, "--weight_decay", 0),
    )
    return folder


def weights_of(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_a_translator_starts_from_another_with_new_words_and_frozen_parts(kind, translators, texts, tmp_path, capsys):
    start, words = translators / kind, texts / "words.txt"
    more = ["--init_from", start, "--add_tokens", words, "--freeze", "encoder", "embeddings"]
    more += ["--weight_decay", 0.1, "--average_last_checkpoints", 3, "--max_steps", 6, "--output_dir", tmp_path]
    run_script(train_translation, *translation(texts, *more))
    old, new = weights_of(start), weights_of(tmp_path)
    for name, tensor in new.items():
        frozen = name.startswith("encoder.") or "embed_tokens" in name
        assert torch.equal(tensor[: len(old[name])], old[name]) == frozen, name
    model, source, target = load_translator(str(tmp_path))
    for side in (source, target):
        for word in NEW_WORDS:
            ids = side(word).input_ids
            assert len(ids) == 2 and side.decode(ids, skip_special_tokens=True) == word
    assert (source is target) == (kind == "shared")
    assert (model.config.vocab_size, model.config.decoder_vocab_size) == (len(source), len(target))
    assert model.config.readout_dropout == 0.1 and model.config.hidden_size == 12
    trained = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("encoder") and "embed_t" not in n)
    assert f"{trained:,} of them trained (frozen: encoder, embeddings)" in capsys.readouterr().out
    record = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert record["settings"]["init_from"] == str(start) and record["settings"]["hidden_size"] == 12
    assert "base_model" not in record
    card = (tmp_path / "README.md").read_text()
    assert f"Trained further from `{kind}`, with further words" in card and str(translators) not in card
    assert str(translators) not in (tmp_path / "config.json").read_text()


def test_the_first_evaluation_is_that_of_the_model_that_it_starts_from(translators, texts, tmp_path):
    first = json.loads((translators / "shared" / "all_results.json").read_text())
    more = ["--init_from", translators / "shared", "--learning_rate", 1e-12, "--output_dir", tmp_path]
    run_script(train_translation, *translation(texts, *more))
    again = json.loads((tmp_path / "all_results.json").read_text())
    assert again["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-5)


def test_the_same_command_resumes_though_the_first_model_is_gone(translators, texts, tmp_path):
    start = shutil.copytree(translators / "shared", tmp_path / "start")
    more = ["--init_from", start, "--add_tokens", texts / "words.txt", "--freeze", "encoder"]
    whole, stopped = (translation(texts, *more, "--output_dir", tmp_path / name) for name in ("whole", "stopped"))
    run_script(train_translation, *whole)
    run_script(train_translation, *stopped)
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-4")
    forget_the_end(tmp_path / "stopped")
    shutil.rmtree(start)
    run_script(train_translation, *stopped)
    assert (tmp_path / "stopped" / "checkpoint-4").is_dir()
    expected = weights_of(tmp_path / "whole")
    for name, tensor in weights_of(tmp_path / "stopped").items():
        assert torch.equal(tensor, expected[name]), name
    changed = [*stopped[: stopped.index("--freeze")], "--output_dir", tmp_path / "stopped", "--freeze", "decoder"]
    with pytest.raises(ValueError, match=r"freeze was \['encoder'\], is \['decoder'\]"):
        run_script(train_translation, *changed)


def test_settings_that_contradict_the_model_are_named(translators, texts, tmp_path):
    def start(*arguments, kind="shared"):
        more = ["--init_from", translators / kind, "--output_dir", tmp_path / "out", *arguments]
        run_script(train_translation, *translation(texts, *more))

    preset = tmp_path / "preset.yaml"
    preset.write_text("hidden_size: 16\nembedding_size: 8\n")
    preset_first = [preset, *translation(texts), "--init_from", translators / "shared", "--lowercase"]
    with pytest.raises(ValueError, match=r"hidden_size is 16 \(.*preset.yaml:1\), but the model's is 12") as error:
        run_script(train_translation, *preset_first, "--output_dir", tmp_path / "out")
    assert "lowercase is True (command line), but the model's is False" in str(error.value)
    assert "embedding_size" not in str(error.value)
    for arguments, message in (
        (["--model_type", "rnn_seq2seq"], "model_type is 'rnn_seq2seq', but that of .* is 'bahdanau'"),
        (["--share_vocabulary", "false"], "share_vocabulary is False .* the model's is True"),
        (["--vocab_size", "400"], "vocab_size is 400 .* the model's is"),
        (["--tokenizer_name", "other"], "tokenizer_name is 'other', but init_from is"),
        (["--freeze", "blocks:0"], "freeze is 'blocks:0'.*It has embeddings, encoder, decoder"),
        (["--freeze", "head"], "freeze is 'head'; it must be some of"),
        (["--resume_from_checkpoint", str(translators / "shared" / "checkpoint-4")], "each names the weights"),
        (["--output_dir", str(translators / "shared")], "would replace what it starts from"),
        (["--init_from", str(tmp_path)], "which has no config.json"),
        (
            [*FAMILY, "--init_from", "none", "--add_tokens", str(texts / "words.txt")],
            "add_tokens is set, but init_from is not",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            start(*arguments)
    assert not (tmp_path / "out" / "run.yaml").exists()
    unset = ["--hidden_size", "none", "--lowercase", "none", "--max_steps", 2, "--output_dir", tmp_path / "unset"]
    run_script(train_translation, *preset_first, *unset)
    assert json.loads((tmp_path / "unset" / "config.json").read_text())["hidden_size"] == 12
    start(*SIZES, "--embedding_dropout", "0.5", "--max_steps", "2")  # the settings that the model was trained with
    assert json.loads((tmp_path / "out" / "config.json").read_text())["embedding_dropout"] == 0.5


def test_gpt1_goes_on_with_other_text_and_loads_without_this_project(gpt1, texts, tmp_path):
    folder = tmp_path / "further"
    more = ["--init_from", gpt1, "--add_tokens", texts / "words.txt", "--freeze", "blocks:0", "--weight_decay", 0.1]
    arguments = language_model(texts, *more, "--output_dir", folder)
    run_script(pretrain_gpt1, *arguments)
    old, new = weights_of(gpt1), weights_of(folder)
    for name, tensor in new.items():
        assert torch.equal(tensor[: len(old[name])], old[name]) == (".blocks.0." in name), name
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) and len(tokenizer("zweitausend").input_ids) == 1
    (found,) = probe_in_clean_process([folder], ["gpt1_scratch"], offline=True)
    compare_probes(found, probe_model(model, tokenizer), "in a clean process")
    card = ModelCard.load(folder / "README.md")
    assert "Trained further from `first`, with further words in its vocabulary, with frozen blocks:0" in card.text
    assert card.data.base_model is None
    shutil.rmtree(folder / "checkpoint-4")
    forget_the_end(folder)
    run_script(pretrain_gpt1, *arguments)
    assert all(torch.equal(tensor, new[name]) for name, tensor in weights_of(folder).items())
    with pytest.raises(ValueError, match=r"hidden_size is 32 .*, but the model's is 16"):
        run_script(
            pretrain_gpt1, *language_model(texts, "--init_from", gpt1, "--hidden_size", 32, "--output_dir", "o")
        )
    with pytest.raises(ValueError, match="model_type is 'bahdanau'; this script starts from gpt1"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "config.json").write_text('{"model_type": "bahdanau"}')
        run_script(
            pretrain_gpt1,
            *language_model(texts, "--init_from", tmp_path / "other", "--output_dir", tmp_path / "refused"),
        )
