"""Sharing with the real client over HTTP, with a local Hub: pushing, verifying, loading, and who may."""

import errno
import json
import os
import shutil
import subprocess
import sys

import huggingface_hub.constants
import pytest
import torch
from hub_server import OTHER_TOKEN, READ_TOKEN, WRITE_TOKEN
from safetensors.torch import load_file, save_file
from shared_models import REPOSITORY, run_share, spoil

from papers_to_gpt import generate_text
from papers_to_gpt.publishing import clean_process
from papers_to_gpt.publishing.clean_process import compare_probes, probe_in_clean_process
from papers_to_gpt.publishing.hub import HubRepository
from papers_to_gpt.publishing.shared_folder import refresh_code
from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.hub import RepositorySettings
from seq2seq_scratch.translation import load_translator


def as_a_stranger(sources, home, **environment):
    """Loads models by their ids in a new process in an empty folder; the cache in `home` is kept."""
    empty, target = home / "empty", home / "computed"
    shutil.rmtree(target, ignore_errors=True)
    for place in (empty, target):
        place.mkdir(parents=True, exist_ok=True)
    job = {"sources": sources, "revision": None, "target": str(target)}
    job["hidden_packages"] = ["seq2seq_scratch", "gpt1_scratch"]
    return subprocess.run(
        [sys.executable, "-P", clean_process.__file__],
        input=json.dumps(job),
        env={**os.environ, "HF_HOME": str(home), **environment},
        cwd=empty,
        capture_output=True,
        text=True,
    )


def test_every_family_is_pushed_wiped_loaded_and_the_same_then_again_offline(hub, originals, tmp_path, monkeypatch):
    ids = []
    for family, (original, _) in originals.items():
        folder = shutil.copytree(original, tmp_path / family)
        repository = HubRepository(RepositorySettings(hub_model_id=f"writer/{family}"), family, folder)
        repository.push(folder, "a model")
        shutil.rmtree(folder)
        ids.append(repository.repo_id)
    monkeypatch.delenv("HF_TOKEN")  # these are public
    for environment in ({}, {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        result = as_a_stranger(ids, tmp_path / "home", **environment)
        assert result.returncode == 0, result.stderr
        for number, (_, expected) in enumerate(originals.values()):
            found = load_file(tmp_path / "home" / "computed" / f"{number}.safetensors")
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bahdanau", "transformer_seq2seq"])
def test_a_translator_of_the_hub_loads_again_without_the_network(family, hub, originals, monkeypatch):
    folder, _ = originals[family]
    HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder).push(folder, "a model")
    online = load_translator(REPOSITORY)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    offline = load_translator(REPOSITORY)
    for there, here in zip(online[1:], offline[1:], strict=True):
        assert there.get_vocab() == here.get_vocab()
    assert (offline[1] is offline[2]) == (family == "transformer_seq2seq")


def make_code_stale(folder):
    """Replaces the code by an old version that the installed library breaks; returns the files that must stay."""
    (folder / "library_version.py").unlink()
    for path in folder.glob("*.py"):
        path.write_text(path.read_text() + "\nraise RuntimeError('written for another library')\n")
    config = json.loads((folder / "config.json").read_text())
    config["transformers_version"] = "5.22.0"
    (folder / "config.json").write_text(json.dumps(config))
    kept = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"]
    return {path: path.read_bytes() for path in kept if path.name != "config.json"}


def test_stale_code_is_refreshed_and_the_folder_loads_with_nothing_else_changed(originals, tmp_path):
    folders = [shutil.copytree(original, tmp_path / family) for family, (original, _) in originals.items()]
    for folder in folders:
        kept = make_code_stale(folder)
        refresh_code(folder)
        assert {path: path.read_bytes() for path in kept} == kept
        assert {path.name for path in folder.glob("*.py")} >= {"library_version.py"}
    found = probe_in_clean_process(folders, ["seq2seq_scratch", "gpt1_scratch"], offline=True)
    for each, (_, expected) in zip(found, originals.values(), strict=True):
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=1e-5)


def test_new_code_that_does_not_fit_on_the_disk_leaves_the_old_one_whole(folder, monkeypatch):
    make_code_stale(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match="could not be written: No space left.*; then refresh the code again"):
        refresh_code(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_code_of_a_repository_is_refreshed_in_one_commit(hub, folder, monkeypatch, capsys):
    make_code_stale(folder)
    HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder).push(folder, "a model")
    before = hub.repositories[REPOSITORY].files()
    with pytest.raises(ValueError, match="lacks library_version.py"):
        run_share(monkeypatch, folder)
    run_share(monkeypatch, folder, "--refresh_code", "true", "--hub_model_id", REPOSITORY)
    assert "downloaded again and compared" in capsys.readouterr().out
    repository = hub.repositories[REPOSITORY]
    after = repository.files()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"config.json", *(name for name in after if name.endswith(".py"))}


def test_the_script_checks_pushes_one_commit_and_verifies(hub, folder, monkeypatch, capsys):
    (folder / "README.md").unlink()
    run_share(monkeypatch, folder, "--hub_model_id", REPOSITORY, "--hub_private_repo", "true")
    assert "downloaded again and compared" in capsys.readouterr().out
    repository = hub.repositories[REPOSITORY]
    assert repository.private and len(repository.commits) == 2
    shared = repository.files()
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    expected |= {"modeling_gpt1.py", "configuration_gpt1.py", "tokenizer_config.json", "all_results.json"}
    assert expected <= set(shared)
    assert not [path for path in shared if "checkpoint" in path or path.endswith((".yaml", ".pt", ".jsonl"))]
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()) + b"".join(
        shared.values()
    )
    assert WRITE_TOKEN.encode() not in everything
    assert REPOSITORY.encode() in shared["README.md"] and b"/data/secret" not in shared["README.md"]
    # It was downloaded after the commit.
    paths = [path for _, path in hub.requests]
    commit = paths.index(f"/api/models/{REPOSITORY}/commit/main")
    assert [path for path in paths[commit:] if path.endswith("/model.safetensors")]


