"""Reads and writes text in lines, the same way in every recipe.

Text is UTF-8, whatever the locale says. Only a line feed, or a carriage return before it, ends a line: the other
separators of Unicode stand within sentences. A byte order mark is dropped. An output file is written aside and put in
its place when it is whole, so that an error leaves an earlier file as it was, and the input may be the output.

The packages do not import each other, and each has this file; a test compares them.
"""

import errno
import gzip
import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

# Errors of a file that is open have no name: no space, beyond the quota or the largest file, a broken disk.
ERRORS_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# The tables that `readers.py` beside this file reads; those who read lines alone need not import it.
JSON_EXTENSIONS = (".jsonl", ".ndjson", ".json")
TABLE_EXTENSIONS = (".csv", ".tsv", *JSON_EXTENSIONS, ".parquet")


def file_extension(path: str | Path) -> str:
    """What tells a file's kind: its extension in lower case, without that of a compression."""
    path = Path(path)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def check_file(path: str | Path, setting: str = "") -> None:
    """Raises ValueError if there is no such file, or it is a folder.

    Args:
        path: the file.
        setting: what named it, for the message.
    """
    named = f"{setting}: " if setting else ""
    if Path(path).is_dir():
        raise ValueError(f"{named}{path} is a folder. Name a file in it.")
    if not Path(path).exists():
        raise ValueError(f"{named}there is no file {path}." if setting else f"There is no file {path}.")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person types at a stream, which is None where it is closed."""
    return stream is not None and stream.isatty()


def open_file(path: str | Path) -> BinaryIO:
    """Opens a file, or a pipe that has a name, to read its bytes, decompressed.

    Raises:
        ValueError: there is no such file, or it is a folder.
    """
    path = Path(path)
    check_file(path)
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return open(path, "rb")
    if compression == "gzip":
        return gzip.open(path)
    import pyarrow  # takes a while, and most files are not compressed

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), compression))


def numbered_lines(source: str | Path | None) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, from 1. A line keeps what ends it.

    Args:
        source: a file; None for standard input.

    Raises:
        ValueError: a file that is missing, not UTF-8 or wrongly compressed, with the line and the byte's offset.
    """
    if source is None:
        where = "standard input"
        if sys.stdin is None:
            raise ValueError("Standard input is closed. Give it text, or name a file.")
        # Whatever the locale says, input is UTF-8: its bytes are read. A stream of text alone has none.
        bytes_of = getattr(sys.stdin, "buffer", None)
        stream = io.BytesIO(sys.stdin.read().encode()) if bytes_of is None else bytes_of
    else:
        where, stream = str(source), open_file(source)
    offset = 0
    try:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{where}, line {number}: byte 0x{line[error.start]:02x} at offset {offset + error.start} is "
                    "not UTF-8. Convert the text to UTF-8."
                ) from error
            offset += len(line)
            yield number, text.removeprefix("\ufeff") if number == 1 else text
    except (EOFError, OSError) as error:
        raise ValueError(f"{where} cannot be read after {offset:,} bytes: {error}.") from error
    finally:
        if source is not None:
            stream.close()


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


def _open_to_write(path: Path, compression: str | None) -> TextIO:
    if compression is None:
        return open(path, "w", encoding="utf-8", newline="\n")
    if compression == "gzip":
        return gzip.open(path, "wt", encoding="utf-8", newline="\n")
    import pyarrow

    stream = pyarrow.CompressedOutputStream(pyarrow.OSFile(str(path), "wb"), compression)
    return io.TextIOWrapper(stream, encoding="utf-8", newline="\n")


@contextmanager
def open_output(path: str | Path | None) -> Iterator[TextIO]:
    """Opens a file, or for None standard output, to write text.

    A name that ends in `.gz` or `.zst` gives a compressed file. The file is written under another name beside its
    place and takes its place at the end. After an error the earlier file, if there is one, is what it was.

    Raises:
        ValueError: the path is a folder's, or lies in a folder that does not exist, or the file cannot be written.
    """
    if path is None:
        if sys.stdout is None:
            raise ValueError("Standard output is closed. Leave it open, or name an output file.")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        try:
            yield sys.stdout
        except OSError as error:
            if error.errno not in ERRORS_OF_WRITING:
                raise
            raise ValueError(f"Standard output cannot be written: {error.strerror}.") from error
        return
    target = Path(os.path.realpath(path))  # a link stays, and what it leads to is replaced
    if target.is_dir():
        raise ValueError(f"The output file {path} is a folder. Name a file.")
    if not target.parent.is_dir():
        raise ValueError(f"The output file {path} cannot be written: there is no folder {target.parent}.")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    is_device = target.exists() and not target.is_file()  # or a pipe
    try:
        with _open_to_write(target if is_device else partial, COMPRESSIONS.get(target.suffix.lower())) as file:
            yield file
        if is_device:
            return
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except OSError as error:
        if error.filename not in (str(target), str(partial)) and error.errno not in ERRORS_OF_WRITING:
            raise
        raise ValueError(
            f"The output file {path} cannot be written: {error.strerror or error}. Free space, or name another file."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
