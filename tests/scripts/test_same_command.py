"""One command starts a run, continues with it after any end, and leaves a finished run as it is."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from papers_to_gpt import train_translation, translate

ROOT = Path(__file__).parents[2]
TINY = """--model_type bahdanau --embedding_size 8 --hidden_size 12 --attention_size 8 --maxout_size 6 --vocab_size 290
    --max_steps 12 --eval_steps 4 --logging_steps 2 --num_beams 1 --max_new_tokens 8 --bf16 false
    --max_tokens_per_batch 100 --readout_dropout 0.2 --learning_rate 1e-3 --save_total_limit 0""".split()
LONG = ("--max_steps", "1000000", "--eval_steps", "1000000")


@pytest.fixture
def data(tmp_path):
    """Line-aligned files; the folder is the test's own, so that they may be changed."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 1200), ("validation", 8)):
        lines = [f"word{index % 7} and word{index % 5}" for index in range(count)]
        (folder / f"{split}.en").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.de").write_text("\n".join(line.replace("and", "und") for line in lines) + "\n")
    return folder


@pytest.fixture
def command(tmp_path, data):
    def make(*arguments, name="run"):
        files = [f"--{split}_file={data / split}" for split in ("train", "validation")]
        return [*TINY, *files, "--output_dir", str(tmp_path / name), *arguments]

    return make


@pytest.fixture
def train(command, monkeypatch):
    """The script in this process."""

    def start(*arguments, name="run"):
        monkeypatch.setattr(sys, "argv", ["train_translation.py", *command(*arguments, name=name)])
        train_translation.main()

    return start


@pytest.fixture
def train_and_stop(command):
    """The script in a process of its own, which gets a signal once something holds; gives its status and messages."""

    def start(holds, *arguments, number=signal.SIGKILL, name="run"):
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
        script = [sys.executable, ROOT / "recipes" / "train_translation.py", *command(*arguments, name=name)]
        process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        last = time.monotonic() + 120
        while not (reached := holds()) and process.poll() is None and time.monotonic() < last:
            time.sleep(0.01)
        process.send_signal(number)
        try:
            output, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        assert reached, output + errors
        return process.returncode, errors

    return start


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_killed_run_goes_on_by_the_same_command_and_equals_one_that_was_not_killed(
    train, train_and_stop, tmp_path, capsys
):
    train("--max_steps", "1", name="tokenizer")
    known = ("--tokenizer_name", str(tmp_path / "tokenizer"))  # learned twice it may differ
    train(*known, name="whole")
    folder = tmp_path / "run"
    status, _ = train_and_stop((folder / "checkpoint-4").exists, *known)
    assert status == -signal.SIGKILL
    capsys.readouterr()
    train(*known)
    assert f"Resuming the run in {folder} from checkpoint-" in capsys.readouterr().out
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [line["update"] for line in lines if line["kind"] == "eval"] == [4, 8, 12]
    assert not list(folder.glob(".run.lock*"))


def test_a_finished_run_is_left_as_it_is_and_goes_on_if_there_are_more_updates(train, tmp_path, capsys):
    train()
    before = files_of(tmp_path / "run")
    for arguments in ((), ("--resume_from_checkpoint", "last")):
        capsys.readouterr()
        train(*arguments)
        assert "is finished: the run has 12 of 12 updates; raise max_steps" in capsys.readouterr().out
        with pytest.raises(ValueError, match=r"has 12 updates, more than 8 \(max_steps\)"):
            train("--max_steps", "8", *arguments)
    assert files_of(tmp_path / "run") == before
    train("--max_steps", "16")
    assert "The schedule is now for 16 updates; it was for 12 updates." in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["train_updates"] == 16


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(train, train_and_stop, tmp_path, capsys):
    train_and_stop((tmp_path / "run" / "run.yaml").exists, *LONG)
    train()
    assert "had no checkpoint yet: it starts anew" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["train_updates"] == 12


def test_a_start_that_was_killed_after_its_tokenizer_starts_anew(train, train_and_stop, tmp_path):
    train_and_stop((tmp_path / "run" / "tokenizer.json").exists, *LONG)
    (tmp_path / "run" / "run.yaml").unlink(missing_ok=True)
    train("--share_vocabulary", "false")
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["train_updates"] == 12


