"""What a start finds in an output folder, what it compares, and what an overwriting removes."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
from accelerate import Accelerator
from datasets import Dataset

from papers_to_gpt.engine.checkpointing import Progress
from papers_to_gpt.engine.data_fingerprint import fingerprint_files, fingerprint_rows
from papers_to_gpt.engine.output_folder import checkpoint_to_resume, finish_run, is_finished, plan_run, remove_run
from papers_to_gpt.engine.reporting import write_run_record
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings
from papers_to_gpt.settings.translation import BahdanauSettings


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True, mixed_precision="no")


@pytest.fixture
def training(tmp_path):
    return TrainingSettings(output_dir=str(tmp_path / "run"), max_steps=4, bf16=False)


@pytest.fixture
def finished_run(accelerator, training, tmp_path):
    """The record of a run of four updates that has ended, and a model."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    start = plan_run(accelerator, training, (training, OptimizationSettings()))
    write_run_record(folder, accelerator, (training, OptimizationSettings()), **start.record())
    finish_run(folder, Progress(update=4, epoch=1, elapsed_seconds=30.0, evaluations_without_improvement=1), 4)
    return folder


def plan(accelerator, training, **changes):
    settings = replace(training, **changes)
    return plan_run(accelerator, settings, (settings, OptimizationSettings()))


def test_a_folder_without_a_run_is_started_in_and_keeps_its_files(accelerator, training, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.md").write_text("mine")
    start = plan(accelerator, training)
    assert start.finished is None and start.training.resume_from_checkpoint is None
    start.begin()
    assert (tmp_path / "run" / "notes.md").read_text() == "mine"


def test_a_checkpoint_that_is_no_folder_is_refused_at_the_start_and_by_the_loop(accelerator, training, finished_run):
    named = {"resume_from_checkpoint": "nowhere"}
    with pytest.raises(ValueError, match="from_checkpoint is 'nowhere', which is not a folder. Name one, or last"):
        plan(accelerator, training, max_steps=8, **named)
    with pytest.raises(ValueError, match="from_checkpoint is 'nowhere', which is not a folder. Name one, or last"):
        checkpoint_to_resume(replace(training, **named), None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "has 4 of 4 updates; raise max_steps to continue"),
        ({"early_stopping_patience": 1}, "stopped after 1 evaluation without a better score; raise early_stopping"),
        ({"max_train_minutes": 0.4}, "has used up its 0.4 minutes; raise max_train_minutes"),
        ({"max_steps": 8, "max_train_minutes": 0.4}, "has used up its 0.4 minutes"),
        ({"max_steps": None, "num_train_epochs": 1}, "raise num_train_epochs"),
        ({"logging_steps": 7}, "has 4 of 4 updates"),
    ],
)
def test_a_finished_run_says_what_to_raise(accelerator, training, finished_run, capsys, changes, expected):
    assert expected in plan(accelerator, training, **changes).finished
    assert capsys.readouterr().out.startswith(f"{finished_run} is finished: the run has 4 of 4 updates")


def test_a_finished_run_with_more_updates_than_asked_for_is_refused(accelerator, training, finished_run):
    with pytest.raises(ValueError, match=r"has 4 updates, more than 2 \(max_steps\)"):
        plan(accelerator, training, max_steps=2)


@pytest.mark.parametrize("changes", [{"max_steps": 8}, {"average_last_checkpoints": 1}])
def test_a_trained_model_is_not_replaced_because_its_checkpoints_are_gone(
    accelerator, training, finished_run, changes
):
    with pytest.raises(ValueError, match="whose checkpoints were removed"):
        plan(accelerator, training, **changes)


def test_changes_are_named_with_what_restores_and_what_accepts_them(accelerator, training, finished_run):
    with pytest.raises(ValueError, match="cannot continue with other settings") as raised:
        plan(accelerator, training, seed=7, max_steps=8)
    message = str(raised.value)
    assert "seed was 42, is 7" in message and "max_steps" not in message
    assert "Restore it (--seed 42), accept the change (--accept_changes true)" in message
    assert plan(accelerator, training, seed=7, accept_changes=True).finished


