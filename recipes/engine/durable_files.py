"""Files that survive a kill, a full disk and a loss of power: written aside, flushed to the disk, then renamed.

Under its own name a file is either the whole old one or the whole new one. What an interrupted program leaves under
another name, `clean_leftovers` removes at the next start.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

PARTIAL_FILE = ".partial-"  # begins the name of a file while it is written
PARTIAL_FOLDER = "partial-"  # begins the name of a folder while it is written
REPLACED_FOLDER = "replaced-"  # begins the name of a folder while another one takes its place
REMOVED_FOLDER = "removed-"  # begins the name of a folder while its files are removed
LEFTOVERS = (
    *(f"{prefix}{kind}-*" for prefix in (PARTIAL_FOLDER, REMOVED_FOLDER) for kind in ("checkpoint", "recovery")),
    *("partial-files", f"{PARTIAL_FILE}*"),
    ".tmp??????",  # where safetensors and tokenizers write
)

# What fsync answers where a file system or a platform does not have it.
NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM}

# What helps if a file cannot be written.
REMEDIES = {
    errno.ENOSPC: "Free space on the disk",
    errno.EDQUOT: "Free space in the quota",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "Make the file system writable",
    errno.EACCES: "Make the folder writable",
    errno.EPERM: "Make the folder writable",
    errno.ENOENT: "Do not delete the folder while a run writes to it",
}


RESUME = "start the run again, without --overwrite_output_dir, to resume from its last checkpoint"


class WriteError(ValueError):
    """A file could not be written. What had been written before under its name is still there."""


def make_folder(folder: str | os.PathLike, setting: str = "output_dir") -> Path:
    """Creates the folder that a setting names, unless it exists, and returns its path.

    Raises:
        ValueError: the folder, or one that it is to be in, is a file, or it cannot be created.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{setting} is {folder}, which is a file or would be in one. Name a folder.") from error
    except OSError as error:
        raise ValueError(f"{setting} {folder} cannot be written to: {error}. Name another folder.") from error
    return folder


def write_durably(path: str | os.PathLike, content: str | bytes, then: str = RESUME) -> None:
    """Writes a file that is on the disk, whole, when this function returns. Text is written as UTF-8.

    Args:
        path: the file.
        content: what it holds afterwards.
        then: see `naming_failed_writes`.

    Raises:
        WriteError: if the file cannot be written; the file that was there before stays as it is.
    """
    path = Path(path)
    partial = path.with_name(PARTIAL_FILE + path.name)
    with naming_failed_writes(path, then=then):
        try:
            with partial.open("wb") as file:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
                file.flush()
                _fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def append_line(path: str | os.PathLike, line: str) -> None:
    """Appends a line to a file; whoever reads the file meanwhile, or after a failure, finds whole lines alone.

    Raises:
        WriteError: if the line cannot be written; the file then ends with the line before.
    """
    content = (line + "\n").encode("utf-8")
    with naming_failed_writes(path), open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            written = file.write(content)
            while written < len(content):  # the disk is full, or will be: the next call says so
                written += file.write(content[written:])
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def _written_aside(partial: Path, shown_as: Path, then: str = RESUME) -> Iterator[None]:
    """Makes an empty folder for a block to write to, and flushes it when the block ends without an error."""
    with naming_failed_writes(shown_as, then=then):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    with naming_failed_writes(partial, shown_as=shown_as, then=then):
        yield
        _share_weights(partial)
        flush_tree(partial)


@contextlib.contextmanager
def durable_folder(final: str | os.PathLike, then: str = RESUME) -> Iterator[Path]:
    """Gives a folder to write to, which has its final name, and is on the disk, when the block ends without an error.

    A folder that had the name is removed after the new one has taken its place.

    Args:
        final: the folder's final name. While it is written, the folder lies beside it as `partial-NAME`.
        then: see `naming_failed_writes`.

    Raises:
        WriteError: if the folder cannot be written; what was written of it is removed, which frees the space.
    """
    final = Path(final)
    partial, replaced = final.with_name(PARTIAL_FOLDER + final.name), final.with_name(REPLACED_FOLDER + final.name)
    try:
        with _written_aside(partial, final, then):
            yield partial
        with naming_failed_writes(final, then=then):
            if final.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                final.rename(replaced)
            partial.rename(final)
            flush_folder(final.parent)
    except BaseException:
        if replaced.exists() and not final.exists():
            replaced.rename(final)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def files_written_aside(folder: str | os.PathLike) -> Iterator[Path]:
    """Gives an empty folder whose files move into `folder`, flushed, when the block ends without an error.

    Weights move last: a folder that has the new weights also has the new configuration and the new tokenizer.

    Raises:
        WriteError: if a file cannot be written.
    """
    folder = Path(folder)
    partial = folder / f"{PARTIAL_FOLDER}files"
    try:
        with _written_aside(partial, folder):
            yield partial
        with naming_failed_writes(folder):
            files = [path for path in partial.rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path)):
                target = folder / path.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            flush_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def flush_file(path: str | os.PathLike) -> None:
    """Waits until a file's content is on the disk.

    Raises:
        WriteError: if the disk cannot take it.
    """
    with naming_failed_writes(path), open(path, "rb") as file:
        _fsync(file.fileno())


