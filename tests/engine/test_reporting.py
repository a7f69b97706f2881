"""The files of a run: its record, its log, its results and its samples, whole after interruptions and full disks."""

import json
import logging
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator

from papers_to_gpt.engine.durable_files import WriteError
from papers_to_gpt.engine.reporting import (
    Reporter,
    add_samples,
    describe_machine,
    read_log,
    read_results,
    read_run_record,
    write_results,
    write_run_record,
)
from papers_to_gpt.settings.training import OptimizationSettings


@pytest.fixture
def report(tmp_path):
    def make(first_update=0):
        return Reporter(Accelerator(cpu=True), tmp_path, 10, first_update, project="test")

    return make


def updates(folder):
    """The updates in the log, read as a user's own tool would."""
    return [json.loads(line)["update"] for line in (folder / "train_log.jsonl").read_text().splitlines()]


def test_a_resumed_log_has_every_line_once_in_the_same_bytes(tmp_path, report):
    reporter = report()
    for update in range(1, 6):
        reporter.log(update, {"loss": update / 7, "text": "Füße"}, "train")
        reporter.log(update, {"bleu": 1}, "eval")
    before = (tmp_path / "train_log.jsonl").read_bytes().splitlines(keepends=True)
    reporter = report(first_update=3)
    assert (tmp_path / "train_log.jsonl").read_bytes() == b"".join(before[:6])
    reporter.log(4, {"loss": 1.0}, "train")
    assert updates(tmp_path) == [1, 1, 2, 2, 3, 3, 4]
    report()
    assert updates(tmp_path) == []


def test_an_evaluation_that_is_repeated_after_a_resume_has_one_line(tmp_path, report):
    reporter = report()
    for kind in ("train", "eval"):
        reporter.log(3, {"loss": 1.0}, kind)
    report(first_update=3).log(3, {"loss": 2.0}, "eval")
    assert [(line["kind"], line["loss"]) for line in read_log(tmp_path / "train_log.jsonl")] == [
        ("train", 1.0),
        ("eval", 2.0),
    ]


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_every_kind_of_device_has_a_name(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=1, mixed_precision="no")
    name = describe_machine(accelerator)["device"]
    assert name == "a GPU" if device == "cuda" else name.startswith("mps of ")


@pytest.mark.parametrize("end", [b'{"update": 3, "ki', b"\0" * 40, b'{"update"', b"\xff\xfe", b'{"update": 3}\n\0\0'])
def test_a_last_line_that_was_cut_is_dropped(tmp_path, report, end):
    whole = b'{"update": 1, "kind": "train"}\n{"update": 2, "kind": "train"}\n'
    (tmp_path / "train_log.jsonl").write_bytes(whole + end)
    report(first_update=2).log(3, {"loss": 1.0}, "train")
    assert updates(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("line", [b'{"upd', b"[]", b"{}", b'{"update": "2"}', b"\0\0", b"\xff"])
def test_a_damaged_line_before_the_last_is_named_with_its_number(tmp_path, report, line):
    log = tmp_path / "train_log.jsonl"
    log.write_bytes(b'{"update": 1}\n' + line + b'\n{"update": 3}\n')
    with pytest.raises(ValueError, match=r"train_log.jsonl, line 2 is damaged: .* Correct or remove the line"):
        report(first_update=3)
    assert log.read_bytes().splitlines()[1] == line
    report()  # a run that starts anew needs no line of it
    assert read_log(log) == []


def test_a_full_disk_leaves_whole_lines_in_the_log(tmp_path, report):
    reporter = report()
    reporter.log(1, {"loss": 1.0}, "train")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "train_log.jsonl").stat().st_size + 10, hard))
    try:
        with pytest.raises(WriteError, match="train_log.jsonl could not be written"):
            reporter.log(2, {"loss": 1.0}, "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert updates(tmp_path) == [1]


def test_flush_waits_for_the_disk(tmp_path, report, monkeypatch):
    reporter = report()
    reporter.log(1, {"loss": 1.0}, "train")
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    reporter.flush()
    assert flushed == [(tmp_path / "train_log.jsonl").stat().st_ino]


def test_a_record_that_is_written_anew_is_never_cut(tmp_path, monkeypatch):
    settings = (OptimizationSettings(learning_rate=0.5),)
    write_run_record(tmp_path, Accelerator(cpu=True), settings, parameters=3)
    record = read_run_record(tmp_path)
    assert record["settings"]["learning_rate"] == 0.5 and record["parameters"] == 3
    seen = []
    replace = os.replace

    def look(source, target):
        seen.append((yaml.safe_load(Path(source).read_text())["parameters"], read_run_record(tmp_path)["parameters"]))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    write_run_record(tmp_path, Accelerator(cpu=True), settings, parameters=4)
    assert seen == [(4, 3)]  # the new one was whole when the old one was still there


@pytest.mark.parametrize(
    "content", ["", "[1]", "text", "settings: [", "settings: 3", "a: 1", "\0\0", "!!python/object:os.system {}"]
)
def test_a_damaged_record_is_named(tmp_path, content):
    assert read_run_record(tmp_path) is None
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"run.yaml is damaged \(.+\), so .*\(--overwrite_output_dir true\)") as error:
        read_run_record(tmp_path)
    assert "\n" not in str(error.value)


def test_results_are_added_to_those_before(tmp_path):
    assert read_results(tmp_path) == {}
    write_results(tmp_path, {"a": 1, "b": 1})
    write_results(tmp_path, {"b": 2, "ü": "ß"})
    assert read_results(tmp_path) == {"a": 1, "b": 2, "ü": "ß"}
    assert [path.name for path in tmp_path.iterdir()] == ["all_results.json"]


@pytest.mark.parametrize("content", ["", '{"a": 1', "[]", "\0"])
def test_damaged_results_are_named_and_kept_beside_the_new_ones(tmp_path, content, caplog):
    (tmp_path / "all_results.json").write_text(content)
    with pytest.raises(ValueError, match="all_results.json is damaged"):
        read_results(tmp_path)
    with caplog.at_level(logging.WARNING):
        write_results(tmp_path, {"b": 2})
    assert "all_results.json is damaged" in caplog.text and "all_results.json.damaged" in caplog.text
    assert read_results(tmp_path) == {"b": 2}
    assert (tmp_path / "all_results.json.damaged").read_text() == content


def test_samples_of_an_evaluation_that_is_repeated_are_there_once(tmp_path):
    path = tmp_path / "samples.txt"
    path.write_text("of an earlier version\n\n----\n\n")
    samples = {update: f"sample {update}\n\nupdate 3\n==== update four ====\n\n----" for update in (2, 4, 6)}
    for update, text in samples.items():
        add_samples(path, update, text)
    add_samples(path, None, "final")
    whole = path.read_text()
    assert whole.startswith("of an earlier version")
    add_samples(path, 4, samples[4])  # resumed at 3
    assert "sample 2" in path.read_text() and not any(text in path.read_text() for text in ("sample 6", "final"))
    add_samples(path, 6, samples[6])
    add_samples(path, None, "final")
    add_samples(path, None, "final")
    assert path.read_text() == whole
