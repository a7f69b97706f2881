"""Which runs and reports of experiments are kept, and which are made again."""

import json
import math
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from papers_to_gpt.papers import reproduction, workbench
from papers_to_gpt.papers.experiment import Finding, Table, Verdict
from papers_to_gpt.papers.registry import EXPERIMENTS
from papers_to_gpt.papers.reproduction import run as reproduce
from papers_to_gpt.papers.translators import (
    ATTENTION,
    LSTM,
    MODELS,
    TRANSFORMER,
    run_of,
    scaled_widths,
    short_sentences,
)
from papers_to_gpt.papers.vaswani2017 import table_3
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.reproduce import parse


def bench_of(folder, *arguments, name="heads"):
    (settings,) = parse(["run", name, "--output_dir", str(folder), *arguments])
    return Workbench(settings, name)


def runs_asked_for(name, folder, monkeypatch):
    """Returns the runs that an experiment asks for first."""
    asked = []

    def make(bench, *runs, **options):
        asked.extend(runs)
        raise InterruptedError

    monkeypatch.setattr(Workbench, "make", make)
    with pytest.raises(InterruptedError):
        EXPERIMENTS[name].measure(bench_of(folder, "--trial", "true", name=name))
    return {run.name for run in asked}


def test_a_setting_of_the_preset_that_is_repeated_makes_no_other_run(tmp_path):
    bench = bench_of(tmp_path, "--trial", "true")
    for model in MODELS:
        plain = run_of(bench, model, 1)
        assert run_of(bench, model, 1, **scaled_widths(bench, model, 1.0)).name == plain.name
        assert run_of(bench, model, 1, **scaled_widths(bench, model, 0.5)).name != plain.name
    assert run_of(bench, LSTM, 1, reverse_source=True).name == run_of(bench, LSTM, 1).name
    assert run_of(bench, TRANSFORMER, 1, pre_norm=True, warmup_steps=100).name == run_of(bench, TRANSFORMER, 1).name


@pytest.mark.parametrize(
    ("experiment", "model", "changes"),
    [
        ("positions", TRANSFORMER, {}),
        ("positions", TRANSFORMER, table_3("small")["E: learned positions"]),
        ("variations", TRANSFORMER, {}),
        ("schedule", TRANSFORMER, {}),
        ("scaling", LSTM, {}),
        ("reversed_source", LSTM, {}),
        ("sentence_limits", ATTENTION, {}),
        ("sentence_limits", ATTENTION, {"use_attention": False}),
    ],
)
def test_experiments_share_the_runs_that_have_equal_settings(experiment, model, changes, tmp_path, monkeypatch):
    shared = run_of(bench_of(tmp_path, "--trial", "true"), model, 1, **changes)
    assert shared.name in runs_asked_for(experiment, tmp_path, monkeypatch)


def test_a_preset_that_changes_makes_another_run_unless_it_expects_other_numbers_alone(tmp_path):
    names = []
    for text in (
        "learning_rate: 0.01\ntask: [cola, sst2]\n",
        "# A comment.\noutput_dir: runs/mine\ntask: [cola, sst2]\nlearning_rate: 0.01\nexpected:\n  value: 3\n",
        "learning_rate: 0.02\ntask: [cola, sst2]\n",
    ):
        (tmp_path / "mine.yaml").write_text(text)
        names.append(Run("finetune_gpt1", str(tmp_path / "mine.yaml"), {"seed": 1}).name)
    assert names[0] == names[1] != names[2]
    assert all(re.fullmatch("mine_[0-9a-f]{10}", name) for name in names)
    assert Run("finetune_gpt1", str(tmp_path / "mine.yaml"), {"seed": 1, "learning_rate": 0.02}).name == names[2]


def test_packaged_presets_are_part_of_a_run_by_their_content(tmp_path, monkeypatch):
    run = Run("pretrain_gpt1", "stories/gpt1_mini", {"seed": 1})
    before, settings = run.name, workbench.read_preset("stories/gpt1_mini")
    monkeypatch.setattr(
        workbench, "read_preset", lambda name: [each for each in settings if each.key != "weight_decay"]
    )
    assert Run(run.script, run.preset, run.settings).name != before
    assert before.startswith("stories_gpt1_mini_")


def test_short_sentences_are_those_of_the_data_and_direction_that_are_asked_for(tmp_path):
    for name, last in (("one", "a b c d e f"), ("two", "a b c d e f g h i j k l")):
        pairs = [("a", "eins"), ("a b c d e", "eins zwei"), (last, "viele")]
        (tmp_path / f"{name}.tsv").write_text("\n".join("\t".join(pair) for pair in [("de", "en"), *pairs]) + "\n")

    def short(name, source, target):
        files = [f"--{split}_file={tmp_path / name}.tsv" for split in ("train", "validation", "test")]
        languages = ["--source_language", source, "--target_language", target]
        bench = bench_of(tmp_path / "out", "--scale", "multi30k", *files, *languages)
        (path,) = short_sentences(bench).values()
        assert short_sentences(bench) == {"train_file": path}
        return open(path, encoding="utf-8").read().splitlines()

    assert short("one", "de", "en") == ["de\ten", "a\teins"]
    assert short("two", "de", "en") == ["de\ten", "a\teins", "a b c d e\teins zwei"]
    assert short("one", "en", "de") == ["en\tde", "eins\ta", "viele\ta b c d e f"]


