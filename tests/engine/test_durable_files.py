"""Files that are whole or not there: the order of flush and rename, full disks, permissions, leftovers."""

import errno
import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from papers_to_gpt.engine.durable_files import (
    WriteError,
    append_line,
    clean_leftovers,
    durable_folder,
    files_written_aside,
    naming_failed_writes,
    remove_folder,
    write_durably,
)


@pytest.fixture
def calls(monkeypatch):
    """The calls of fsync, with the path of the file, and of rename, in their order."""
    made = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def recorded_fsync(descriptor):
        made.append(("flush", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def recorded(function):
        def call(source, target, **options):
            made.append(("rename", Path(source).name, Path(target).name))
            function(source, target, **options)

        return call

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("/proc tells the path of an open file.")
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded(replace))
    monkeypatch.setattr(os, "rename", recorded(rename))
    return made


@pytest.fixture
def limited_files():
    """A function that limits the size of files, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)


def tree(folder):
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]


def test_a_file_is_flushed_before_it_is_renamed_and_its_folder_after(tmp_path, calls):
    write_durably(tmp_path / "run.yaml", "Füße\n")
    assert calls == [
        ("flush", ".partial-run.yaml"),
        ("rename", ".partial-run.yaml", "run.yaml"),
        ("flush", tmp_path.name),
    ]
    assert (tmp_path / "run.yaml").read_bytes() == "Füße\n".encode()


def test_a_folder_is_flushed_with_all_its_files_before_it_is_renamed_and_its_parent_after(tmp_path, calls):
    with durable_folder(tmp_path / "checkpoint-1") as folder:
        assert folder.name == "partial-checkpoint-1" and not (tmp_path / "checkpoint-1").exists()
        (folder / "state").mkdir()
        (folder / "state" / "b").write_text("b")
        (folder / "a").write_text("a")
    assert sorted(calls[:4]) == [("flush", name) for name in ("a", "b", "partial-checkpoint-1", "state")]
    assert [name for _, name in calls[:4]].index("state") > [name for _, name in calls[:4]].index("b")
    assert calls[3:] == [
        ("flush", "partial-checkpoint-1"),
        ("rename", "partial-checkpoint-1", "checkpoint-1"),
        ("flush", tmp_path.name),
    ]


def test_a_folder_takes_the_place_of_another_that_stays_until_then(tmp_path):
    for number in range(2):
        with durable_folder(tmp_path / "checkpoint-1") as folder:
            (folder / str(number)).touch()
    assert tree(tmp_path) == [
        "checkpoint-1",
        "checkpoint-1/1",
    ]
    with pytest.raises(KeyError), durable_folder(tmp_path / "checkpoint-1"):
        raise KeyError
    assert tree(tmp_path) == [
        "checkpoint-1",
        "checkpoint-1/1",
    ]


def test_a_folder_whose_successor_cannot_be_renamed_keeps_its_name(tmp_path, monkeypatch):
    final = tmp_path / "checkpoint-1"
    final.mkdir()
    (final / "old").touch()
    rename = os.rename

    def fail(source, target, **options):
        if Path(source).name.startswith("partial"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(WriteError, match="checkpoint-1 could not be written: Input/output error"):
        with durable_folder(final):
            pass
    assert tree(tmp_path) == [
        "checkpoint-1",
        "checkpoint-1/old",
    ]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_fsync_is_good_enough(tmp_path, monkeypatch, number):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    write_durably(tmp_path / "file", b"1")
    with durable_folder(tmp_path / "folder") as folder:
        (folder / "file").touch()
    assert (tmp_path / "file").read_bytes() == b"1" and (tmp_path / "folder" / "file").is_file()


def test_a_flush_that_the_disk_refuses_keeps_the_old_file(tmp_path, monkeypatch):
    write_durably(tmp_path / "file", "old")

    def fsync(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WriteError, match=r"/file could not be written: Input/output error. Repair the disk"):
        write_durably(tmp_path / "file", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_a_file_that_does_not_fit_keeps_the_old_one_and_is_named(tmp_path, limited_files):
    write_durably(tmp_path / "file", "old")
    limited_files(1000)
    with pytest.raises(
        WriteError, match=r"/file could not be written: File too large. .* start the run again"
    ) as error:
        write_durably(tmp_path / "file", "x" * 2000)
    limited_files(None)
    assert isinstance(error.value, ValueError)  # scripts show it as one line
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_a_line_that_does_not_fit_leaves_whole_lines(tmp_path, limited_files):
    path = tmp_path / "log"
    append_line(path, "first")
    limited_files(10)
    with pytest.raises(WriteError, match="/log could not be written: File too large"):
        append_line(path, "second, of which a part fits")
    assert path.read_text() == "first\n"
    limited_files(None)
    append_line(path, "third")
    assert path.read_text() == "first\nthird\n"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"could not be written: Not a directory"):
        with durable_folder(tmp_path / "file" / "checkpoint-1"):
            pass
    with pytest.raises(WriteError, match="/missing/run.yaml could not be written: No such file .* Do not delete"):
        write_durably(tmp_path / "missing" / "run.yaml", "")


def test_a_full_disk_is_found_behind_the_errors_of_libraries(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("There is no /dev/full.")
    expected = "could not be written: No space left on device. Free space on the disk"
    with pytest.raises(WriteError, match=f"/dev/full {expected}"), naming_failed_writes(full):
        torch.save(torch.zeros(10**6), full)
    with pytest.raises(WriteError, match=f"/dev/full {expected}"), naming_failed_writes(full):
        full.write_text("text")
    # As tokenizers and safetensors say it.
    with pytest.raises(WriteError, match=f"model.safetensors {expected}"), naming_failed_writes(tmp_path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    with pytest.raises(WriteError, match=expected), naming_failed_writes(tmp_path):
        raise Exception("No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="^shape"), naming_failed_writes(tmp_path):
        raise RuntimeError("shape mismatch")


def test_files_move_into_a_folder_with_the_weights_last(tmp_path, calls):
    (tmp_path / "model.safetensors").write_text("old")
    (tmp_path / "run.yaml").write_text("stays")
    with files_written_aside(tmp_path) as folder:
        save_file({"w": torch.ones(2)}, folder / "model.safetensors")
        for name in ("config.json", "tokenizer.json"):
            (folder / name).write_text("new")
        assert (tmp_path / "model.safetensors").read_text() == "old"
    renamed = [call[1] for call in calls if call[0] == "rename"]
    assert renamed[-3:] == ["config.json", "tokenizer.json", "model.safetensors"]
    first_rename = calls.index(("rename", "config.json", "config.json"))
    assert {("flush", name) for name in renamed[-3:]} <= set(calls[:first_rename])
    assert calls[-1] == ("flush", tmp_path.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("config.json", "model.safetensors", "run.yaml", "tokenizer.json")
    ]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_weights_have_the_permissions_of_other_files(tmp_path, umask):
    before = os.umask(umask)
    try:
        with durable_folder(tmp_path / "checkpoint-1") as folder:
            (folder / "state").mkdir()
            save_file({"w": torch.ones(2)}, folder / "model.safetensors")
            save_file({"w": torch.ones(2)}, folder / "state" / "optimizer.safetensors")
        with files_written_aside(tmp_path) as folder:
            save_file({"w": torch.ones(2)}, folder / "model.safetensors")
        write_durably(tmp_path / "run.yaml", "")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}


def test_a_folder_that_is_half_removed_has_another_name(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).touch()
    remove_folder(folder)
    assert tree(tmp_path) == []
    folder.mkdir()
    (folder / "a").touch()
    unlink = os.unlink

    def interrupt(path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", interrupt)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(folder)
    monkeypatch.setattr(os, "unlink", unlink)
    assert tree(tmp_path) == ["removed-checkpoint-1", "removed-checkpoint-1/a"]
    assert clean_leftovers(tmp_path) == ["removed-checkpoint-1"]


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    folder = tmp_path / "run"
    for name in (
        "partial-checkpoint-4/state",
        "removed-checkpoint-1",
        "partial-files",
        "checkpoint-2",
        "partial-results",
        ".cache",
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # An interrupted translation may lie beside the model, and files of a user's own.
    others = ("translated.txt.partial", "translated.txt.resume", ".tmp", ".tmpfiles_of_mine", "download.partial")
    for name in (".partial-run.yaml", ".tmpAbc123", "run.yaml", "train_log.jsonl", *others):
        (folder / name).touch()
    (folder / ".tmp123456").symlink_to(outside)
    removed = [
        ".partial-run.yaml",
        ".tmp123456",
        ".tmpAbc123",
        "partial-checkpoint-4",
        "partial-files",
        "removed-checkpoint-1",
    ]
    assert clean_leftovers(folder) == removed
    assert sorted(path.name for path in folder.iterdir()) == [
        *sorted([".cache", "checkpoint-2", "partial-results", "run.yaml", "train_log.jsonl", *others])
    ]
    assert (outside / "file").exists()
    assert clean_leftovers(folder) == clean_leftovers(tmp_path / "missing") == []


def test_a_checkpoint_that_was_being_replaced_gets_its_name_back(tmp_path):
    for name in ("replaced-checkpoint-2", "replaced-checkpoint-4", "checkpoint-4", "partial-checkpoint-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    clean_leftovers(tmp_path)
    assert tree(tmp_path) == [
        *("checkpoint-2", "checkpoint-2/replaced-checkpoint-2", "checkpoint-4", "checkpoint-4/checkpoint-4")
    ]
