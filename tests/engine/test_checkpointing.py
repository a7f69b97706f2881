"""Checkpoints: exact state of every optimizer, damage that is found, full disks, writing in the background."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model, tiny_tokenizer

from papers_to_gpt.engine.checkpoint_writer import CheckpointWriter, outdated_checkpoints
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
from papers_to_gpt.engine.durable_files import WriteError
from papers_to_gpt.engine.manifest import write_manifest
from papers_to_gpt.engine.optimization import make_optimizer
from papers_to_gpt.settings.training import OptimizationSettings

OPTIMIZERS = ["adamw", "adam", "sgd", "adadelta", "muon"]
FILES = ["model.safetensors", "config.json", "tokenizer.json"]
STATE_FILES = [f"training_state/{name}" for name in ("optimizer.safetensors", "optimizer.json", "progress.json")]
MANIFEST = "training_state/manifest.json"


class Run:
    """A small model with its optimizer, and a writer of its checkpoints."""

    def __init__(self, folder, optim="adamw", dtype=torch.float32, keep_last=0, save_model=None, **options):
        self.folder = folder
        self.model = tiny_model("causal_lm").to(dtype).train()
        settings = OptimizationSettings(learning_rate=0.01, optim=optim, weight_decay=0.1)
        self.optimizer = make_optimizer(self.model, settings)
        self.writer = CheckpointWriter(
            Accelerator(cpu=True),
            folder,
            self.model,
            self.optimizer,
            save_model or self.save_model,
            keep_last,
            **options,
        )

    def save_model(self, folder, state_dict=None):
        self.model.save_pretrained(folder, state_dict=state_dict)
        tiny_tokenizer().save_pretrained(folder)

    def update(self, *seeds):
        for seed in seeds:
            tokens = torch.randint(4, 16, (2, 9), generator=torch.Generator().manual_seed(seed))
            self.model(input_ids=tokens, labels=tokens).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self

    def save(self, update, **progress):
        return self.writer.save(Progress(update=update, **progress))

    def weights(self):
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


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


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def test_the_best_and_the_newest_are_kept_and_later_ones_of_an_abandoned_line_go():
    def names(*updates):
        return [Path(f"checkpoint-{update}") for update in updates]

    written = names(2, 4, 6, 8, 10)
    assert outdated_checkpoints(written, Progress(10, best_update=4), 2) == names(2, 6)
    assert outdated_checkpoints(written, Progress(10, best_update=4), 0) == []
    # Resumed at 4 and now at 6, though 8 and 10 are still there.
    assert outdated_checkpoints(written, Progress(6, best_update=4), 1) == names(2, 8, 10)
    assert outdated_checkpoints(written, Progress(6), 0) == names(8, 10)


def test_a_checkpoint_that_is_written_again_replaces_the_damaged_one(two_checkpoints):
    flip(two_checkpoints / "checkpoint-2" / "model.safetensors")
    Run(two_checkpoints).update(0, 1).save(2)
    assert find_good_checkpoint(two_checkpoints) == (two_checkpoints / "checkpoint-2", [])
    assert sorted(path.name for path in two_checkpoints.iterdir()) == ["checkpoint-1", "checkpoint-2"]


# Full disks


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("Only an administrator can mount a small disk.")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_is_full_at_any_write_leaves_the_checkpoint_before(tmp_path, background):
    page = 4096
    with small_disk(tmp_path / "disk", 400 * page) as disk:
        run = Run(disk, keep_last=1, background=background)
        first = run.update(0).save(1)
        run.writer.wait()
        before, named = contents(first), set()
        run.update(1)
        filler = disk / "filler"
        for free_pages in range(400):
            filler.unlink(missing_ok=True)
            free = shutil.disk_usage(disk).free // page
            filler.write_bytes(b"\1" * page * max(0, free - free_pages))
            try:
                run.save(2)
                run.writer.wait()
                break
            except WriteError as error:
                file = re.match(r"(\S+) could not be written: No space left on device. Free space", str(error))
                named.add(Path(file[1]).relative_to(disk).as_posix())
                assert str(error).endswith(f"last checkpoint. That is {first}.")
            assert contents(first) == before
            assert sorted(os.listdir(disk)) == ["checkpoint-1", "filler"]
        assert [path.name for path in checkpoints_in(disk)] == ["checkpoint-2"]
        assert verify_checkpoint(disk / "checkpoint-2", run.model) == []
    # Python, safetensors and tokenizers all met the end of the disk.
    assert {f"checkpoint-2/{name}" for name in ("model.safetensors", "tokenizer.json")} <= named
    assert len(named) > 4


def test_a_failure_before_the_first_checkpoint_says_that_there_is_none(tmp_path):
    def full(folder, state_dict):
        raise OSError(28, "No space left on device", str(folder / "config.json"))

    with pytest.raises(WriteError, match=r"/checkpoint-1/config.json could not be written: .* There is none yet"):
        Run(tmp_path, save_model=full).save(1)
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path):
    def wrong(folder, state_dict):
        raise KeyError("a fault of the program")

    with pytest.raises(KeyError, match="a fault of the program"):
        Run(tmp_path, save_model=wrong).save(1)


# In the background


def test_the_background_writes_the_bytes_of_the_moment_of_the_save(tmp_path):
    may_write = threading.Event()
    written = []

    def save_slowly(folder, state_dict):
        assert may_write.wait(timeout=60)
        behind.save_model(folder, state_dict)

    ahead = Run(tmp_path / "ahead")
    behind = Run(tmp_path / "behind", save_model=save_slowly, background=True, after_save=written.append)
    for update in (1, 2):
        ahead.update(update).save(update)
        behind.update(update).save(update)
        behind.update(*([7] * update))  # training goes on before anything is written
        ahead.update(*([7] * update))
        assert written == [tmp_path / "behind" / f"checkpoint-{number}" for number in range(1, update)]
        may_write.set()
        behind.writer.wait()
        may_write.clear()
    for update in (1, 2):
        name = f"checkpoint-{update}"
        assert contents(tmp_path / "ahead" / name) == contents(tmp_path / "behind" / name)


def test_a_save_waits_while_another_is_written(tmp_path):
    running, most = [], []

    def save_slowly(folder, state_dict):
        running.append(folder)
        most.append(len(running))
        threading.Event().wait(0.1)
        run.save_model(folder, state_dict)
        running.pop()

    run = Run(tmp_path, save_model=save_slowly, background=True)
    for update in (1, 2, 3):
        run.update(update).save(update)
    run.writer.wait()
    assert most == [1, 1, 1] and len(checkpoints_in(tmp_path)) == 3


@pytest.mark.parametrize("surfaces_at", ["save", "wait"])
def test_an_error_in_the_background_surfaces_once(tmp_path, surfaces_at):
    failures = iter([OSError(28, "No space left on device")])

    def fail_once(folder, state_dict):
        if error := next(failures, None):
            raise error
        run.save_model(folder, state_dict)

    run = Run(tmp_path, save_model=fail_once, background=True)
    run.save(1)
    with pytest.raises(WriteError, match="checkpoint-1 could not be written: No space left on device"):
        run.save(2) if surfaces_at == "save" else run.writer.wait()
    run.save(3)
    run.writer.wait()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-3"]


# Several processes

TWO_PROCESSES = """
import sys
from pathlib import Path
from test_checkpointing import Run

from papers_to_gpt.engine.durable_files import WriteError

def full(folder, state_dict):
    raise OSError(28, "No space left on device", str(folder / "config.json"))

for background in (False, True):
    run = Run(Path(sys.argv[1]) / str(background), background=background)
    process = run.writer.accelerator.process_index
    assert run.writer.accelerator.num_processes == 2
    run.folder.mkdir(exist_ok=True)
    run.update(0).save(1)
    run.writer.wait()
    run.writer.save_model = full
    try:
        run.save(2)
        run.writer.wait()
    except WriteError as error:
        Path(sys.argv[1], f"{background}-{process}").write_text(str(error))
"""


def test_every_process_learns_that_the_main_one_could_not_write(tmp_path):
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests / "engine"), str(tests), *sys.path])
    subprocess.run([*command, str(tmp_path)], check=True, timeout=300, env={**os.environ, "PYTHONPATH": path})
    for background in (False, True):
        folder = tmp_path / str(background)
        assert os.listdir(folder) == ["checkpoint-1"]
        expected = f"{folder / 'checkpoint-2' / 'config.json'} could not be written: No space left on device. "
        assert [(tmp_path / f"{background}-{process}").read_text().startswith(expected) for process in (0, 1)] == [
            True,
            True,
        ]


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
