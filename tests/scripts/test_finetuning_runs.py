"""Runs of the fine-tuning script: resumed, killed, with several seeds, in two processes."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from finetuning_runs import TINY, results_of, rows_of, sentences
from killed_runs import forget_the_end
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).parents[2]


def test_a_resumed_run_equals_an_uninterrupted_one(finetune, files):
    whole = finetune(*files, name="whole")
    # The same run, which lost its end.
    parts = whole.parent / "parts"
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoint-18")
    forget_the_end(parts)
    finetune(*files, "--resume_from_checkpoint", "last", name="parts")
    expected = load_file(whole / "checkpoint-18" / "model.safetensors")
    for name, tensor in load_file(parts / "checkpoint-18" / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
    assert results_of(parts)["eval_loss"] == results_of(whole)["eval_loss"]


def test_seeds_are_runs_with_median_and_spread_and_a_series_can_be_resumed(finetune, files, capsys):
    folder = finetune(*files, "--seeds", 1, 2, 3)
    results = results_of(folder)
    summary = results["tasks"]["own"]
    runs = {f"seed_{seed}": results_of(folder / f"seed_{seed}") for seed in (1, 2, 3)}
    accuracies = sorted(run["eval_accuracy"] for run in runs.values())
    names = ("eval_accuracy_min", "eval_accuracy", "eval_accuracy_max")
    assert [summary[name] for name in names] == accuracies
    assert runs[summary["median_run"]]["eval_accuracy"] == summary["eval_accuracy"]
    assert len({run["eval_loss"] for run in runs.values()}) == 3
    assert AutoModelForSequenceClassification.from_pretrained(folder / summary["median_run"])
    assert not list(folder.rglob("checkpoint-*"))
    # Trackers tell the runs of a series apart by names that say which series it is.
    names = [yaml.safe_load((folder / run / "run.yaml").read_text())["settings"]["run_name"] for run in runs]
    assert names == [f"{folder.name}-{run}" for run in runs]
    low, median, high = (f"{100 * accuracy:.1f}" for accuracy in accuracies)
    table = (folder / "results.md").read_text()
    spread = f"{100 * statistics.stdev(accuracies):.1f}"
    assert f"| own | accuracy | {median} ({low} to {high}; {spread}) |" in table
    assert table.startswith("| task | score | validation | test | failed runs | examples | seconds |\n")
    assert "selection validation: the validation split chose the checkpoints" in table  # the test split is reported
    # A run of a series is the run that it would be alone.
    alone = results_of(finetune(*files, "--seed", 2, name="alone"))
    assert alone["eval_loss"] == runs["seed_2"]["eval_loss"]

    shutil.rmtree(folder / "seed_2")
    forget_the_end(folder)
    untouched = (folder / "seed_1" / "model.safetensors").stat().st_mtime_ns
    finetune(*files, "--seeds", 1, 2, 3, "--resume_from_checkpoint", "last")
    assert (folder / "seed_1" / "model.safetensors").stat().st_mtime_ns == untouched
    assert results_of(folder)["tasks"]["own"]["eval_loss"] == summary["eval_loss"]
    with pytest.raises(ValueError, match="holds another run"):
        finetune(*files, "--seeds", 1, 2)
    with pytest.raises(ValueError, match="but there are several runs. Set it to last"):
        finetune(*files, "--seeds", 1, 2, 3, "--resume_from_checkpoint", folder / "seed_1")


def test_a_series_that_is_killed_in_its_second_seed_goes_on_there_by_the_same_command(
    finetune, pretrained, files, tmp_path, capsys
):
    folder, options = tmp_path / "run", [*files, "--seeds", "1", "2", "--save_total_limit", "1"]
    whole = finetune(*options, name="whole")
    settings = ["--model_name_or_path", pretrained, *TINY, *options, "--output_dir", folder]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    script = [sys.executable, ROOT / "recipes" / "finetune_gpt1.py", *map(str, settings)]
    series = subprocess.Popen(script, stdout=subprocess.DEVNULL, env=environment)
    while not (folder / "seed_2" / "checkpoint-9").exists() and series.poll() is None:
        time.sleep(0.002)
    series.kill()
    assert series.wait() == -signal.SIGKILL
    untouched = (folder / "seed_1" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    finetune(*options)
    assert f"Resuming the run in {folder / 'seed_2'} from checkpoint-" in capsys.readouterr().out
    assert (folder / "seed_1" / "model.safetensors").stat().st_mtime_ns == untouched
    for seed in ("seed_1", "seed_2"):
        assert results_of(folder / seed)["eval_loss"] == results_of(whole / seed)["eval_loss"]
    finetune(*options)
    assert f"{folder} is finished: all its runs are done" in capsys.readouterr().out
    with pytest.raises(ValueError, match="num_train_epochs was 2.0, is 3.0"):  # nothing to resume from is kept
        finetune(*options, "--num_train_epochs", "3")


def test_a_seed_that_is_killed_before_its_card_is_not_finished(finetune, files, monkeypatch):
    options = [*files, "--seeds", "1", "2"]

    def die(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("papers_to_gpt.gpt1.finetuning.write_card", die)
        finetune(*options)
    folder = finetune(*options)
    assert all((folder / seed / "README.md").is_file() for seed in ("seed_1", "seed_2"))
    assert not list(folder.rglob("checkpoint-*"))


@pytest.mark.long
def test_two_processes_train_and_score_as_one_that_accumulates(tmp_path, pretrained, files):
    def start(name, *arguments, launcher=()):
        settings = ["--model_name_or_path", pretrained, *TINY, *files, "--output_dir", tmp_path / name, *arguments]
        settings += ["--classifier_dropout", 0, "--dropout", 0, "--per_device_eval_batch_size", 5]
        # Adam divides by the gradient's size: where that is rounding, an epsilon below it would make steps of noise.
        settings += ["--adam_epsilon", 1e-3, "--class_weights", tmp_path / "weights.tsv"]
        command = [sys.executable, *launcher, ROOT / "recipes" / "finetune_gpt1.py", *settings]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
        run = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, cwd=ROOT)
        assert run.returncode == 0, run.stdout + run.stderr
        return results_of(tmp_path / name), load_file(tmp_path / name / "model.safetensors")

    (tmp_path / "weights.tsv").write_text("good\t0.3\nbad\t4\n")
    # Batches of 9: eight an epoch, of which two processes have four each.
    one, one_weights = start(
        "one", "--per_device_train_batch_size", 9, "--gradient_accumulation_steps", 2, "--max_steps", 4
    )
    two, two_weights = start(
        "two",
        *("--per_device_train_batch_size", 9, "--max_steps", 4),
        launcher=("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"),
    )
    for name, tensor in one_weights.items():
        torch.testing.assert_close(tensor, two_weights[name], atol=2e-5, rtol=1e-3)
    # 23 validation rows over two processes: five batches, the last uneven.
    assert one["train_examples"] == two["train_examples"]
    assert (
        one["eval_accuracy"] == two["eval_accuracy"] and one["eval_confusion_matrix"] == two["eval_confusion_matrix"]
    )
    for name in ("eval_loss", "eval_weighted_loss"):
        assert one[name] == pytest.approx(two[name], rel=1e-4)
    assert rows_of(tmp_path / "one" / "test_predictions.tsv") == rows_of(tmp_path / "two" / "test_predictions.tsv")


def test_scores_are_those_of_the_saved_model_in_float32_for_any_batch_size(finetune, files, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        folders = [
            finetune(*files, "--bf16", "true", "--per_device_eval_batch_size", size, name=f"batch{size}")
            for size in (1, 23)
        ]
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    results = [results_of(folder) for folder in folders]
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], rel=1e-6)
    assert results[0]["eval_accuracy"] == results[1]["eval_accuracy"]
    model = AutoModelForSequenceClassification.from_pretrained(folders[0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    texts, labels = zip(*sentences(23, 2), strict=True)
    with torch.no_grad():
        logits = model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([int(label == "good") for label in labels]))
    assert results[0]["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)
