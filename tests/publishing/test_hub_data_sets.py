"""Data sets of the Hub: read as a stream, out of reach, or readable only by a Python script of their own."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import yaml
from hub_server import Blob

import gpt1_scratch.data.hub_data
import seq2seq_scratch.data.hub_data
from gpt1_scratch.finetuning.loading import load_task
from gpt1_scratch.finetuning.tasks import TASKS
from gpt1_scratch.pretraining.corpora import load_texts
from seq2seq_scratch.data.corpora import load_parallel_data

ROOT = Path(__file__).parents[2]
MODULES = [gpt1_scratch.data.hub_data, seq2seq_scratch.data.hub_data]


@pytest.fixture
def scripted(tmp_path):
    """A data set with a script; returns its folder."""
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("raise SystemExit('this must not run')\n")
    return str(folder)


@pytest.fixture
def unreachable(tmp_path, monkeypatch):
    """A Hub that nobody answers for, and a cache without any data set; returns the Hub's address."""
    for library in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(library, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    return datasets.config.HF_ENDPOINT


def load_pairs(name):
    return load_parallel_data(dataset_name=name, source_language="de", target_language="en")


def test_pairs_that_a_script_reads_are_refused_with_what_to_do(scripted):
    with pytest.raises(ValueError, match="scripted', which is read by a Python script of its own"):
        load_pairs(scripted)


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


@pytest.mark.parametrize("name", ["nothing", "someone/nothing"])
@pytest.mark.parametrize("load", [load_texts, load_pairs])
def test_without_a_network_a_data_set_that_is_not_there_is_said_at_once(name, load, unreachable):
    with pytest.raises(ValueError, match=f"dataset_name is '{name}'. There is no such folder, and {unreachable} can"):
        load(name)


def test_without_a_network_a_task_of_the_hub_says_how_to_give_files(unreachable):
    with pytest.raises(ValueError, match=f"of the task cola is .*, and {unreachable} cannot be .* the data as files"):
        load_task("cola")


@pytest.mark.parametrize("module", MODULES)
def test_what_may_be_loaded_without_the_hub_is_left_to_the_library(module, unreachable, tmp_path, monkeypatch):
    (tmp_path / "datasets" / "someone___my_texts").mkdir(parents=True)
    for name in (str(tmp_path), "someone/MyTexts"):
        with module.explain_loading_errors(name):
            pass
    for library in (huggingface_hub.constants, datasets.config):
        with monkeypatch.context() as patched:
            patched.setattr(library, "HF_HUB_OFFLINE", True)
            with module.explain_loading_errors("someone/other"):
                pass


@pytest.mark.parametrize("name", ["train.csv", "train.parquet", "train.jsonl"])
def test_a_damaged_file_of_a_data_set_is_said(name, tmp_path):
    (tmp_path / name).write_text('de,en\n"a,b\n')
    with pytest.raises(ValueError, match=f"dataset_name is '{tmp_path}', and one of its files cannot be read: ."):
        load_pairs(str(tmp_path))


@pytest.mark.parametrize("module", MODULES)
def test_only_the_librarys_refusal_is_turned_into_advice(module, scripted, tmp_path):
    with pytest.raises(ValueError, match="refs/convert/parquet"), module.explain_loading_errors(str(tmp_path)):
        datasets.get_dataset_config_names(scripted)
    with pytest.raises(RuntimeError, match="out of memory"), module.explain_loading_errors(str(tmp_path)):
        raise RuntimeError("out of memory")


def test_pretraining_streams_a_data_set_of_the_hub_at_the_revision_named(hub, tmp_path):
    def rows(word, number):
        return "".join(json.dumps({"text": f"{word} {index} " * 8}) + "\n" for index in range(number)).encode()

    first = {"train.jsonl": rows("gull", 40), "validation.jsonl": rows("gull", 4)}
    books = hub.add("datasets/reader/books", first)
    books.branches["first"] = books.branches["main"]
    later = {name: Blob(content.replace(b"gull", b"wolf"), False) for name, content in first.items()}
    books.commit("main", later, "other animals")

    folder = tmp_path / "run"
    arguments = f"""--dataset_name reader/books --dataset_revision first --streaming true --output_dir {folder}
        --hidden_size 8 --num_hidden_layers 1 --num_attention_heads 2 --max_position_embeddings 16 --num_merges 20
        --per_device_train_batch_size 2 --max_steps 2 --eval_steps 2 --logging_steps 1 --bf16 false --use_cpu true
        --num_samples 0""".split()
    # In a process of its own: the libraries read the Hub's address when they are imported.
    command = [sys.executable, str(ROOT / "recipes" / "pretrain_gpt1.py"), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    # The vocabulary is learned from the training text, so it tells which text was read.
    vocabulary = " ".join(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    assert "gu" in vocabulary and "wo" not in vocabulary
    assert json.loads((folder / "all_results.json").read_text())["train_updates"] == 2
    assert yaml.safe_load((folder / "run.yaml").read_text())["settings"]["dataset_revision"] == "first"
    # The training text is stored nowhere, not by way of the validation split either.
    assert not [
        path for path in (tmp_path / "hf_home").rglob("*") if path.is_file() and b"gull 39" in path.read_bytes()
    ]
