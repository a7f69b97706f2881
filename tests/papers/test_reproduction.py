"""The command that measures the papers, with trainings of two updates."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from papers_to_gpt.papers.registry import EXPERIMENTS
from papers_to_gpt.papers.reports import write_summary
from papers_to_gpt.papers.reproduction import run as reproduce
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.reproduce import parse


def test_three_experiments_run_share_their_models_and_are_not_measured_twice(tmp_path, capsys):
    names = ["reversed_source", "alignments", "gradients"]
    arguments = ["run", *names, "--trial", "true", "--jobs", "1", "--output_dir", str(tmp_path)]
    reproduce(parse(arguments))
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in names}
    assert all(found["verdict"] == "undecided" and found["rows"] for found in results.values())
    # Two LSTMs, one attention model and one Transformer for seven uses.
    assert len(list((tmp_path / "runs").glob("*.json"))) == 4
    assert sum(len(found["runs"]) for found in results.values()) == 6
    assert "Run 1 of 1: " in capsys.readouterr().out
    reproduce(parse(arguments))
    said = capsys.readouterr().out
    assert said.count("Measured before") == 3 and "Run 1" not in said
    summary = (tmp_path / "README.md").read_text()
    assert all(f"[{name}]({name}/report.md)" in summary for name in names)


def test_the_summary_names_results_that_are_damaged_and_has_all_others(tmp_path, capsys):
    whole = json.dumps({"verdict": "holds", "reason": "9 > 8.", "minutes": 1.0}).encode()
    texts = {"alignments": whole, "heads": b"[]", "positions": b'{"verdict": ', "depth": b"\xff", "schedule": b"{}"}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes(text)
    write_summary(tmp_path, list(EXPERIMENTS.values()))
    said = capsys.readouterr().out.splitlines()
    assert {line.rpartition(" have ")[2] for line in said} == {f"{name}. Run it again." for name in [*texts][1:]}
    assert (tmp_path / "README.md").read_text().count("/report.md)") == 1


@pytest.mark.parametrize("setting", ["output_dir", "pictures_dir"])
def test_a_file_in_place_of_a_folder_is_named_before_anything_is_trained(setting, tmp_path):
    (tmp_path / "file").write_text("mine")
    folders = {"output_dir": tmp_path / "out", setting: tmp_path / "file"}
    with pytest.raises(FileExistsError):
        reproduce(parse(["run", "heads", *(f"--{name}={folder}" for name, folder in folders.items())]))
    assert not list((tmp_path / "out").glob("*"))


def test_a_run_that_fails_names_its_command_and_its_last_line(tmp_path):
    (settings,) = parse(["run", "heads", "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match=r"train_translation.py .*ended with status 2: .*d_model.*Its output is in"):
        Workbench(settings, "heads").make(Run("train_translation", "numbers/transformer", {"d_model": -1}))


def test_ctrl_c_ends_the_trainings_too(tmp_path):
    command = [sys.executable, "-m", "papers_to_gpt", "reproduce", "run", "alignments", "--output_dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = None
    for _ in range(600):
        log = next(iter((tmp_path / "runs").glob("*.log")), None)
        if log is not None and log.read_text().strip():  # the training has begun
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in output
    name = log.stem
    assert not any(name in line for line in subprocess.check_output(["ps", "-eo", "args"], text=True).splitlines()), (
        os.linesep.join([output, log.read_text()])
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "action is not set. Usage: reproduce.py list"),
        (["measure"], "The action is 'measure'; it must be one of list, run"),
        (["run"], "nothing says which experiments to run"),
        (["list", "core"], "names is core, but list shows all experiments"),
        (["run", "all", "--scale", "multi30k", "--train_file", "t"], "needs validation_file and test_file"),
        (["run", "all", "--seeds", "1", "1"], "every seed may stand there once"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_trained(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        parse(arguments)
    with pytest.raises(ValueError, match="data_dir: there is no file or folder no/such"):
        reproduce(parse(["run", "all", "--scale", "glue", "--data_dir", "no/such"]))


def test_a_scale_that_no_experiment_has_names_those_that_have_it(tmp_path):
    (tmp_path / "t.tsv").write_text("de\ten\n")
    files = [f"--{name}_file={tmp_path / 't.tsv'}" for name in ("train", "validation", "test")]
    with pytest.raises(ValueError, match="None of these experiments has the scale multi30k.*reversed_source"):
        reproduce(parse(["run", "long_range", "--scale", "multi30k", *files, "--output_dir", str(tmp_path)]))
