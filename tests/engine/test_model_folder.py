"""A folder says what it holds before the library is asked to load it."""

import shutil
import time

import huggingface_hub.constants
import pytest
from tiny_models import tiny_model, tiny_tokenizer

from papers_to_gpt.engine.model_folder import CLASSIFIER, LANGUAGE_MODEL, TRANSLATOR, check_folder

KINDS = {
    "bahdanau": TRANSLATOR,
    "rnn_seq2seq": TRANSLATOR,
    "transformer": TRANSLATOR,
    "classification": CLASSIFIER,
    "multiple_choice": CLASSIFIER,
    "causal_lm": LANGUAGE_MODEL,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {}
    for name in KINDS:
        folders[name] = tmp_path_factory.mktemp(name)
        tiny_model(name).save_pretrained(folders[name])
        tiny_tokenizer().save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("kind", [TRANSLATOR, CLASSIFIER, LANGUAGE_MODEL], ids=lambda kind: kind.script)
@pytest.mark.parametrize("name", KINDS)
def test_a_model_of_another_kind_is_refused_with_the_script_that_uses_it(folders, name, kind):
    if KINDS[name] is kind:
        check_folder(str(folders[name]), kinds=(kind,))
        return
    expected = (
        f"{folders[name]} holds a .*, {KINDS[name].name}. This script needs {kind.name}; .*\\b{KINDS[name].script}"
    )
    with pytest.raises(ValueError, match=expected):
        check_folder(str(folders[name]), kinds=(kind,))


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_cut_off_is_named(folders, tmp_path, file):
    shutil.copytree(folders["bahdanau"], tmp_path / "model")
    path = tmp_path / "model" / file
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match=f"{path} is not JSON"):
        check_folder(str(tmp_path / "model"), kinds=(TRANSLATOR,))


def test_a_missing_tokenizer_and_a_file_in_place_of_a_folder_are_said(folders, tmp_path):
    shutil.copytree(folders["causal_lm"], tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="model has no tokenizer that can be loaded. Copy the tokenizer.json"):
        check_folder(str(tmp_path / "model"), kinds=(LANGUAGE_MODEL,))
    with pytest.raises(ValueError, match="config.json is a file. Name the folder"):
        check_folder(str(tmp_path / "model" / "config.json"))


@pytest.fixture
def without_network(monkeypatch, tmp_path):
    """The Hub is at a port where nothing listens, and nothing is in the cache."""
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": "http://127.0.0.1:9",
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)


@pytest.mark.parametrize("name", ["nothing", "nobody/nothing"])
def test_without_a_network_a_name_that_is_no_folder_is_refused_at_once(without_network, name):
    started = time.perf_counter()
    with pytest.raises(ValueError, match=f"no folder {name}, and http://127.0.0.1:9 cannot be reached"):
        check_folder(name)
    assert time.perf_counter() - started < 5


def test_a_model_in_the_cache_needs_no_network(without_network, tmp_path):
    (tmp_path / "cache" / "models--somebody--something").mkdir(parents=True)
    check_folder("somebody/something")


@pytest.mark.parametrize("name", ["nothing/", "no thing", "of--nobody"])
def test_a_name_that_is_neither_a_folder_nor_an_id_is_refused_without_asking_the_hub(name, monkeypatch):
    monkeypatch.setattr("papers_to_gpt.engine.model_folder.HfApi", None)
    with pytest.raises(ValueError, match=f"no folder {name}, and the name is no id"):
        check_folder(name)
