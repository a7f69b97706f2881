"""Exports are checked in their engines, pushed, downloaded again and compared, with the real client over HTTP."""

import json
import re
import shutil

import pytest
from exported_models import run, save_gpt1, save_translator

from papers_to_gpt import export, share
from papers_to_gpt.engine.model_folder import EXPORT_FILE
from papers_to_gpt.publishing import shared_exports

REPOSITORY = "writer/exported"
ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1}
PACKAGES = {"ctranslate2": ["ctranslate2"], "onnx": ["onnx", "onnxruntime", "onnxscript"], "openai-gpt": []}
FILES = {
    "ctranslate2": {"model.bin", "shared_vocabulary.json", EXPORT_FILE, "config.json"},
    "onnx": {"model.onnx", EXPORT_FILE, "model_config.json"},
    "openai-gpt": {"model.safetensors", "config.json"},
    "marian": {"model.safetensors", "config.json"},
}
OF_THE_LIBRARY = ("openai-gpt", "marian")
OF_ALL = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"}


def make_export(folder, form, scale=1.0):
    if form in ("ctranslate2", "marian"):
        save_translator(folder / "model", scale=scale, **ONE_LAYER)
    else:
        save_gpt1(folder / "model", scale=scale, num_hidden_layers=1, intermediate_size=32)
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = [folder / "model", "--format", form, "--output_dir", folder / "exported"]
        assert run(export, monkeypatch, *arguments) in (0, None)
    return folder / "exported"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Returns a function from a format to an export, made once for all tests."""
    made = {}

    def make(form):
        for package in PACKAGES.get(form, ()):
            pytest.importorskip(package, reason=f"{package} is not installed; an extra of this project has it")
        if form not in made:
            made[form] = make_export(tmp_path_factory.mktemp("models"), form)
        return made[form]

    return make


@pytest.mark.parametrize("form", FILES)
def test_an_export_is_checked_pushed_and_compared(exports, form, hub, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(exports(form), tmp_path / "exported")
    (folder / "notes.txt").write_text("not shared")
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card + "\nA line of the user.\n")
    capsys.readouterr()
    assert run(share, monkeypatch, folder) in (0, None)
    assert "is complete" in (said := capsys.readouterr().out) and all(name in said for name in FILES[form] | OF_ALL)
    assert not hub.requests
    for _ in range(1 if form in OF_THE_LIBRARY else 2):  # the second time, the repository holds the same export
        assert run(share, monkeypatch, folder, "--hub_model_id", REPOSITORY) in (0, None)
        assert "downloaded again and compared" in capsys.readouterr().out
    files = hub.repositories[REPOSITORY].files()
    assert set(files) - {".gitattributes"} == FILES[form] | OF_ALL
    shown = files["README.md"].decode()
    assert shown.endswith("A line of the user.\n") and str(exports(form).parent) not in shown
    if form in OF_THE_LIBRARY:
        assert f'"{REPOSITORY}"' in shown.replace("'", '"')
    else:
        assert f"hf download {REPOSITORY} --local-dir exported" in shown
    code = re.search(r"```python\n(.*?)```", shown, re.S)[1]
    exec(code, {})  # from the Hub
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("form", "spoil", "message"),
    [
        ("ctranslate2", lambda folder: (folder / "model.bin").unlink(), "has no model.bin"),
        ("onnx", lambda folder: (folder / "model.onnx").write_bytes(b"no graph"), "onnxruntime cannot load"),
        ("onnx", lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
        ("onnx", lambda folder: (folder / "generation_config.json").unlink(), "has no generation_config.json"),
        ("openai-gpt", lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    ],
)
def test_an_export_with_a_fault_gets_no_repository(exports, form, spoil, message, hub, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(exports(form), tmp_path / "exported")
    spoil(folder)
    assert run(share, monkeypatch, folder, "--hub_model_id", REPOSITORY) == 2
    assert message in capsys.readouterr().err
    assert not hub.repositories


def test_links_paths_and_refreshed_code_are_refused(exports, hub, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(exports("ctranslate2"), tmp_path / "exported")
    assert run(share, monkeypatch, folder, "--refresh_code", "true") == 2
    assert "which holds no code" in capsys.readouterr().err
    record = json.loads((folder / EXPORT_FILE).read_text())
    assert record["source"] == "model"  # not the path that it was exported from
    (folder / EXPORT_FILE).write_text(json.dumps(record | {"source": f"{tmp_path}/model"}))
    assert run(share, monkeypatch, folder, "--hub_model_id", REPOSITORY) == 2
    assert "names the path" in capsys.readouterr().err
    weights = (folder / "model.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "model.bin").symlink_to(weights)
    assert run(share, monkeypatch, folder) == 2
    assert "model.bin is a link" in capsys.readouterr().err


def test_another_export_that_the_hub_gives_back_is_an_error(exports, hub, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(exports("ctranslate2"), tmp_path / "exported")
    other = make_export(tmp_path / "other", "ctranslate2", scale=0.5)
    monkeypatch.setattr(shared_exports, "snapshot_download", lambda *arguments, **settings: str(other))
    assert run(share, monkeypatch, folder, "--hub_model_id", REPOSITORY) == 2
    assert "computes something else" in capsys.readouterr().err


@pytest.mark.parametrize("form", OF_THE_LIBRARY)
def test_an_export_without_a_card_is_shared_with_one(exports, form, hub, tmp_path, monkeypatch):
    folder = shutil.copytree(exports(form), tmp_path / "exported")
    (folder / "README.md").unlink()
    assert run(share, monkeypatch, folder, "--hub_model_id", REPOSITORY) in (0, None)
    card = hub.repositories[REPOSITORY].files()["README.md"].decode()
    assert REPOSITORY in card and "# exported" in card and "``" not in card.replace("```", "")