def test_another_optimizer_cannot_be_accepted(accelerator, training, finished_run):
    settings = replace(training, max_steps=8, accept_changes=True)
    with pytest.raises(ValueError, match="optim was 'adamw', is 'muon'") as raised:
        plan_run(accelerator, settings, (settings, OptimizationSettings(optim="muon")))
    assert "accept_changes" not in str(raised.value)


def test_another_size_of_the_model_cannot_be_accepted_but_another_dropout_can(accelerator, training, finished_run):
    settings = replace(training, accept_changes=True)
    with pytest.raises(ValueError, match="hidden_size was 1000, is 100") as raised:
        plan_run(accelerator, settings, (settings, BahdanauSettings(hidden_size=100)))
    assert "accept_changes" not in str(raised.value)
    assert plan_run(accelerator, settings, (settings, BahdanauSettings(readout_dropout=0.3))).finished


def test_the_precision_that_a_setting_comes_to_is_compared(training, finished_run, accelerator):
    accelerator.state._mixed_precision = "bf16"
    try:
        with pytest.raises(ValueError, match=r"the precision was fp32, is bf16. Restore it \(--bf16 false\)"):
            plan(accelerator, training, bf16=None)
    finally:
        accelerator.state._mixed_precision = "no"
    assert plan(accelerator, training, bf16=None).finished  # what was computed in is the same


