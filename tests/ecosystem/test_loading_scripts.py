"""Data sets that only a Python script of their own can read, which the datasets library refuses."""

import datasets
import pytest

import gpt1_scratch.data.hub_data
import seq2seq_scratch.data.hub_data
from seq2seq_scratch.data.corpora import load_parallel_data


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


@pytest.mark.parametrize("module", [gpt1_scratch.data.hub_data, seq2seq_scratch.data.hub_data])
def test_only_the_librarys_refusal_is_turned_into_advice(module, scripted):
    with pytest.raises(ValueError, match="refs/convert/parquet"), module.refusing_scripts("someone/texts"):
        datasets.get_dataset_config_names(scripted)
    with pytest.raises(RuntimeError, match="out of memory"), module.refusing_scripts("someone/texts"):
        raise RuntimeError("out of memory")
