"""Runs on streams as a user starts them: killed and resumed, with broken files, and with workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killed_runs import forget_the_end
from safetensors.torch import load_file

from papers_to_gpt import pretrain_gpt1, train_translation

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "recipes" / "presets"
COMMON = """--streaming true --max_steps 60 --eval_steps 30 --save_steps 5 --logging_steps 5 --save_total_limit 0
    --bf16 false --use_cpu true""".split()
TRANSLATION = """--embedding_size 8 --hidden_size 12 --attention_size 8 --maxout_size 6 --vocab_size 300 --num_beams 2
    --max_new_tokens 8 --max_tokens_per_batch 64""".split()
PRETRAINING = """--hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --max_position_embeddings 32
    --num_merges 50 --per_device_train_batch_size 2 --max_eval_blocks 4 --num_samples 0 --row_is_line true""".split()
MODULES = {"train_translation": train_translation, "pretrain_gpt1": pretrain_gpt1}


@pytest.fixture
def corpora(tmp_path):
    """The arguments that name a corpus of four files for each recipe."""
    pairs, texts = tmp_path / "pairs", tmp_path / "texts"
    pairs.mkdir()
    texts.mkdir()
    for part in range(4):
        lines = [f"word{index * index % 17} and word{index % 5} {part}" for index in range(25 + part)]
        (pairs / f"part-{part}.en").write_text("\n".join(lines) + "\n")
        (pairs / f"part-{part}.de").write_text("\n".join(line.replace("and", "und") for line in lines) + "\n")
        (texts / f"part-{part}.txt").write_text("\n".join(lines) + "\n")
    for ending in ("txt", "en", "de"):
        (tmp_path / f"validation.{ending}").write_text("word1 and word2 1\n" * 40)
    for recipe, preset, dataset in (
        ("train_translation", "numbers/bahdanau.yaml", "dataset_name: numbers\n"),
        ("pretrain_gpt1", "stories/gpt1_mini.yaml", "dataset_name: stories\n"),
    ):
        (tmp_path / f"{recipe}.yaml").write_text((PRESETS / preset).read_text().replace(dataset, ""))
    return {
        "train_translation": [
            *TRANSLATION,
            *("--train_file", str(pairs), "--validation_file", str(tmp_path / "validation")),
        ],
        "pretrain_gpt1": [
            *PRETRAINING,
            *("--train_file", str(texts), "--validation_file", str(tmp_path / "validation.txt")),
        ],
    }


@pytest.fixture
def command(tmp_path, corpora):
    def arguments(recipe, name, *more):
        preset, folder = tmp_path / f"{recipe}.yaml", tmp_path / name
        return [str(preset), *corpora[recipe], *COMMON, "--output_dir", str(folder), *more], folder

    return arguments


@pytest.fixture
def start(command, monkeypatch):
    """A script in this process; gives the folder of the run."""

    def run(recipe, *arguments):
        settings, folder = command(recipe, *arguments)
        monkeypatch.setattr(sys, "argv", [f"{recipe}.py", *settings])
        MODULES[recipe].main()
        return folder

    return run


def killed_after(checkpoint, arguments):
    """Starts a script in a process of its own and kills it once it has written a checkpoint."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([sys.executable, *arguments], env=environment, **output)
    while not checkpoint.is_dir():
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("recipe", "workers"), [("train_translation", "2"), ("pretrain_gpt1", "0")])
@pytest.mark.long
def test_a_killed_run_on_a_stream_goes_on_to_the_same_weights(start, command, recipe, workers):
    more = ("--dataloader_num_workers", workers)
    whole = start(recipe, "whole", *more)
    arguments, folder = command(recipe, "parts", *more)
    # The tokenizer of the other run: learning one breaks ties differently each time.
    arguments += ["--tokenizer_name", str(whole)]
    killed_after(folder / "checkpoint-15", [str(ROOT / "recipes" / f"{recipe}.py"), *arguments])
    assert not (folder / "checkpoint-60").exists()
    progress = json.loads((folder / "checkpoint-15" / "training_state" / "progress.json").read_text())
    assert progress["epoch"] > 0 and progress["stream"]["shards"] == 4
    start(recipe, "parts", *more, "--tokenizer_name", str(whole), "--resume_from_checkpoint", "last")
    weights = load_file(whole / "checkpoint-60" / "model.safetensors")
    for name, tensor in load_file(folder / "checkpoint-60" / "model.safetensors").items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("recipe", MODULES)
def test_a_broken_file_stops_a_run_or_is_skipped_and_reported(start, command, recipe, tmp_path, capsys):
    kind = {"train_translation": "pairs/part-2.de", "pretrain_gpt1": "texts/part-2.txt"}[recipe]
    broken = tmp_path / kind
    broken.write_bytes(broken.read_bytes()[:200] + b"\xff\n" + broken.read_bytes()[200:])
    with pytest.raises(ValueError, match=rf"shard 3 of 4: .*{broken.name}, line \d+: byte 0xff .*skip_broken_shards"):
        start(recipe, "run")
    folder = start(recipe, "run", "--skip_broken_shards", "true", "--overwrite_output_dir", "true")
    assert json.loads((folder / "all_results.json").read_text())["train_skipped_shards"] == 1
    shown = capsys.readouterr()
    assert f"Epoch 1: broken shards that were skipped: 1 (shard 3 of 4: {broken}" in shown.out
    assert "The stream is shorter than the run: it begins again" in shown.out


@pytest.mark.long
def test_a_run_of_two_processes_goes_on_with_two_or_one(start, command, tmp_path):
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    script = str(ROOT / "recipes" / "pretrain_gpt1.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

    def launched(name, *more):
        arguments, folder = command("pretrain_gpt1", name, *more)
        result = subprocess.run(
            [sys.executable, *launch, script, *arguments], capture_output=True, text=True, env=environment
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return load_file(folder / "checkpoint-60" / "model.safetensors")

    whole = launched("two")
    for name in ("two-again", "one"):
        shutil.copytree(tmp_path / "two", tmp_path / name)
        for checkpoint in (tmp_path / name).glob("checkpoint-*"):
            if checkpoint.name != "checkpoint-15":
                shutil.rmtree(checkpoint)
        forget_the_end(tmp_path / name)
    again = launched("two-again", "--resume_from_checkpoint", "last")
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    folder = start("pretrain_gpt1", "one", "--resume_from_checkpoint", "last", "--gradient_accumulation_steps", "1")
    for name, tensor in load_file(folder / "checkpoint-60" / "model.safetensors").items():
        torch.testing.assert_close(tensor, whole[name], atol=2e-5, rtol=1e-3)
