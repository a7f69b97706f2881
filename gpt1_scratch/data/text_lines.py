"""Reads and writes text in lines, the same way in every recipe.

Text is UTF-8, whatever the locale says. A line ends with a line feed, which may follow a carriage return; other line
separators of Unicode are part of the text. A byte order mark is dropped. An output file is written under another name
and renamed when it is complete, so that an error does not change an earlier file, and the input may be the output.

The packages do not import each other, and each has this file; a test compares them.
"""

import contextlib
import errno
import gzip
import io
import itertools
import lzma
import os
import select
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}

# Errors while a file is read that is cut off or damaged, compressed or not.
ERRORS_OF_READING = (EOFError, OSError, lzma.LZMAError, zlib.error)

# Errors while a file is written, which do not name it: no space, quota or size limit exceeded, broken disk.
ERRORS_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# What helps if a file cannot be written. The recipes' own table has the same; a test compares them.
REMEDIES = {
    errno.ENOSPC: "Free space on the disk",
    errno.EDQUOT: "Free space in the quota",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "Make the file system writable",
    errno.EACCES: "Make the folder writable",
    errno.EPERM: "Make the folder writable",
}

# The tables that `readers.py` reads. They are named here, because importing that file takes longer.
JSON_EXTENSIONS = (".jsonl", ".ndjson", ".json")
TABLE_EXTENSIONS = (".csv", ".tsv", *JSON_EXTENSIONS, ".parquet")


def file_extension(path: str | Path) -> str:
    """Returns a file's extension in lower case, without that of a compression."""
    path = Path(path)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def check_file(path: str | Path, setting: str = "") -> None:
    """Raises ValueError if there is no such file, or it is a folder.

    Args:
        path: the file.
        setting: the setting that names the file, for the message.
    """
    named = f"{setting}: " if setting else ""
    if Path(path).is_dir():
        raise ValueError(f"{named}{path} is a folder. Name a file in it.")
    if not Path(path).exists():
        raise ValueError(f"{named}there is no file {path}." if setting else f"There is no file {path}.")


def is_terminal(stream: TextIO | None) -> bool:
    """Returns True if a stream is a terminal; a closed standard stream is None."""
    return stream is not None and stream.isatty()


def open_file(path: str | Path) -> BinaryIO:
    """Opens a file or named pipe to read its bytes, which are decompressed.

    Raises:
        ValueError: if there is no such file, or it is a folder.
    """
    path = Path(path)
    check_file(path)
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return open(path, "rb")
    if compression == "gzip":
        return gzip.open(path)
    if compression == "xz":
        return lzma.open(path)
    import pyarrow  # slow, and few files are compressed

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), compression))


@dataclass
class FilePlace:
    """A place in a file at which reading can begin again.

    Attributes:
        offset: the byte, after decompression, that follows the last line that was read.
        line: the number of that line; 0 at the beginning.
        rows: number of rows that were read after the offset, for files that are not read in lines.
    """

    offset: int = 0
    line: int = 0
    rows: int = 0


def numbered_lines(source: str | Path | None, place: FilePlace | None = None) -> Iterator[tuple[int, str]]:
    """Yields lines with their numbers, counted from 1. A line keeps its line end.

    Args:
        source: a file; None for standard input.
        place: where to begin in the file; it is moved behind every line that is given.

    Raises:
        ValueError: if the file is missing, not UTF-8 or wrongly compressed; the message has the line and the offset.
    """
    if source is None:
        yield from _decode(_bytes_of_standard_input(), "standard input", FilePlace())
        return
    place = place or FilePlace()
    with open_file(source) as stream:
        try:
            _skip_bytes(stream, place.offset)
        except ERRORS_OF_READING as error:
            raise ValueError(f"{source} cannot be read after {place.offset:,} bytes: {error}.") from error
        yield from _decode(stream, str(source), place)


def _bytes_of_standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise ValueError("Standard input is closed. Give it text, or name a file.")
    # The bytes are read, because the locale may name another encoding than UTF-8. A text stream has no bytes.
    stream = getattr(sys.stdin, "buffer", None)
    return io.BytesIO(sys.stdin.read().encode()) if stream is None else stream


def _decode(stream: Iterable[bytes], where: str, place: FilePlace) -> Iterator[tuple[int, str]]:
    offset = place.offset
    try:
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
    except ERRORS_OF_READING as error:
        raise ValueError(f"{where} cannot be read after {offset:,} bytes: {error}.") from error


