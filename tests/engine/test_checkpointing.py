"""Checkpoints: the exact state of every optimizer, damage that is found, weights of other models, means."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from tiny_runs import Run, contents

from papers_to_gpt.engine.checkpointing import (
    Progress,
    average_weights,
    check_checkpoint,
    checkpoints_in,
    find_good_checkpoint,
    load_checkpoint,
    load_weights,
    read_progress,
    verify_checkpoint,
)
from papers_to_gpt.engine.manifest import write_manifest

OPTIMIZERS = ["adamw", "adam", "sgd", "adadelta", "muon"]
FILES = ["model.safetensors", "config.json", "tokenizer.json"]
STATE_FILES = [f"training_state/{name}" for name in ("optimizer.safetensors", "optimizer.json", "progress.json")]
MANIFEST = "training_state/manifest.json"


def assert_same(left, right):
    """The same structure, and tensors of the same type and the same bits."""
    if torch.is_tensor(left):
        assert left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for name in left:
            assert_same(left[name], right[name])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right and type(left) is type(right)


@pytest.fixture
def two_checkpoints(tmp_path):
    run = Run(tmp_path)
    run.update(0).save(1)
    run.update(1).save(2)
    return tmp_path


@pytest.mark.parametrize(
    ("optim", "dtype"), [*((optim, torch.float32) for optim in OPTIMIZERS), ("adamw", torch.bfloat16)]
)
def test_every_optimizer_goes_on_in_the_same_bits(tmp_path, optim, dtype):
    run = Run(tmp_path, optim, dtype).update(0, 1, 2)
    checkpoint = run.save(3, best_update=3, best_score=0.1)
    state = run.optimizer.state_dict()
    other = Run(tmp_path / "other", optim, dtype).update(7)  # other weights and moments, which must all be replaced
    assert load_checkpoint(checkpoint, other.model, other.optimizer) == Progress(3, best_update=3, best_score=0.1)
    assert_same(other.optimizer.state_dict(), state)
    assert contents(other.save(3, best_update=3, best_score=0.1)) == contents(checkpoint)
    assert_same(other.update(3, 4).weights(), run.update(3, 4).weights())
    assert not [path for path in checkpoint.rglob("*") if path.suffix in (".pt", ".bin", ".pkl")]


def test_a_state_of_another_optimizer_or_model_is_refused_with_the_name_of_the_file(two_checkpoints):
    checkpoint = two_checkpoints / "checkpoint-2"
    run = Run(two_checkpoints, "muon")
    with pytest.raises(ValueError, match=r"optimizer.json .* do not fit the optimizer of this run: it has 1 parts"):
        load_checkpoint(checkpoint, run.model, run.optimizer)
    wider = tiny_model("causal_lm", hidden_size=16)
    with pytest.raises(ValueError, match=r"another size: \S+ is \[.*8\] in model.safetensors, but \[.*16\] in this"):
        load_weights(wider, checkpoint)
    assert "another size" in verify_checkpoint(checkpoint, wider)[0]
    with pytest.raises(ValueError, match=r"holds no weights: \S+model.safetensors is missing"):
        load_weights(wider, two_checkpoints)


def old_checkpoint(folder, run):
    """A checkpoint as versions before the manifest wrote it."""
    state = folder / "training_state"
    state.mkdir(parents=True)
    run.save_model(folder)
    torch.save(run.optimizer.state_dict(), state / "optimizer.pt")
    torch.save({"torch": torch.get_rng_state()}, state / "random_state_0.pt")
    (state / "progress.json").write_text(json.dumps({"update": 3, "epoch": 1, "batches_in_epoch": 2}))
    return folder


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_checkpoint_of_the_version_before_goes_on(tmp_path, optim):
    run = Run(tmp_path, optim).update(0, 1, 2)
    checkpoint = old_checkpoint(tmp_path / "checkpoint-3", run)
    assert find_good_checkpoint(tmp_path, run.model) == (checkpoint, [])
    other = Run(tmp_path, optim).update(7)
    assert load_checkpoint(checkpoint, other.model, other.optimizer) == Progress(3, 1, batches_in_epoch=2)
    assert_same(other.update(3, 4).weights(), run.update(3, 4).weights())


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("training_state/optimizer.pt", damage) for damage in ("flip", "cut", "empty")),
        *(("training_state/progress.json", damage) for damage in ("flip", "cut", "empty", "remove")),
        # Without a checksum, a flipped bit of a weight cannot be found.
        *(("model.safetensors", damage) for damage in ("cut", "empty", "remove")),
    ],
)
def test_damage_of_a_checkpoint_of_the_version_before(tmp_path, name, damage):
    run = Run(tmp_path).update(0)
    run.save(1)
    checkpoint = old_checkpoint(tmp_path / "checkpoint-3", run)
    DAMAGES[damage](checkpoint / name)
    good, [skipped] = find_good_checkpoint(tmp_path)
    assert good == tmp_path / "checkpoint-1" and Path(name).name in skipped


def test_nothing_is_unpickled_from_a_checkpoint_of_the_version_before(tmp_path):
    run = Run(tmp_path).update(0)
    checkpoint = old_checkpoint(tmp_path / "checkpoint-3", run)

    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state": Payload()}, checkpoint / "training_state" / "optimizer.pt")
    with pytest.raises(ValueError, match=r"optimizer.pt cannot be read"):
        load_checkpoint(checkpoint, run.model, run.optimizer)
    assert not (tmp_path / "executed").exists()


def test_moments_of_another_model_of_the_version_before_are_refused(tmp_path):
    run = Run(tmp_path).update(0)
    checkpoint = old_checkpoint(tmp_path / "checkpoint-3", run)
    state = run.optimizer.state_dict()
    state["state"][0]["exp_avg"] = torch.zeros(3, 3)
    torch.save(state, checkpoint / "training_state" / "optimizer.pt")
    with pytest.raises(ValueError, match=r"optimizer.pt cannot be read \(exp_avg of parameter 0 .* \[3, 3\]"):
        load_checkpoint(checkpoint, run.model, run.optimizer)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "flip": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "remove": Path.unlink,
}


def assert_skipped(folder, named, model=None):
    """Whether the newer of two checkpoints is skipped for a reason that names what is damaged."""
    good, skipped = find_good_checkpoint(folder, model)
    assert good == folder / "checkpoint-1"
    assert len(skipped) == 1 and "\n" not in skipped[0]
    assert f"{folder / 'checkpoint-2'} cannot be resumed from and is skipped: " in skipped[0]
    assert named in skipped[0]
    with pytest.raises(ValueError, match=re.escape(named)) as error:
        check_checkpoint(folder / "checkpoint-2", model)
    assert f"set resume_from_checkpoint to {folder / 'checkpoint-1'}" in str(error.value)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, *STATE_FILES, MANIFEST])
def test_every_damaged_file_is_named_and_the_checkpoint_before_is_taken(two_checkpoints, name, damage):
    DAMAGES[damage](two_checkpoints / "checkpoint-2" / name)
    assert_skipped(two_checkpoints, "manifest.json" if name == MANIFEST else name)


def test_an_undamaged_checkpoint_has_no_problem_and_more_files_are_none(two_checkpoints):
    (two_checkpoints / "checkpoint-2" / "README.md").write_text("Added when the model was shared.")
    run = Run(two_checkpoints)
    assert verify_checkpoint(two_checkpoints / "checkpoint-2", run.model) == []
    assert find_good_checkpoint(two_checkpoints) == (two_checkpoints / "checkpoint-2", [])
    check_checkpoint(two_checkpoints / "checkpoint-2")


def renew_manifest(checkpoint):
    write_manifest(checkpoint, checkpoint / MANIFEST)


@pytest.mark.parametrize(
    "progress", ["[]", "3", "{}", '{"update": "2"}', '{"update": 2, "epoch": null}', '{"update": true}', "{", "\xff"]
)
def test_a_progress_that_is_none_is_found_though_the_manifest_agrees(two_checkpoints, progress):
    checkpoint = two_checkpoints / "checkpoint-2"
    (checkpoint / "training_state" / "progress.json").write_text(progress, encoding="latin-1")
    renew_manifest(checkpoint)
    assert_skipped(two_checkpoints, "progress.json")


@pytest.mark.parametrize("name", ["model.safetensors", "training_state/optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["names", "shapes"])
def test_tensors_of_another_model_are_found_though_the_manifest_agrees(two_checkpoints, name, damage):
    path = two_checkpoints / "checkpoint-2" / name
    tensors = load_file(path)
    if damage == "names":
        tensors = {f"other.{key}": tensor for key, tensor in tensors.items()}
    else:
        tensors = {key: tensor[None].contiguous() for key, tensor in tensors.items()}
    save_file(tensors, path)
    renew_manifest(path.parents[1] if path.parent.name == "training_state" else path.parent)
    assert_skipped(two_checkpoints, path.name, Run(two_checkpoints).model)


@pytest.mark.parametrize("name", ["model.safetensors", "training_state/optimizer.safetensors"])
def test_a_file_without_tensors_is_found_though_the_manifest_agrees(two_checkpoints, name):
    (two_checkpoints / "checkpoint-2" / name).write_text("text")
    renew_manifest(two_checkpoints / "checkpoint-2")
    assert_skipped(two_checkpoints, Path(name).name, Run(two_checkpoints).model)


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "a/../../../secret", "link", "..\\secret", ""])
def test_names_in_a_manifest_do_not_leave_the_folder(two_checkpoints, name):
    (two_checkpoints.parent / "secret").write_text("secret")
    checkpoint = two_checkpoints / "checkpoint-2"
    (checkpoint / "link").symlink_to(two_checkpoints.parent / "secret")
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"][name] = {"size": 6, "xxh3_128": "0"}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    assert_skipped(two_checkpoints, f"manifest.json names {name!r}, which is outside the folder")


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": []}', '{"files": {"config.json": 3}}', "[" * 100_000])
def test_a_manifest_that_is_none(two_checkpoints, content):
    (two_checkpoints / "checkpoint-2" / MANIFEST).write_text(content)
    assert_skipped(two_checkpoints, "manifest.json is damaged")


def test_a_manifest_that_leaves_out_a_needed_file(two_checkpoints):
    checkpoint = two_checkpoints / "checkpoint-2"
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["files"]["model.safetensors"]
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    assert_skipped(two_checkpoints, "manifest.json is damaged: it does not name model.safetensors")


def test_a_checkpoint_without_training_state_or_that_is_a_file(two_checkpoints):
    shutil.rmtree(two_checkpoints / "checkpoint-2" / "training_state")
    assert_skipped(two_checkpoints, "it has no folder training_state")
    shutil.rmtree(two_checkpoints / "checkpoint-2")
    (two_checkpoints / "checkpoint-2").write_text("")
    assert_skipped(two_checkpoints, "it is no folder")


def test_without_a_good_checkpoint_all_are_listed(two_checkpoints):
    for number in (1, 2):
        (two_checkpoints / f"checkpoint-{number}" / "model.safetensors").unlink()
    good, skipped = find_good_checkpoint(two_checkpoints)
    assert good is None and len(skipped) == 2
    with pytest.raises(ValueError, match="or name another checkpoint"):
        check_checkpoint(two_checkpoints / "checkpoint-1")


def test_progress_of_other_versions_is_read(tmp_path):
    path = tmp_path / "progress.json"
    path.write_text('{"update": 7, "best_score": 1, "of_a_later_version": [1, 2]}')
    assert read_progress(path) == Progress(update=7, best_score=1)


def test_a_checkpoint_that_is_written_again_replaces_the_damaged_one(two_checkpoints):
    flip(two_checkpoints / "checkpoint-2" / "model.safetensors")
    Run(two_checkpoints).update(0, 1).save(2)
    assert find_good_checkpoint(two_checkpoints) == (two_checkpoints / "checkpoint-2", [])
    assert sorted(path.name for path in two_checkpoints.iterdir()) == ["checkpoint-1", "checkpoint-2"]


# Means


def test_weights_without_a_mean_are_named(two_checkpoints, tmp_path_factory):
    target = tmp_path_factory.mktemp("mean")
    first, second = checkpoints_in(two_checkpoints)
    path = second / "model.safetensors"
    weights = load_file(path)
    save_file({name: tensor[..., :1].contiguous() for name, tensor in weights.items()}, path)
    with pytest.raises(ValueError, match=r"The weights of \S+checkpoint-2 and \S+checkpoint-1 differ in .* shapes"):
        average_weights([first, second], target)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"checkpoint-2/model.safetensors cannot be read .* take another checkpoint"):
        average_weights([first, second], target)
    assert not list(target.iterdir())
