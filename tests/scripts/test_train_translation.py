"""The translation recipes as a user runs them: scripts in new processes, the embedded data set, wrong inputs."""

import ast
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from killed_runs import forget_the_end
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing

from papers_to_gpt import score_translation, train_translation, translate
from papers_to_gpt.settings.arguments import run_script
from seq2seq_scratch.data.numbers import load_numbers
from seq2seq_scratch.tokenization import train_tokenizer
from seq2seq_scratch.translation import load_translator

ROOT = Path(__file__).parents[2]
PRESET = ROOT / "recipes" / "presets" / "numbers" / "bahdanau.yaml"
TINY = """--embedding_size 8 --hidden_size 12 --attention_size 8 --maxout_size 6 --vocab_size 300 --max_steps 4
    --eval_steps 2 --logging_steps 2 --num_beams 2 --max_new_tokens 8 --bf16 false""".split()


def run(script, *arguments, launcher=(), stdin=None):
    """Runs a script in a new process."""
    command = [sys.executable, *launcher, str(ROOT / "recipes" / script), *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(command, capture_output=True, text=True, input=stdin, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def parallel_text(tmp_path_factory):
    """Writes line-aligned files and a preset for them. The few updates of a test need not learn this translation."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 60), ("validation", 8), ("test", 8)):
        lines = [f"word{index % 7} and word{index % 5}" for index in range(count)]
        (folder / f"{split}.en").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.de").write_text("\n".join(line.replace("and", "und") for line in lines) + "\n")
    preset = folder / "preset.yaml"
    preset.write_text(
        PRESET.read_text().replace("dataset_name: numbers\n", "")
        + "".join(f"{split}_file: {folder / split}\n" for split in ("train", "validation", "test"))
    )
    return folder


@pytest.fixture
def train(tmp_path, parallel_text, monkeypatch):
    """Runs the training script in this process, which saves every test the seconds that imports take."""

    def start(*arguments):
        settings = [str(parallel_text / "preset.yaml"), *TINY, "--output_dir", str(tmp_path), *arguments]
        monkeypatch.setattr(sys, "argv", ["train_translation.py", *settings])
        train_translation.main()

    return start


def test_the_readmes_first_command_translates_unseen_numbers(tmp_path):
    """The README's command reaches at least 95 % exact match on numbers that are not in the training data."""
    result = run("train_translation.py", PRESET, "--output_dir", tmp_path)
    scores = json.loads((tmp_path / "all_results.json").read_text())
    assert scores["test_exact_match"] >= 95
    assert scores["test_sacrebleu_signature"].startswith("nrefs:1|case:mixed")
    # The lines that it prints load and use the model: run as they stand, in a fresh process.
    lines = result.stdout.rstrip().splitlines()[-3:]
    printed = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=ROOT)
    assert printed.returncode == 0, printed.stderr
    (translated,) = ast.literal_eval(printed.stdout)
    assert translated["translation_text"].isalpha()

    sources = [pair["en"] for pair in load_numbers()["test"][:5]["translation"]]
    written = (tmp_path / "test_hypotheses.txt").read_text().splitlines()[:5]
    translated = run("translate.py", "--model_name_or_path", tmp_path, stdin="\n".join([*sources, "", sources[0]]))
    assert translated.stdout.splitlines() == [*written, "", written[0]]
    nbest = run(
        "translate.py",
        "--model_name_or_path",
        tmp_path,
        "--num_beams",
        3,
        "--num_return_sequences",
        3,
        stdin=sources[0],
    )
    rows = [line.split("\t") for line in nbest.stdout.splitlines()]
    assert [row[0] for row in rows] == ["0"] * 3 and rows[0][2] == written[0]
    assert sorted((float(row[1]) for row in rows), reverse=True) == [float(row[1]) for row in rows]

    run("score_translation.py", "--model_name_or_path", tmp_path, "--dataset_name", "numbers", "--num_beams", 1, 4)
    rescored = json.loads((tmp_path / "test_beam4_scores.json").read_text())
    assert rescored["exact_match"] == pytest.approx(scores["test_exact_match"], abs=0.3)
    assert len((tmp_path / "test_beam1_hypotheses.txt").read_text().splitlines()) == 1000


def test_a_run_leaves_a_complete_folder(train, tmp_path, capsys):
    train("--share_vocabulary", "false", "--report_to", "tensorboard")
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "train_log.jsonl"):
        assert (tmp_path / name).is_file(), name
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "translation" and card.data.language == ["en", "de"]
    assert {path.name for path in tmp_path.glob("*.py")} > {"modeling_bahdanau.py", "pipeline_translation.py"}
    assert (tmp_path / "target_tokenizer" / "tokenizer.json").is_file()
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    record = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert record["settings"]["seed"] == 42 and record["settings"]["max_steps"] == 4
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert kinds == ["train", "eval"] * 2
    said = capsys.readouterr().out
    assert "train: 60 pairs, 60 kept\n" in said and "validation: 8 pairs; 8 are training pairs too\n" in said


