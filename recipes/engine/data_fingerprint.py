"""Fingerprints of a run's data, by which a resumed run notices that the data has changed.

They are cheap: the size of each file, its rows where they are quickly counted, and a hash of both ends. What changes
in the middle of a file and leaves its size as it was goes unnoticed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

END_SIZE = 64 * 1024  # bytes of each end
ROWS_OF_END = 20
COMPRESSIONS = (".gz", ".xz", ".zst")
# Lines of larger files are not counted: it would take seconds.
LARGEST_TO_COUNT = 256 * 2**20

# Such as "1,200 rows, 48,112 bytes, hash 0123456789abcdef", which run.yaml holds and messages quote.
Fingerprint = str


def fingerprint_files(
    name: str | Sequence[str] | None, endings: Sequence[str] = (), within: Iterable[str] = ()
) -> Fingerprint | None:
    """Returns the fingerprint of what a setting names: a file, a folder, or text files with a common prefix.

    Args:
        name: the value of the setting. Several names give their fingerprints joined, in their order.
        endings: the endings of text files, such as languages, which follow `name` and a dot.
        within: patterns of the files that count if `name` is a folder; all files if empty.

    Returns:
        The fingerprint; None if there is no such file, as for a name on the Hub.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        several = [fingerprint_files(each, endings, within) for each in name]
        return None if None in several or not several else " + ".join(several)
    path = Path(name)
    if path.is_dir():
        found = [file for pattern in (list(within) or ["**/*"]) for file in path.glob(pattern)]
        files = sorted(file for file in set(found) if file.is_file() and not file.name.startswith("."))
    elif path.is_file():
        files = [path]
    else:
        candidates = [[Path(f"{name}.{end}{more}") for more in ("", *COMPRESSIONS)] for end in endings]
        files = [file for several in candidates for file in [each for each in several if each.is_file()][:1]]
    if not files:
        return None
    rows = [_rows_of(file) for file in files]
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(_ends_of(file))
    aligned = not path.exists()  # a line of each file is one row
    counted = None if None in rows else max(rows) if aligned else sum(rows)
    size = sum(file.stat().st_size for file in files)
    parts = [] if counted is None else [f"{counted:,} rows"]
    parts += [f"{len(files):,} files"] if len(files) > 1 else []
    return ", ".join([*parts, f"{size:,} bytes", f"hash {digest.hexdigest()}"])


def fingerprint_rows(splits: Mapping[str, Any]) -> Fingerprint:
    """Returns the fingerprint of loaded splits, for data that is not in local files. Streams are ignored."""
    # A second to import, which a translation, whose input is a file, does not need.
    from datasets import Dataset

    held = {name: split for name, split in sorted(splits.items()) if isinstance(split, Dataset)}
    digest = hashlib.blake2b(digest_size=8)
    for split in held.values():
        ends = [*range(min(ROWS_OF_END, len(split))), *range(max(0, len(split) - ROWS_OF_END), len(split))]
        digest.update(json.dumps([split[row] for row in ends], default=str, sort_keys=True).encode())
    return f"{sum(map(len, held.values())):,} rows, hash {digest.hexdigest()}"


def rows_of_fingerprint(fingerprint: Fingerprint | None) -> str | None:
    """Returns the number of rows of a fingerprint from `fingerprint_rows`, such as "31,014 rows"."""
    return None if fingerprint is None else fingerprint.partition(", hash")[0]


def compare_fingerprints(was: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]) -> list[str]:
    """Says for each name in both what differs, in the words of an error message."""
    changed = [name for name in now if name in was and was[name] != now[name]]
    return [f"{name} had {was[name]}, has {now[name]}" for name in changed]


def _ends_of(file: Path) -> bytes:
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(END_SIZE)
        opened.seek(max(size - END_SIZE, 0))
        return start + opened.read(END_SIZE) + size.to_bytes(8, "little")


def _rows_of(file: Path) -> int | None:
    """Counts the rows of a parquet file, or the lines of a file that is not too large; None if unknown."""
    if file.suffix == ".parquet":
        try:
            return pyarrow.parquet.read_metadata(file).num_rows
        except (OSError, pyarrow.ArrowException):
            return None  # reading the data explains what is wrong with it
    if file.suffix in (*COMPRESSIONS, ".safetensors") or file.stat().st_size > LARGEST_TO_COUNT:
        return None
    with file.open("rb") as opened:
        return sum(block.count(b"\n") for block in iter(lambda: opened.read(2**20), b""))