def flush_folder(folder: str | os.PathLike) -> None:
    """Waits until the names in a folder are on the disk: without this, a renamed file may lose its name."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in NO_FSYNC:  # Windows does not open folders
            return
        raise
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Waits until all files in a folder are on the disk, and then the folder and those in it."""
    folders = [folder]
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            folders.append(path)
        elif path.is_file():
            flush_file(path)
    for path in reversed(folders):
        flush_folder(path)


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise


def _share_weights(folder: Path) -> None:
    """Gives weights the permissions of a new file; safetensors writes files that only their owner may read."""
    weights = list(folder.rglob("*.safetensors"))
    if not weights:
        return
    probe = folder / f"{PARTIAL_FILE}permissions"
    probe.touch()  # to ask for the umask is to change it, for all threads
    permissions = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in weights:
        path.chmod(permissions)


@contextlib.contextmanager
def naming_failed_writes(
    path: str | os.PathLike, shown_as: str | os.PathLike | None = None, then: str = RESUME
) -> Iterator[None]:
    """Turns an error that a full or read-only disk causes in any library into a `WriteError` that names the file.

    Args:
        path: the file that the block writes, or the folder whose files it writes.
        shown_as: the name that `path` gets when it is complete, for the message. Default: `path`.
        then: what the message says to do once the cause is removed.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = error_number(error)
        if number is None:
            raise
        file = _failed_file(Path(path), error)
        if shown_as is not None and file.is_relative_to(path):
            file = Path(shown_as) / file.relative_to(path)
        remedy = REMEDIES.get(number, "Repair the disk")
        raise WriteError(f"{file} could not be written: {os.strerror(number)}. {remedy}; then {then}.") from error


def error_number(error: BaseException) -> int | None:
    """Returns the system's error number of an exception of Python, safetensors, tokenizers or torch, or None."""
    if isinstance(error, OSError):
        return error.errno
    # Libraries in Rust report it in the message, torch not at all: its writer finds fewer bytes than it wrote.
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found:
        return int(found[1])
    if re.search(r"[Nn]o space left|unexpected pos|PytorchStreamWriter failed", str(error)):
        return errno.ENOSPC
    return None


def _failed_file(path: Path, error: BaseException) -> Path:
    """Returns the file that an error is about; in a folder of several files, the most likely one."""
    name = getattr(error, "filename", None)
    if isinstance(name, str | os.PathLike) and Path(name).is_relative_to(path):
        return Path(name)
    if not path.is_dir():
        return path
    if type(error).__name__ == "SafetensorError":
        return path / "model.safetensors"
    with contextlib.suppress(OSError):
        files = [file for file in path.rglob("*") if file.is_file()]
        if files:
            return max(files, key=lambda file: file.stat().st_mtime_ns)
    return path


def remove_folder(folder: str | os.PathLike) -> None:
    """Removes a folder that, if this is interrupted, is not there under its name any more with a part of its files."""
    folder = Path(folder)
    removed = folder.with_name(REMOVED_FOLDER + folder.name)
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def clean_leftovers(output_dir: str | os.PathLike) -> list[str]:
    """Removes what an interrupted program left in a run's folder; call it before anything is written.

    A folder that was being replaced gets its name back if the new one did not take it.

    Returns:
        The names of what was removed.
    """
    output_dir = Path(output_dir)
    leftovers = [path for pattern in LEFTOVERS for path in output_dir.glob(pattern)]
    for replaced in (
        path for kind in ("checkpoint", "recovery") for path in output_dir.glob(f"{REPLACED_FOLDER}{kind}-*")
    ):
        final = replaced.with_name(replaced.name.removeprefix(REPLACED_FOLDER))
        if final.exists():
            leftovers.append(replaced)
        else:
            replaced.rename(final)
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return sorted(path.name for path in leftovers)
