"""Reads and writes text in lines, the same way in every recipe.

Text is UTF-8, whatever the locale says. Only a line feed, or a carriage return before it, ends a line: the other
separators of Unicode stand within sentences. A byte order mark is dropped. An output file is written aside and put in
its place when it is whole, so that an error leaves an earlier file as it was, and the input may be the output.

The packages do not import each other, and each has this file; a test compares them.
"""

import gzip
import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

# The tables that `readers.py` beside this file reads; those who read lines alone need not import it.
JSON_EXTENSIONS = (".jsonl", ".ndjson", ".json")
TABLE_EXTENSIONS = (".csv", ".tsv", *JSON_EXTENSIONS, ".parquet")


def file_extension(path: str | Path) -> str:
    """What tells a file's kind: its extension in lower case, without that of a compression."""
    path = Path(path)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def open_file(path: str | Path) -> BinaryIO:
    """Opens a file to read its bytes, decompressed.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return open(path, "rb")
    if compression == "gzip":
        return gzip.open(path)
    import pyarrow  # takes a while, and most files are not compressed

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), compression))


@dataclass
class FilePlace:
    """A place in a file where reading can begin again.

    Attributes:
        offset: the byte, after decompression, behind the last line that was read.
        line: the number of that line; 0 at the beginning.
        rows: rows read behind the offset, of a file that is not read in lines.
    """

    offset: int = 0
    line: int = 0
    rows: int = 0


def numbered_lines(source: str | Path | None, place: FilePlace | None = None) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, from 1. A line keeps what ends it.

    Args:
        source: a file; None for standard input.
        place: where to begin in the file; it is moved behind every line that is given.

    Raises:
        ValueError: a file that is missing, not UTF-8 or wrongly compressed, with the line and the byte's offset.
    """
    if source is None:
        where = "standard input"
        # Whatever the locale says, input is UTF-8: its bytes are read. A stream of text alone has none.
        bytes_of = getattr(sys.stdin, "buffer", None)
        stream = io.BytesIO(sys.stdin.read().encode()) if bytes_of is None else bytes_of
    else:
        where, stream = str(source), open_file(source)
    place = place or FilePlace()
    offset = place.offset
    try:
        _skip_bytes(stream, offset)
        for number, line in enumerate(stream, start=place.line + 1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{where}, line {number}: byte 0x{line[error.start]:02x} at offset {offset + error.start} is "
                    "not UTF-8. Convert the text to UTF-8."
                ) from error
            offset += len(line)
            place.offset, place.line = offset, number
            yield number, text.removeprefix("\ufeff") if number == 1 else text
    except (EOFError, OSError) as error:
        raise ValueError(f"{where} cannot be read after {offset:,} bytes: {error}.") from error
    finally:
        if source is not None:
            stream.close()


def _skip_bytes(stream: BinaryIO, size: int) -> None:
    if size and stream.seekable():
        stream.seek(size)
        return
    while size:  # zstandard
        if not (read := len(stream.read(min(size, 2**20)))):
            raise EOFError("the file has become shorter")
        size -= read


def without_line_end(line: str) -> str:
    """Drops the line feed that ends a line, with a carriage return before it."""
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def read_lines(source: str | Path | None) -> list[str]:
    """The lines of a text file or, for None, of standard input, without what ends them.

    Raises:
        ValueError: a file that is missing, empty or not UTF-8, with the line and the byte's offset.
    """
    lines = [without_line_end(line) for _, line in numbered_lines(source)]
    if not lines and source is not None:
        raise ValueError(f"{source} is empty.")
    return lines


@contextmanager
def open_output(path: str | Path | None) -> Iterator[TextIO]:
    """Opens a file, or for None standard output, to write text.

    The file is written under another name beside its place and takes its place at the end. After an error the earlier
    file, if there is one, is what it was.

    Raises:
        ValueError: the path is a folder's, or lies in a folder that does not exist.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    target = Path(os.path.realpath(path))  # a link stays, and what it leads to is replaced
    if target.is_dir():
        raise ValueError(f"The output file {path} is a folder. Name a file.")
    if not target.parent.is_dir():
        raise ValueError(f"The output file {path} cannot be written: there is no folder {target.parent}.")
    if target.exists() and not target.is_file():  # a pipe or a device
        with open(target, "w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            yield file
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