def test_a_record_that_is_cut_leads_into_no_circle(train, train_and_stop, tmp_path, capsys):
    train_and_stop((tmp_path / "run" / "checkpoint-4").exists)
    record = tmp_path / "run" / "run.yaml"
    for content in (record.read_text()[:40], ""):
        record.write_text(content)
        train("--resume_from_checkpoint", "last")
        assert "no readable run.yaml: settings are not compared" in capsys.readouterr().out
    assert "finished" in yaml.safe_load(record.read_text())


def test_a_stopped_run_says_how_to_resume_also_before_its_first_update(train_and_stop, tmp_path):
    for number, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        lock = tmp_path / f"run{expected}" / ".run.lock"
        status, errors = train_and_stop(lock.exists, *LONG, number=number, name=f"run{expected}")
        assert status == expected
        assert len(errors.splitlines()) == 1 and "same command" in errors


def test_of_two_runs_in_a_folder_the_second_stops_at_once(train, command, tmp_path):
    script = [sys.executable, ROOT / "recipes" / "train_translation.py", *command(*LONG)]
    first = subprocess.Popen(script, stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "run" / "run.yaml").exists() and first.poll() is None:
            time.sleep(0.05)
        with pytest.raises(ValueError, match=f"holds another run, .*process {first.pid} on {socket.gethostname()}"):
            train("--overwrite_output_dir", "true")
    finally:
        first.kill()
        first.wait()
    train("--overwrite_output_dir", "true")  # a dead run does not keep the folder


def test_data_that_has_changed_is_refused_by_name(train, train_and_stop, data, tmp_path, capsys):
    train_and_stop((tmp_path / "run" / "checkpoint-4").exists)
    moved = shutil.copytree(data, tmp_path / "moved")
    for file in data.glob("train.*"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:700]))
    with pytest.raises(ValueError, match=r"train_file had 1,200 rows, .* has 700 rows, .*--accept_changes true"):
        train()
    capsys.readouterr()
    train("--train_file", str(moved / "train"))
    assert f"train_file was {data / 'train'}, is {moved / 'train'}" in capsys.readouterr().out
    train("--max_steps", "14", "--skip_data_check", "true", "--train_file", str(moved / "train"))
    train("--max_steps", "16", "--accept_changes", "true")
    assert "Accepted changes: train_file had 1,200 rows" in capsys.readouterr().out
    with pytest.raises(ValueError, match="has 16 updates, more than 12"):  # what was accepted is not asked again
        train()


def test_another_precision_is_refused_by_name(train, train_and_stop, tmp_path):
    train_and_stop((tmp_path / "run" / "checkpoint-4").exists)
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(ValueError, match=r"the precision was fp32, is bf16. Restore it \(--bf16 false\)"):
        train("--bf16", "true")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_an_interrupted_overwriting_leaves_no_weights(train, train_and_stop, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train()
    (folder / "notes.md").write_text("mine")
    old, replacing = files_of(folder), (*LONG, "--overwrite_output_dir", "true", "--seed", "7")
    train_and_stop((folder / ".run.lock").exists, *replacing)  # before anything is written
    (folder / ".run.lock").unlink()
    assert files_of(folder) == old

    train_and_stop(lambda: "seed: 7" in read(folder / "run.yaml"), *replacing)
    assert (folder / "notes.md").read_text() == "mine" and (folder / "tokenizer.json").is_file()
    assert not list(folder.rglob("*.safetensors"))
    monkeypatch.setattr(sys, "argv", ["translate.py", "--model_name_or_path", str(folder)])
    with pytest.raises(ValueError, match="it holds no weights"):
        translate.main()
    train("--seed", "7")
    assert json.loads((folder / "all_results.json").read_text())["train_updates"] == 12


def read(file):
    return file.read_text() if file.is_file() else ""


def test_a_run_without_data_leaves_no_folder(train, data, tmp_path):
    (data / "train.de").unlink()
    with pytest.raises(ValueError, match=r"train\.de"):
        train()
    assert not (tmp_path / "run").exists()
