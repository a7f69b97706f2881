"""The list of a checkpoint's files with sizes and checksums, by which damage is found before a run builds on it.

The checksum (xxh3_128) is fast and finds accidents: a flipped bit, a cut or an exchanged file. It is no protection
against an attacker, who could write the list anew.
"""

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from papers_to_gpt.engine.durable_files import write_durably

ALGORITHM = "xxh3_128"
CHUNK_SIZE = 1 << 22


def checksum(path: Path) -> str:
    """Returns the checksum of a file's content, in hexadecimal."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path, path: Path) -> None:
    """Writes to `path` the names, sizes and checksums of all files in `folder` and the folders in it."""
    files = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, ALGORITHM: checksum(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != path
    }
    write_durably(path, json.dumps({"files": files}, indent=1) + "\n")


def damaged_files(folder: Path, path: Path, required: tuple[str, ...]) -> list[str]:
    """Compares the files of a folder with its manifest.

    Args:
        folder: the folder. Files that the manifest does not name are not looked at.
        path: the manifest.
        required: files that a manifest must name.

    Returns:
        One clause for each file that is missing, cut or changed, such as "config.json is missing".
    """
    name = path.relative_to(folder).as_posix()
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        entries = {file: (entry["size"], entry[ALGORITHM]) for file, entry in files.items()}
    except FileNotFoundError:
        return [f"{name} is missing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{name} is damaged: it is no list of files with size and {ALGORITHM}"]
    problems = [f"{name} is damaged: it does not name {file}" for file in required if file not in entries]
    for file, (size, digest) in entries.items():
        problem = f"{name} names {file!r}, which is outside the folder" if _leaves(folder, file) else None
        problem = problem or _problem_of(folder / file, size, digest)
        if problem:
            problems.append(problem if problem.startswith(name) else f"{file} {problem}")
    return problems


def _leaves(folder: Path, name: str) -> bool:
    """Returns True if a name leads out of the folder, by its parts or by a link."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        return True
    return not Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))


def _problem_of(path: Path, size: Any, digest: Any) -> str | None:
    try:
        if not path.is_file():
            return "is missing"
        found = path.stat().st_size
        if found != size:
            return f"has {found:,} bytes instead of {size:,}" if isinstance(size, int) else "has no known size"
        if checksum(path) != digest:
            return "is damaged: its checksum differs"
    except OSError as error:
        return f"cannot be read: {os.strerror(error.errno)}"
    return None
