"""Uploads that are interrupted, refused or run beside the training, and runs that push."""

import json
import logging
import sys
import time

import pytest
import torch
from hub_server import READ_TOKEN, WRITE_TOKEN
from safetensors.torch import load_file, save_file
from shared_models import CARD, REPOSITORY, run_share

from gpt1_scratch.stories.corpus import load_stories
from papers_to_gpt import finetune_gpt1, pretrain_gpt1
from papers_to_gpt.gpt1 import pretraining
from papers_to_gpt.publishing.hub import HubRepository
from papers_to_gpt.settings.hub import RepositorySettings


@pytest.fixture
def no_waiting(monkeypatch):
    """Skips the client's waits between retries, 23 seconds in all."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_an_upload_cut_in_the_middle_shows_nothing_and_is_gone_on_with(hub, folder, no_waiting):
    weights = load_file(folder / "model.safetensors")
    # Two files of weights, of which the small one gets through.
    save_file({"small": torch.zeros(4)}, folder / "small.safetensors")
    hub.cut_uploads_after = 2000
    assert sum(tensor.nbytes for tensor in weights.values()) > 2000
    repository = HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    with pytest.raises(OSError, match="The upload to writer/model broke off: .*'model.safetensors'"):
        repository.push(folder, "a model")
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}
    assert len(hub.large_blobs) == 1
    hub.cut_uploads_after = None
    earlier = len(hub.uploads())
    # As a later run of the script would.
    HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder).push(folder, "a model")
    assert len(hub.uploads()) == earlier + 1
    assert hub.repositories[REPOSITORY].files()["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_commit_that_fails_shows_nothing(hub, folder):
    repository = HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    hub.refuse_commits = 500
    with pytest.raises(OSError, match="The Hub did not accept writer/model: .*500"):
        repository.push(folder, "a model")
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}
    hub.refuse_commits, uploads = None, hub.uploads()
    repository.push(folder, "a model")
    assert hub.uploads() == uploads


def test_a_checkpoint_is_pushed_without_waiting_and_survives_its_removal(hub, folder, caplog):
    repository = HubRepository(RepositorySettings(hub_model_id=REPOSITORY), "x", folder)
    weights = (folder / "model.safetensors").read_bytes()
    hub.hold_uploads.clear()
    repository.push_in_background(folder)
    repository.push_in_background(folder)  # the first is still on its way
    (folder / "model.safetensors").unlink()
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}
    hub.hold_uploads.set()
    repository.finish_uploads()
    assert hub.repositories[REPOSITORY].messages == ["initial commit", "model"]
    assert hub.repositories[REPOSITORY].files()["model.safetensors"] == weights
    assert not list(folder.parent.glob("upload")) and not caplog.records
    hub.refuse_commits = 500
    (folder / "all_results.json").write_text("{}")
    repository.push_in_background(folder)
    repository.finish_uploads()
    assert [record.levelno for record in caplog.records if "was not pushed" in record.message] == [logging.WARNING]


# Recipes


@pytest.fixture
def pretrain(tmp_path, monkeypatch):
    for split, stories in load_stories(train_size=40, validation_size=8).items():
        (tmp_path / f"{split}.txt").write_text("\n\n".join(stories["text"]))
    tiny = """--hidden_size 8 --num_hidden_layers 1 --num_attention_heads 2 --max_position_embeddings 16
        --num_merges 20 --max_steps 4 --eval_steps 2 --logging_steps 2 --bf16 false --max_eval_blocks 4 --num_samples 0
        --per_device_train_batch_size 2 --learning_rate 1e-3 --push_to_hub true""".split()

    def start(*arguments):
        files = [f"--{split}_file={tmp_path / split}.txt" for split in ("train", "validation")]
        settings = [*tiny, *files, "--output_dir", str(tmp_path / "run"), *arguments]
        monkeypatch.setattr(pretraining, "measure_matrix_peak", lambda accelerator: 1e9)  # takes seconds
        monkeypatch.setattr(sys, "argv", ["pretrain_gpt1.py", *settings])
        pretrain_gpt1.main()

    return start


def test_a_run_pushes_its_checkpoints_and_its_model(hub, pretrain, tmp_path, stranger_in_process):
    pretrain("--hub_model_id", REPOSITORY, "--hub_strategy", "every_save")
    repository = hub.repositories[REPOSITORY]
    # The checkpoint of the last update may still be under way when the one before it is not yet done.
    assert repository.messages[:2] == ["initial commit", "checkpoint-2"]
    assert repository.files()["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert "all_results.json" in repository.files()
    # Resumed, for longer and with other wishes for the Hub, it continues with what it pushed.
    settings = ["--hub_model_id", REPOSITORY, "--hub_private_repo", "false", "--hub_strategy", "end"]
    pretrain(*settings, "--max_steps", "6", "--resume_from_checkpoint", "last")
    assert repository.files()["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert json.loads(repository.files()["all_results.json"])["train_updates"] == 6
    assert WRITE_TOKEN not in (tmp_path / "run" / "run.yaml").read_text()


def test_a_push_that_fails_leaves_the_model_and_names_the_command_to_share_it(
    hub, pretrain, tmp_path, stranger_in_process, monkeypatch, capsys
):
    hub.refuse_commits = 500
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="The model is trained and saved in .*, but it was not shared") as raised:
        pretrain("--hub_model_id", REPOSITORY)
    assert (folder / "model.safetensors").is_file() and (folder / "all_results.json").is_file()
    command = str(raised.value).splitlines()[-1].removeprefix("To share it: python recipes/share.py ")
    hub.refuse_commits = None
    (folder / "README.md").write_text(CARD)
    run_share(monkeypatch, *command.split())
    assert "model.safetensors" in hub.repositories[REPOSITORY].files()


def test_a_run_that_cannot_be_pushed_does_not_start(hub, pretrain, tmp_path, monkeypatch):
    hub.add("writer/full", {"model.safetensors": b"mine"})
    with pytest.raises(ValueError, match="holds something else"):
        pretrain("--hub_model_id", "writer/full")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(ValueError, match="may not write"):
        pretrain("--hub_model_id", REPOSITORY)
    assert not (tmp_path / "run").exists()


def test_settings_of_the_hub_that_have_no_effect_are_told():
    some = ["--train_file", "x.txt", "--validation_file", "y.txt", "--output_dir", "run", "--max_steps", "1"]
    with pytest.raises(ValueError, match="hub_model_id is set, but nothing is pushed"):
        pretrain_gpt1.parse([*some, "--hub_model_id", REPOSITORY])
    some = ["--model_name_or_path", "x", "--output_dir", "run", "--push_to_hub", "true", "--task"]
    with pytest.raises(ValueError, match="push_to_hub shares one model, but task names several"):
        finetune_gpt1.parse([*some, "cola", "sst2"])
    with pytest.raises(ValueError, match="there are several seeds"):
        finetune_gpt1.parse([*some, "cola", "--seeds", "1", "2", "--hub_strategy", "every_save"])