def _skip_bytes(stream: BinaryIO, size: int) -> None:
    if size and stream.seekable():
        stream.seek(size)
        return
    while size:  # zstandard
        if not (read := len(stream.read(min(size, 2**20)))):
            raise EOFError("the file has become shorter")
        size -= read


def without_line_end(line: str) -> str:
    """Removes the line feed at the end of a line, and a carriage return before it."""
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def read_lines(source: str | Path | None) -> list[str]:
    """Reads the lines of a text file or, for None, of standard input, without their line ends.

    Raises:
        ValueError: if the file is missing, empty or not UTF-8; the message has the line and the offset.
    """
    lines = [without_line_end(line) for _, line in numbered_lines(source)]
    if not lines and source is not None:
        raise ValueError(f"{source} is empty.")
    return lines


class _Pipe:
    """Lines of a file descriptor, of which one can ask whether the next is there."""

    def __init__(self, descriptor: int):
        self.descriptor, self.ended = descriptor, False
        self._bytes, self._searched = bytearray(), 0

    def __iter__(self) -> Iterator[bytes]:
        while self.has_line(None):
            end = self._bytes.find(b"\n", self._searched) + 1 or len(self._bytes)
            line = bytes(self._bytes[:end])
            del self._bytes[:end]
            self._searched = 0
            yield line

    def has_line(self, seconds: float | None) -> bool:
        """Returns whether a line comes before nothing has come for some seconds; None waits until the end."""
        while (found := self._bytes.find(b"\n", self._searched)) < 0 and not self.ended:
            self._searched = len(self._bytes)
            if not select.select([self.descriptor], [], [], seconds)[0]:
                return False
            read = os.read(self.descriptor, 2**16)
            self._bytes += read
            self.ended = not read
        self._searched = max(found, 0)
        return bool(self._bytes)


def groups_of_lines(
    source: str | Path | None, largest: int, wait: float = 0.1, place: FilePlace | None = None
) -> Iterator[list[str]]:
    """Yields the lines of a text file or, for None, of standard input, without their line ends, in lists.

    Only one list is in memory at a time. Lines that come from a pipe one by one are given when no other one has come
    for a short time.

    Args:
        source: a file; None for standard input.
        largest: number of lines of a list, except the last one and those of a pipe.
        wait: seconds.
        place: where to begin in a file; while a list is used, it is behind the list's last line.

    Raises:
        ValueError: if the file is missing, empty or not UTF-8; the message has the line and the offset.
    """
    place = place or FilePlace()
    pipe = None
    if source is None and sys.stdin is not None:
        with contextlib.suppress(OSError, AttributeError):  # a stream in memory has no descriptor
            pipe = _Pipe(sys.stdin.fileno())
    numbered = numbered_lines(source, place) if pipe is None else _decode(pipe, "standard input", FilePlace())
    lines = (without_line_end(line) for _, line in numbered)
    for line in lines:
        group = [line]
        while len(group) < largest and (pipe is None or pipe.has_line(wait)):
            more = list(itertools.islice(lines, 1 if pipe else largest - 1))
            if not more:
                break
            group += more
        yield group
    if place.line == 0 and source is not None:
        raise ValueError(f"{source} is empty.")


def _open_to_write(path: Path, compression: str | None) -> TextIO:
    if compression is None:
        return open(path, "w", encoding="utf-8", newline="\n")
    if compression == "gzip":
        return gzip.open(path, "wt", encoding="utf-8", newline="\n")
    if compression == "xz":
        return lzma.open(path, "wt", encoding="utf-8", newline="\n")
    import pyarrow

    stream = pyarrow.CompressedOutputStream(pyarrow.OSFile(str(path), "wb"), compression)
    return io.TextIOWrapper(stream, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def open_output(path: str | Path | None) -> Iterator[TextIO]:
    """Opens a file, or for None standard output, to write text.

    A name that ends in `.gz`, `.xz` or `.zst` gives a compressed file. The file is written under another name in the
    same folder and renamed at the end. After an error, an earlier file of the name is unchanged.

    Raises:
        ValueError: if the path is a folder or in a folder that does not exist, or the file cannot be written.
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
    target = Path(os.path.realpath(path))  # a link is kept, and the file that it points to is replaced
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
        remedy = f"{REMEDIES[error.errno]}, or name" if error.errno in REMEDIES else "Name"
        raise ValueError(
            f"The output file {path} cannot be written: {error.strerror or error}. {remedy} another file."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
