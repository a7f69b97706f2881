"""The script that compares two revisions: two commits of a small repository, and what is said of their runs."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from papers_to_gpt.benchmarks import revisions
from papers_to_gpt.benchmarks.compare import parse
from papers_to_gpt.benchmarks.revisions import (
    Measurement,
    compare_bits,
    format_curves,
    format_speed,
    hash_weights,
    run,
)

ROOT = Path(__file__).parents[2]
PRESET = """
output_dir: unused
train_file: {folder}/text.txt
validation_file: {folder}/text.txt
row_is_line: true
hidden_size: 16
num_hidden_layers: 1
num_attention_heads: 2
max_position_embeddings: 32
num_merges: 20
learning_rate: 1e-3
bf16: false
max_steps: 100
"""
NAMES = ["A (main, c0ffee)", "B (HEAD, decade)"]
CURVE = [(3.0, 1.0), (2.0, 0.5), (1.5, 0.5)]
MEASURED = Measurement(CURVE, {"weight": "00", "bias": "11"}, 100.0, 0.5)


def nan_after(loss):
    """A measurement whose last loss is NaN, by a float of its own as in a log that was read."""
    return replace(MEASURED, curve=[(3.0, 1.0), (loss, 0.5), (float("nan"), float("nan"))])


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with this code and two commits; the second has another learning rate in the preset `tiny/gpt`."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("recipes", "gpt1_scratch", "seq2seq_scratch"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "text.txt").write_text("".join(f"the {noun} was good\n" for noun in ("kite", "lamp", "mill")) * 40)
    preset = folder / "recipes" / "presets" / "tiny" / "gpt.yaml"
    preset.parent.mkdir()
    git(folder, "init", "-b", "main")
    for text in (PRESET, PRESET.replace("1e-3", "1e-1")):
        preset.write_text(text.format(folder=folder))
        git(folder, "add", ".")
        git(folder, "commit", "-m", "a commit")
    return folder


def test_two_commits_train_in_turns_and_the_first_update_that_differs_is_named(repository, tmp_path, capsys):
    arguments = ["HEAD~1", "HEAD", "--repository", str(repository), "--preset", "tiny/gpt"]
    arguments += ["--rounds", "1", "--updates", "3", "--warm_up_updates", "1"]
    run(*parse([*arguments, "--output_file", str(tmp_path / "runs.json")]))
    said = capsys.readouterr().out
    assert "Note: the preset tiny/gpt is not the same text in both. Each trains its own." in said
    # The first update starts from the same weights and reads the same batch.
    assert "The first update that differs is update 2: its loss is " in said
    assert "round 1 of 1: B (HEAD, " in said and "memory, GB" in said
    runs = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert [len(each["curve"]) for measured in runs.values() for each in measured] == [3, 3]
    assert all(0.1 < each["memory_gb"] < 10 and each["rate"] > 0 for measured in runs.values() for each in measured)
    assert git(repository, "worktree", "list").count("\n") == 0  # both are removed
    assert git(repository, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["HEAD", "nowhere"], "There is no revision 'nowhere' in .* git log --oneline lists the commits"),
        (["HEAD", "--help-me"], "unknown setting 'help_me'"),
        (["HEAD"], "revisions is HEAD; it must be two of them. Usage: compare.py REV_A REV_B"),
        (
            ["HEAD", "HEAD", "--preset", "tiny/gtp"],
            "The revision 'HEAD' has no preset 'tiny/gtp': there is no recipes/",
        ),
        (["HEAD", "HEAD", "--updates", "5"], "warm_up_updates is 5, and updates 5: no update is left to measure"),
        (
            ["HEAD", "HEAD", "--arguments", "--max_steps 3"],
            "Write it behind an equals sign: --arguments='--max_steps 3'",
        ),
        (["HEAD", "HEAD", "--arguments", "max_steps 3"], "it must be a list of --setting value"),
        (["HEAD", "HEAD", "--arguments=--run_name 'a"], "in which a quotation mark is not closed"),
        (["HEAD", "HEAD", "--output_file", "no/runs.json"], "no/runs.json, but there is no folder no. Make it, or"),
        (
            ["HEAD", "HEAD", "--preset", "tiny/gpt", "--arguments=--hidden_size 15"],
            r"The run of A \(HEAD, .*\) ended with status 2: gpt1: ",
        ),
    ],
)
def test_a_wrong_request_is_explained_and_leaves_no_worktree(repository, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(*parse([*arguments, "--repository", str(repository)]))
    assert git(repository, "worktree", "list").count("\n") == 0


def test_a_folder_without_git_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "no"):
        with pytest.raises(ValueError, match=f"repository {folder} is no git checkout"):
            run(*parse(["a", "b", "--repository", str(folder)]))


def test_a_preset_that_only_one_revision_has_is_named_with_the_revision(repository):
    (repository / "recipes" / "presets" / "tiny" / "new.yaml").write_text("max_steps: 1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "a preset")
    with pytest.raises(ValueError, match="The revision 'HEAD~1' has no preset 'tiny/new'"):
        run(*parse(["HEAD", "HEAD~1", "--repository", str(repository), "--preset", "tiny/new"]))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (MEASURED, "Equal bits: losses and norms of the gradient of all 3 updates, and the weights after them."),
        (
            replace(MEASURED, weights={"weight": "00", "bias": "12"}),
            "updates, to six digits, but 1 of 2 weights differ in bits after them.",
        ),
        (replace(MEASURED, weights={"w": "00"}), "the weights have other names, so their bits were not compared."),
        (
            replace(MEASURED, curve=[CURVE[0], (2.5, 0.5), CURVE[2]]),
            "The first update that differs is update 2: its loss is 2 and 2.5.",
        ),
        (
            replace(MEASURED, curve=[*CURVE[:2], (1.5, 0.6)]),
            "The first update that differs is update 3: its norm of the gradient is 0.5 and 0.6.",
        ),
    ],
)
def test_what_is_said_of_bits(other, says):
    assert compare_bits(NAMES, [MEASURED, MEASURED], [other, other]).endswith(says)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (2.0, "Equal bits: losses and norms of the gradient of all 3 updates, and the weights after them."),
        (2.5, "The first update that differs is update 2: its loss is 2 and 2.5."),
        (float("nan"), "The first update that differs is update 2: its loss is 2 and nan."),
    ],
)
def test_losses_that_are_nan_in_both_are_equal(loss, says):
    assert compare_bits(NAMES, [nan_after(2.0), nan_after(2.0)], [nan_after(loss), nan_after(loss)]).endswith(says)
    table = format_curves(NAMES, nan_after(2.0).curve, nan_after(loss).curve)
    assert table.splitlines()[-1].split() == ["3", "nan", "nan"]


def test_runs_that_differ_from_themselves_are_not_compared():
    other = replace(MEASURED, curve=[CURVE[0], CURVE[1], (9.0, 0.5)])
    text = compare_bits(NAMES, [MEASURED, MEASURED], [MEASURED, other])
    assert text.startswith("Two runs of B (HEAD, decade) differ from each other from update 3 on")


def test_the_tables_have_the_curves_and_the_medians_with_their_spread():
    (settings,) = parse(["a", "b"])
    curve = format_curves(NAMES, CURVE, [CURVE[0], (2.5, 0.5), CURVE[2]]).splitlines()
    assert (
        curve[:2] == NAMES and curve[4].split() == ["2", "2", "2.5", "0.5"] and curve[5].split() == ["3", "1.5", "1.5"]
    )
    first = [replace(MEASURED, rate=rate) for rate in (100.0, 110.0, 90.0)]
    second = [replace(MEASURED, rate=rate, memory_gb=0.6) for rate in (50.0, 55.0, 45.0)]
    text = format_speed(NAMES, first, second, settings)
    assert "100.0 (90.0 to 110.0)" in text and "50.0 (45.0 to 55.0)" in text and " 0.500\n" in text
    assert "0.50 (0.50 to 0.50)" in text and " 1.200\n" in text


def test_weights_are_compared_by_their_bytes(tmp_path):
    values = np.array([1.0, 2.0], dtype=np.float32)
    hashes = []
    for number, second in enumerate((values, values.copy(), np.nextafter(values, np.float32(9)))):
        save_file({"one": values, "two": second}, tmp_path / f"{number}.safetensors")
        hashes.append(hash_weights(tmp_path / f"{number}.safetensors"))
    assert hashes[0] == hashes[1] and hashes[0]["one"] == hashes[2]["one"] and hashes[0]["two"] != hashes[2]["two"]


def test_the_script_explains_itself_without_heavy_imports():
    command = [sys.executable, str(ROOT / "recipes" / "benchmarks" / "compare.py"), "--help"]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert "Trains a preset from two revisions in turns" in result.stdout and "--warm_up_updates" in result.stdout


def test_a_setting_that_an_older_revision_lacks_is_left_out_of_both_and_named(repository, capsys):
    git(repository, "checkout", "-b", "older")
    for path in (repository / "recipes").rglob("*.py"):
        path.write_text(path.read_text(encoding="utf-8").replace("max_eval_blocks", "eval_blocks"), encoding="utf-8")
    git(repository, "commit", "-a", "-m", "a revision without max_eval_blocks")
    git(repository, "checkout", "main")
    arguments = ["older", "main", "--repository", str(repository), "--preset", "tiny/gpt", "--rounds", "1"]
    run(*parse([*arguments, "--updates", "2", "--warm_up_updates", "0"]))
    said = capsys.readouterr().out
    assert re.search(r"Note: A \(older, \w+\) has no setting max_eval_blocks\. Both run without it\.", said)
    assert "Equal bits: losses" in said or "The first update that differs" in said


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, ValueError])
def test_checkouts_that_are_interrupted_leave_no_worktree(repository, monkeypatch, ended_by):
    plain = revisions._git

    def interrupted(repository, *arguments):
        done = plain(repository, *arguments)
        if arguments[:2] == ("worktree", "add") and arguments[3].endswith("B"):
            raise ended_by("as it was added")
        if arguments[:2] == ("worktree", "remove") and arguments[3].endswith("A"):
            raise ValueError("git worktree failed")
        return done

    monkeypatch.setattr(revisions, "_git", interrupted)
    with pytest.raises(ended_by, match="as it was added"):
        run(*parse(["HEAD", "HEAD", "--repository", str(repository), "--preset", "tiny/gpt"]))
    assert git(repository, "worktree", "list").count("\n") == 0