def record(command, log, env):
    """Stands in for a training: makes the folder and notes its threads."""
    folder = command[command.index("--output_dir") + 1]
    code = "import os, sys; os.makedirs(sys.argv[1], exist_ok=True)"
    with open(log, "a") as file:
        file.write(f"{env['OMP_NUM_THREADS']}\n")
    return subprocess.Popen([sys.executable, "-c", code, folder])


def test_a_run_is_made_and_listed_once_and_made_again_if_its_folder_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(workbench, "start_logged", record)
    bench = bench_of(tmp_path)
    run = Run("pretrain_gpt1", "stories/gpt1_mini", {"seed": 1})
    (folder,) = bench.make(run)
    bench.make(Run(run.script, run.preset, {"seed": 1, "weight_decay": 0.01}))  # as the preset has it
    assert len((tmp_path / "runs" / f"{run.name}.log").read_text().split()) == 1 and bench.runs == [run]
    folder.rmdir()
    bench.make(run)
    assert folder.is_dir() and len((tmp_path / "runs" / f"{run.name}.log").read_text().split()) == 2


@pytest.mark.parametrize(("arguments", "threads"), [([], "1"), (["--jobs", "2"], "2"), (["--jobs", "1"], "4")])
def test_a_run_has_the_same_threads_whether_others_are_made_beside_it_or_not(
    arguments, threads, tmp_path, monkeypatch
):
    monkeypatch.setattr(workbench, "start_logged", record)
    monkeypatch.setattr(workbench, "cpu_count", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    bench = bench_of(tmp_path, *arguments)
    runs = [Run("pretrain_gpt1", "stories/gpt1_mini", {"seed": seed}) for seed in range(4)]
    bench.make(runs[0])
    bench.make(*runs)
    assert {path.read_text().strip() for path in (tmp_path / "runs").glob("*.log")} == {threads}


def measured(monkeypatch, tmp_path, *arguments):
    """Runs an experiment that finds nothing, and returns whether it was measured."""
    calls = []

    def measure(bench):
        calls.append(bench)
        return Finding(method="", table=Table((), ()), verdict=Verdict(True, ""))

    experiment = SimpleNamespace(**vars(EXPERIMENTS["table_5"]) | {"measure": measure})
    experiment.judge = lambda verdict, scale: verdict
    monkeypatch.setattr(reproduction, "select", lambda names: [experiment])
    reproduce(parse(["run", "table_5", "--output_dir", str(tmp_path / "out"), *arguments]))
    return len(calls) == 1


def test_a_trial_does_not_replace_what_was_measured(tmp_path, monkeypatch, capsys):
    assert measured(monkeypatch, tmp_path, "--trial", "true")
    assert measured(monkeypatch, tmp_path)
    assert not measured(monkeypatch, tmp_path, "--trial", "true")
    assert not measured(monkeypatch, tmp_path, "--trial", "true", "--overwrite_output_dir", "true")
    assert "A trial does not replace it; try it in another --output_dir." in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "table_5" / "results.json").read_text())["trial"] is False
    assert measured(monkeypatch, tmp_path, "--seeds", "2")


def test_a_preset_of_fine_tuning_that_has_changed_is_measured_again(tmp_path, monkeypatch):
    preset = tmp_path / "mine.yaml"
    arguments = ["--scale", "glue", "--model_name_or_path", "m", "--finetuning_preset", str(preset)]
    preset.write_text("learning_rate: 0.01\n")
    assert measured(monkeypatch, tmp_path, *arguments)
    assert not measured(monkeypatch, tmp_path, *arguments)
    preset.write_text("learning_rate: 0.02\n")
    assert measured(monkeypatch, tmp_path, *arguments)


def test_a_run_that_diverges_is_a_result_where_that_is_asked_for_and_a_failure_elsewhere(tmp_path, capsys):
    bench = bench_of(tmp_path, "--trial", "true", "--jobs", "1")
    # Updates that leave no finite loss, and more of them than may be skipped in a row.
    monstrous = {"learning_rate": 1e30, "max_skipped_updates": 1, "bf16": False}
    run = run_of(bench, TRANSFORMER, 1, **monstrous)
    assert not bench.has_diverged(run)
    for _ in range(2):  # the second time it is kept
        bench.make(run, may_diverge=True)
    assert bench.has_diverged(run) and bench.losses([run]) == [math.inf]
    assert capsys.readouterr().out.count("Run 1 of 1") == 1
    with pytest.raises(ValueError, match="ended with status 2: 1 updates in a row were skipped"):
        bench.make(run)
    broken = run_of(bench, TRANSFORMER, 1, d_model=-1)
    with pytest.raises(ValueError, match="ended with status 2: .*d_model"):
        bench.make(broken, may_diverge=True)