def test_data_is_compared_unless_the_check_is_skipped(accelerator, training, tmp_path):
    settings = (training, OptimizationSettings())
    file = tmp_path / "train.txt"

    def fingerprints():
        return {"train_file": fingerprint_files(str(file))}

    file.write_text("line\n" * 1200)
    start = plan_run(accelerator, training, settings, fingerprints)
    (tmp_path / "run").mkdir()
    write_run_record(tmp_path / "run", accelerator, settings, **start.record())
    finish_run(tmp_path / "run", Progress(update=4), 4)
    file.write_text("line\n" * 700)
    with pytest.raises(ValueError, match=r"other data: train_file had 1,200 rows, .* has 700 rows, .*accept_changes"):
        plan_run(accelerator, training, settings, fingerprints)
    for name in ("skip_data_check", "accept_changes"):
        changed = replace(training, **{name: True})
        assert plan_run(accelerator, changed, (changed, OptimizationSettings()), fingerprints).finished


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(accelerator, training, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    write_run_record(folder, accelerator, (training, OptimizationSettings()))
    for name in ("tokenizer.json", "train_log.jsonl", "notes.md"):
        (folder / name).write_text("{}")
    start = plan(accelerator, training, seed=7)
    assert start.replaces and "had no checkpoint yet: it starts anew" in capsys.readouterr().out
    start.begin()
    assert [path.name for path in folder.iterdir()] == ["notes.md"]


def test_what_slurm_requeues_does_not_overwrite_its_own_work(accelerator, training, tmp_path, monkeypatch):
    def overwrites():
        return plan(accelerator, training, overwrite_output_dir=True).replaces

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    settings, folder = (training, OptimizationSettings()), tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    write_run_record(folder, accelerator, settings, **plan(accelerator, training).record())
    finish_run(folder, Progress(update=4, epoch=1), 4)
    assert overwrites()  # the same command twice in one job
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not overwrites()
    monkeypatch.setenv("SLURM_JOB_ID", "8")  # a run that the requeued job has not yet replaced
    assert overwrites()
    monkeypatch.delenv("SLURM_JOB_ID")
    assert overwrites()


def test_what_torchrun_restarts_does_not_overwrite_its_own_work(accelerator, training, finished_run, monkeypatch):
    assert plan(accelerator, training, overwrite_output_dir=True).replaces
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    start = plan(accelerator, training, overwrite_output_dir=True)
    assert start.finished and not start.replaces


def test_what_is_cut_short_of_a_record_does_not_lock_a_user_out(accelerator, training, tmp_path):
    (tmp_path / "run").mkdir()
    for content in ("", "settings:\n  seed: [4", "settings"):
        (tmp_path / "run" / "run.yaml").write_text(content)
        assert plan(accelerator, training).finished is None
        assert plan(accelerator, training, overwrite_output_dir=True).finished is None


def test_overwriting_removes_the_run_and_nothing_of_the_user(finished_run, tmp_path):
    written = ["config.json", "tokenizer.json", "train_log.jsonl", "all_results.json", "README.md", "samples.txt"]
    for name in (*written, "test_hypotheses.txt", "helper.py", "notes.md"):
        (finished_run / name).write_text("{}")
    for name in ("checkpoint-4", "target_tokenizer", "my_data"):
        (finished_run / name).mkdir()
    (finished_run / "config.json").write_text('{"auto_map": {"AutoModel": "modeling_mine.Mine"}}')
    (finished_run / "modeling_mine.py").write_text("from .dropout_of_mine import dropout")
    (finished_run / "dropout_of_mine.py").write_text("dropout = 0")
    # The runs of a series say so; any other run in the folder is not this one's.
    for name in ("seed_1", "other"):
        shutil.copytree(finished_run, tmp_path / name)
        shutil.move(tmp_path / name, finished_run / name)
    record = (finished_run / "seed_1" / "run.yaml").read_text()
    (finished_run / "seed_1" / "run.yaml").write_text(record + "in_series: true\n")
    (finished_run / "seed_1" / "notes.md").unlink()
    (finished_run / "seed_1" / "helper.py").unlink()
    (finished_run / "seed_1" / "my_data").rmdir()
    remove_run(finished_run)
    assert {path.name for path in finished_run.iterdir()} == {"helper.py", "notes.md", "my_data", "other"}
    assert is_finished(finished_run / "other")


def test_a_fingerprint_tells_the_ends_and_the_size_of_a_file_and_not_its_name(tmp_path):
    file, copy = tmp_path / "train.txt", tmp_path / "copy.txt"
    file.write_bytes(b"line\n" * 100_000)
    fingerprint = partial(fingerprint_files, str(file))
    before = fingerprint()
    assert before.startswith("100,000 rows, 500,000 bytes, hash ")
    shutil.copy(file, copy)
    assert fingerprint_files(str(copy)) == before
    for offset in (0, 499_998):
        changed = bytearray(copy.read_bytes())
        changed[offset] ^= 1
        file.write_bytes(changed)
        assert fingerprint() != before
    file.write_bytes(copy.read_bytes() + b"line\n")
    assert fingerprint() != before


def test_a_fingerprint_of_aligned_files_counts_their_rows_once(tmp_path):
    for language in ("en", "de"):
        (tmp_path / f"train.{language}").write_text("line\n" * 12)
    prefix = str(tmp_path / "train")
    assert fingerprint_files(prefix, endings=("en", "de")).startswith("12 rows, 2 files, 120 bytes")
    assert fingerprint_files(prefix) is None and fingerprint_files("user/name") is None
    assert fingerprint_files(str(tmp_path)).startswith("24 rows, 2 files")
    assert fingerprint_files(str(tmp_path), within=["*.de"]).startswith("12 rows, 60 bytes")


def test_loaded_rows_have_a_fingerprint_that_other_libraries_do_not_change():
    rows = {"text": [f"row {index}" for index in range(100)]}
    fingerprint = fingerprint_rows({"train": Dataset.from_dict(rows)})
    assert fingerprint.startswith("100 rows, hash ")
    assert fingerprint == fingerprint_rows({"train": Dataset.from_list(Dataset.from_dict(rows).to_list())})
    assert fingerprint != fingerprint_rows({"train": Dataset.from_dict(rows).select(range(99))})