def test_what_the_hub_gives_back_is_compared(originals):
    _, computed = originals["gpt1"]
    compare_probes(computed, computed, "here")
    for name in computed:
        with pytest.raises(ValueError, match=f"there: its {name} differ"):
            compare_probes(computed | {name: computed[name] + 1}, computed, "there")
    with pytest.raises(ValueError, match="differ .* by up to nan"):
        compare_probes(computed | {"logits": computed["logits"] * torch.nan}, computed, "there")
    with pytest.raises(ValueError, match="another shape"):
        compare_probes({"logits": computed["logits"]}, computed, "there")


def test_without_an_id_the_script_only_checks(hub, folder, monkeypatch, capsys, stranger_in_process):
    monkeypatch.delenv("HF_TOKEN")
    run_share(monkeypatch, folder)
    assert "is complete" in (said := capsys.readouterr().out) and "model.safetensors" in said
    assert not hub.requests


# Ids, tokens, rights


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (None, REPOSITORY, "requires a token, and none is set. .*HF_TOKEN.*hf auth login"),
        ("hf_mistyped", REPOSITORY, "does not know the token"),
        ("hf_mistyped", "model", "does not know the token"),
        (READ_TOKEN, REPOSITORY, "The token may not write to writer/model .*rights"),
        (READ_TOKEN, "writer/there", "The token may not write to writer/there"),
        (WRITE_TOKEN, "other/model", "The token may not write to other/model"),
        (WRITE_TOKEN, "other/hidden", "The token may not write to other/hidden"),
        (WRITE_TOKEN, "writer/../model", "hub_model_id is 'writer/../model'. It must be user/name"),
        (WRITE_TOKEN, "writer/a model", "hub_model_id is 'writer/a model'. It must be user/name"),
    ],
)
def test_an_id_that_cannot_be_pushed_to_is_explained(token, repo_id, message, hub, folder, monkeypatch):
    hub.add("other/hidden", {}, private=True)
    hub.add("writer/there", {})
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match=message) as raised:
        HubRepository(RepositorySettings(hub_model_id=repo_id), "x", folder)
    assert token is None or token not in str(raised.value)
    assert set(hub.repositories) == {"other/hidden", "writer/there"}


def test_an_id_without_a_user_is_the_tokens_and_without_any_the_folders(hub, folder):
    assert HubRepository(RepositorySettings(hub_model_id="model"), "x", folder).repo_id == "writer/model"
    assert HubRepository(RepositorySettings(), "numbers", folder).repo_id == "writer/numbers"


def test_no_network_is_explained(hub, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="The Hub cannot be reached for writer/model"):
        HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)


def test_a_private_model_loads_with_a_token_only(hub, folder, monkeypatch, capsys):
    repository = HubRepository(RepositorySettings(hub_model_id=REPOSITORY, hub_private_repo=True), "x", folder)
    repository.push(folder, "a model")
    text = ["--prompt", "there were", "--max_new_tokens", "2", "--bf16", "false"]
    monkeypatch.setattr(sys, "argv", ["generate_text.py", "--model_name_or_path", REPOSITORY, *text])
    run_script(generate_text.main)
    assert capsys.readouterr().out.startswith("there were")
    for token in (None, OTHER_TOKEN):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / f"cache of {token}"))
        monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(SystemExit):
            run_script(generate_text.main)
        said = capsys.readouterr().err
        assert "writer/model is not a local folder and is not a valid model identifier" in said
        assert "private repository" in said and "hf auth login" in said


# A repository that is there already


def test_an_existing_repository_with_something_else_is_refused_unless_told(hub, folder):
    there = hub.add(REPOSITORY, {"README.md": b"mine", "data/notes.txt": b"mine", ".gitattributes": b""})
    with pytest.raises(
        ValueError, match="holds something else: README.md, data/notes.txt. .*--overwrite_hub_repo true"
    ):
        HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    assert len(there.commits) == 1
    settings = RepositorySettings(hub_model_id=REPOSITORY, overwrite_hub_repo=True)
    HubRepository(settings, "x", folder).push(folder, "a model")
    assert len(there.commits) == 2
    assert "data/notes.txt" not in there.files() and {".gitattributes", "config.json"} <= set(there.files())


def test_the_same_model_is_gone_on_with_and_another_is_not(hub, folder, originals):
    settings = RepositorySettings(hub_model_id=REPOSITORY)
    HubRepository(settings, "x", folder).push(folder, "a model")
    weights = {name: tensor + 1 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    spoil("config.json")({"transformers_version": "5.99"})(folder)
    HubRepository(settings, "x", folder).push(folder, "trained longer")
    assert hub.repositories[REPOSITORY].files()["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    for other in (None, originals["rnn_seq2seq"][0]):
        with pytest.raises(ValueError, match="holds something else"):
            HubRepository(settings, "x", other)


def test_what_is_to_be_private_does_not_go_where_everybody_sees_it(hub, folder):
    hub.add(REPOSITORY, {})
    with pytest.raises(ValueError, match="hub_private_repo is true, but writer/model exists and is public"):
        HubRepository(RepositorySettings(hub_model_id=REPOSITORY, hub_private_repo=True), "x", folder)
