"""Data sets that only a Python script of their own can read, which the datasets library refuses."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

import gpt1_scratch.data.hub_data
import seq2seq_scratch.data.hub_data
from gpt1_scratch.finetuning.loading import load_task
from gpt1_scratch.finetuning.tasks import TASKS
from seq2seq_scratch.data.corpora import load_parallel_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripted(tmp_path):
    """A data set with a script; returns its folder."""
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("raise SystemExit('this must not run')\n")
    return str(folder)


def test_pairs_that_a_script_reads_are_refused_with_what_to_do(scripted):
    with pytest.raises(ValueError, match="scripted', which is read by a Python script of its own"):
        load_parallel_data(dataset_name=scripted, source_language="de", target_language="en")


def test_a_task_whose_data_set_has_become_a_script_says_how_to_give_the_data(scripted, monkeypatch):
    monkeypatch.setitem(TASKS, "cola", replace(TASKS["cola"], hub=(scripted, "cola")))
    with pytest.raises(ValueError, match="of the task cola is .*scripted', which .* Give the data with data_dir"):
        load_task("cola")


def test_texts_that_a_script_reads_are_refused_with_what_to_do(hub, tmp_path):
    hub.add("datasets/reader/scripted", {"scripted.py": b"raise SystemExit('this must not run')\n"})
    command = [sys.executable, str(ROOT / "recipes" / "pretrain_gpt1.py"), "--dataset_name", "reader/scripted"]
    # In a process of its own: the libraries read the Hub's address when they are imported.
    ended = subprocess.run(
        [*command, "--max_steps", "1", "--output_dir", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 2, ended.stderr
    assert "error: dataset_name is 'reader/scripted', which is read by a Python script of its own" in ended.stderr


@pytest.mark.parametrize("module", [gpt1_scratch.data.hub_data, seq2seq_scratch.data.hub_data])
def test_only_the_librarys_refusal_is_turned_into_advice(module, scripted):
    with pytest.raises(ValueError, match="refs/convert/parquet"), module.refusing_scripts("someone/texts"):
        datasets.get_dataset_config_names(scripted)
    with pytest.raises(RuntimeError, match="out of memory"), module.refusing_scripts("someone/texts"):
        raise RuntimeError("out of memory")