def test_another_run_in_the_folder_is_refused_replaced_or_gone_on_with(train, tmp_path):
    def updates():
        return json.loads((tmp_path / "all_results.json").read_text())["train_updates"]

    train()
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds another run"):
        train("--seed", "7")
    assert (tmp_path / "model.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match="vocab_size was 300, is 290"):
        train("--resume_from_checkpoint", "last", "--vocab_size", "290")
    vocabulary = (tmp_path / "tokenizer.json").read_bytes()
    train("--resume_from_checkpoint", "last", "--max_steps", "6")
    assert updates() == 6
    assert (tmp_path / "tokenizer.json").read_bytes() == vocabulary
    train("--overwrite_output_dir", "true")
    assert updates() == 4


def test_two_processes_train_as_one_that_accumulates(tmp_path, parallel_text):
    # Adam divides by the gradient's size: where that is rounding, an epsilon below it would make steps of noise.
    options = ["--max_tokens_per_batch", "64", "--adam_epsilon", "1e-3", "--readout_dropout", "0.2"]
    options += ["--bpe_dropout", "0.2", "--logging_steps", "1"]

    def start(name, *arguments, launcher=()):
        folder = tmp_path / name
        settings = [parallel_text / "preset.yaml", *TINY, *options, "--output_dir", folder, *arguments]
        run("train_translation.py", *settings, launcher=launcher)
        weights = load_file(folder / "checkpoint-4" / "model.safetensors")
        losses = [line["loss"] for line in map(json.loads, (folder / "train_log.jsonl").open())]
        return weights, json.loads((folder / "all_results.json").read_text()), losses

    one, one_results, one_losses = start("one", "--gradient_accumulation_steps", "2")
    two, two_results, two_losses = start(
        "two", launcher=("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], atol=2e-5, rtol=1e-3)
    assert one_losses == pytest.approx(two_losses, rel=1e-5)
    assert one_results["train_target_tokens"] == two_results["train_target_tokens"]
    for score in ("eval_loss", "test_chrf", "test_exact_match"):
        assert one_results[score] == pytest.approx(two_results[score], rel=1e-3)


def test_r_drop_reads_every_pair_twice_and_changes_nothing_without_dropout(train, tmp_path):
    def trained(r_drop_weight):
        options = ["--readout_dropout", "0", "--r_drop_weight", r_drop_weight, "--adam_epsilon", "1e-3"]
        train(*options, "--overwrite_output_dir", "true")
        results = json.loads((tmp_path / "all_results.json").read_text())
        return load_file(tmp_path / "checkpoint-4" / "model.safetensors"), results["train_target_tokens"]

    (once, tokens), (twice, tokens_read_twice) = trained("0"), trained("5")
    assert tokens_read_twice == 2 * tokens
    for name, weight in once.items():
        torch.testing.assert_close(twice[name], weight, atol=2e-5, rtol=1e-3)


def lose_checkpoints_after(update, folder, copy):
    """Copies a run as if it had been killed after an update. A second run would learn another vocabulary."""
    shutil.copytree(folder, copy)
    for checkpoint in copy.glob("checkpoint-*"):
        if int(checkpoint.name.partition("-")[2]) > update:
            shutil.rmtree(checkpoint)
    forget_the_end(copy)


def test_corpora_with_weights_are_counted_and_resume_exactly(train, parallel_text, tmp_path, capsys):
    """The corpora are a table and two text files; half of the second one's pairs are read in each epoch."""
    rows = [{"translation": {"en": f"word{n} and word{n}", "de": f"word{n} und word{n}"}} for n in range(12)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    weighted = [
        "--train_file",
        str(tmp_path / "more.jsonl"),
        str(parallel_text / "train"),
        "--train_weights",
        "3",
        "0.5",
    ]
    weighted += ["--max_tokens_per_batch", "64", "--save_total_limit", "0", "--max_steps", "8"]
    train(*weighted, "--output_dir", str(tmp_path / "whole"))
    assert "train: an epoch has 66 pairs: more 36 (54.5 %, weight 3), train 30 (45.5 %, weight 0.5)" in (
        capsys.readouterr().out
    )
    results = json.loads((tmp_path / "whole" / "all_results.json").read_text())
    assert [list(corpus.values()) for corpus in results["train_corpora"]] == [
        ["more", 3.0, 12, 36, 0.545455],
        ["train", 0.5, 60, 30, 0.454545],
    ]
    lose_checkpoints_after(4, tmp_path / "whole", tmp_path / "parts")
    train(*weighted, "--output_dir", str(tmp_path / "parts"))
    whole, parts = (load_file(tmp_path / name / "checkpoint-8" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(ValueError, match=r"train_weights was \['3', '0.5'\], is \['3', '1'\]"):
        train(*weighted, "--output_dir", str(tmp_path / "parts"), "--train_weights", "3", "1")


def test_streams_of_corpora_are_counted_and_resume_exactly(train, parallel_text, tmp_path):
    # As long as the other corpus' pairs: batches are of one length, and the first ones hold both corpora.
    rows = [{"translation": {"en": f"word{n % 7} and word{n % 5}", "de": f"word{n % 7} und a"}} for n in range(500)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    weighted = [
        "--train_file",
        str(tmp_path / "more.jsonl"),
        str(parallel_text / "train"),
        "--train_weights",
        "3",
        "1",
    ]
    weighted += ["--streaming", "true", "--save_total_limit", "0", "--max_tokens_per_batch", "512"]
    train(*weighted, "--max_steps", "6", "--output_dir", str(tmp_path / "whole"))
    counts = json.loads((tmp_path / "whole" / "all_results.json").read_text())["train_corpora"]
    assert [corpus["name"] for corpus in counts] == ["more", "train"] and all(each["pairs_read"] for each in counts)
    lose_checkpoints_after(2, tmp_path / "whole", tmp_path / "parts")
    train(*weighted, "--max_steps", "6", "--output_dir", str(tmp_path / "parts"))
    whole, parts = (load_file(tmp_path / name / "checkpoint-6" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert json.loads((tmp_path / "parts" / "all_results.json").read_text())["train_corpora"] == counts


def test_every_test_set_and_every_reference_is_scored(train, parallel_text, tmp_path, monkeypatch):
    """A model that learned nothing equals no reference, except one that is made of its own translations."""
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        for side in ("en", "de"):
            (folder / f"news.{side}").write_text((parallel_text / f"test.{side}").read_text())
        (folder / "news.de2").write_text("eins\n" * 8)
    sets = ["--test_file", str(tmp_path / "first" / "news"), str(tmp_path / "second" / "news")]
    train(*sets, "--output_dir", str(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["test_news_sacrebleu_signature"].startswith("nrefs:1|")
    assert results["test_news_chrf"] == results["test_news_2_chrf"]
    assert not any(name.startswith("test_sacrebleu") for name in results)
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert {result.dataset_split for result in card.data.eval_results} == {"test_news", "test_news_2"}

    written = (tmp_path / "run" / "test_news_hypotheses.txt").read_text()
    (tmp_path / "second" / "news.de2").write_text(written)
    arguments = [
        "--model_name_or_path",
        str(tmp_path / "run"),
        *sets,
        "--num_beams",
        "2",
        "--reference_columns",
        "de2",
    ]
    monkeypatch.setattr(sys, "argv", ["score_translation.py", *arguments, "--max_new_tokens", "8"])
    score_translation.main()
    first, second = (
        json.loads((tmp_path / "run" / f"test_{name}_beam2_scores.json").read_text()) for name in ("news", "news_2")
    )
    assert first["sacrebleu_signature"].startswith("nrefs:2|")
    # A reference that is empty counts as missing.
    with_text = sum(bool(line.strip()) for line in written.splitlines())
    assert (first["exact_match"], second["exact_match"]) == (0, 100 * with_text / 8) and with_text
    monkeypatch.setattr(sys, "argv", ["score_translation.py", *arguments[:-1], "de3"])
    with pytest.raises(ValueError, match=r"reference_columns names 'de3': .*news\.de3 is missing"):
        score_translation.main()


def test_every_second_evaluation_and_the_last_one_translate(train, tmp_path):
    train("--max_steps", "5", "--eval_steps", "1", "--decode_every", "2", "--metric_for_best_model", "perplexity")
    log = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    evaluations = [line for line in log if line["kind"] == "eval"]
    assert [("sacrebleu" in line, "loss" in line) for line in evaluations] == [
        (decoded, True) for decoded in (False, True, False, True, True)
    ]
    # Whichever checkpoint was the best, the model's own scores are complete.
    assert "eval_sacrebleu" in json.loads((tmp_path / "all_results.json").read_text())


def test_a_stream_trains(train, tmp_path):
    train("--streaming", "true")
    assert json.loads((tmp_path / "all_results.json").read_text())["train_updates"] == 4


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_run_promises_and_evaluates_no_more_positions_than_are_learned(
    parallel_text, tmp_path, monkeypatch, capsys, positions
):
    for language in ("en", "de"):
        pairs = ["word1", "word1 " * 60, "word2"]
        (tmp_path / f"long.{language}").write_text("\n".join(pairs) + "\n")
    settings = {"model_type": "transformer_seq2seq", "d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
    settings |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    settings |= {"position_embedding_type": positions, "max_position_embeddings": 40, "vocab_size": 300}
    settings |= {"share_vocabulary": False, "share_encoder_decoder_embeddings": False, "max_steps": 1}
    settings |= {"max_new_tokens": 8, "bf16": False, "source_language": "en", "target_language": "de"}
    settings |= {f"{split}_file": parallel_text / split for split in ("train", "validation", "test")}
    settings |= {"output_dir": tmp_path / "run", "validation_file": tmp_path / "long"}
    monkeypatch.setattr(
        sys, "argv", ["train_translation.py", *(f"--{name}={value}" for name, value in settings.items())]
    )
    train_translation.main()
    noted = "1 targets cut to 40 tokens for the loss (learned positions)" in capsys.readouterr().out
    assert noted == (positions == "learned")
    model, *tokenizers = load_translator(str(tmp_path / "run"))
    ids = [
        tokenizer("word1 " * 60, truncation=positions == "learned", return_tensors="pt").input_ids
        for tokenizer in tokenizers
    ]
    assert [len(each[0]) == 40 for each in ids] == [positions == "learned"] * 2
    assert model(input_ids=ids[0], labels=ids[1]).loss.isfinite()


def test_an_existing_tokenizer_is_taken_if_it_marks_the_end(train, tmp_path):
    tokenizer = train_tokenizer(["word0 und word1"] * 9, kind="bpe", vocab_size=270)
    tokenizer.save_pretrained(tmp_path / "with_end")
    train("--tokenizer_name", str(tmp_path / "with_end"), "--output_dir", str(tmp_path / "run"))
    taken = json.loads((tmp_path / "run" / "tokenizer.json").read_text())
    assert taken["model"] == json.loads((tmp_path / "with_end" / "tokenizer.json").read_text())["model"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.save_pretrained(tmp_path / "without_end")
    with pytest.raises(ValueError, match="does not append </s> to a text"):
        train("--tokenizer_name", str(tmp_path / "without_end"), "--output_dir", str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--hiden_size", "12"], "unknown setting 'hiden_size'. Did you mean 'hidden_size'?"),
        (["--hidden_size", "large"], "hidden_size: invalid int value: 'large'"),
        (["--model_type", "gru"], "model_type is 'gru'; it must be one of"),
        (["--hidden_size", "0"], "hidden_size is 0"),
        (["--source_language", "tlh"], "train.tlh"),
        (["--train_file", "nowhere.parquet"], "there is no file nowhere.parquet"),
        (["--dataset_name", "numbers"], "dataset_name is 'numbers', but train_file"),
        (["--r_drop_weight", "-1"], "r_drop_weight is -1.0; it must be at least 0"),
        (["--label_smoothing_factor", "1"], "label_smoothing_factor is 1.0; it must be at least 0 and below 1"),
        (["--bpe_dropout", "1"], "bpe_dropout is 1.0; it must be at least 0 and below 1"),
        (["--bpe_dropout", "0.1", "--streaming", "true"], "bpe_dropout is 0.1, but streaming is true"),
        (["--bpe_dropout", "0.1", "--tokenizer_type", "word"], "bpe_dropout is 0.1, but the tokenizer is no BPE"),
        (["--num_beams", "0"], "num_beams is 0; it must be at least 1"),
        (["--metric_for_best_model", "bleurt"], "metric_for_best_model is 'bleurt'"),
        (["--vocab_size", "100"], "vocab_size is 100"),
    ],
)
def test_wrong_settings_are_named(train, arguments, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        train(*arguments)


def test_a_wrong_setting_ends_the_script_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["translate.py", "--model_name_or_path", str(tmp_path)])
    monkeypatch.setattr(sys, "stdin", io.StringIO("ten\n"))
    with pytest.raises(SystemExit) as stop:
        run_script(translate.main)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: The folder {tmp_path} holds no model")
