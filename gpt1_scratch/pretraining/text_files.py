"""Checks that a file is text."""

import codecs
from pathlib import Path

# Bytes that no text file has: what a zip archive, an image or UTF-16 shows early.
BINARY_BYTES = bytes(set(range(32)) - {*b"\t\n\v\f\r\x1a\x1b"})


READ_SIZE = 2**20


def check_text_file(path: str | Path) -> None:
    """Makes sure that a file is text in UTF-8.

    Raises:
        ValueError: it is not; the message names the file and the offset of the first offending byte.
    """
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    with open(path, "rb") as file:
        while True:
            piece = file.read(READ_SIZE)
            pending = len(decoder.getstate()[0])  # bytes of a character that the piece before began
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                wrong = offset - pending + error.start
                raise ValueError(
                    f"{path}: the byte at offset {wrong} (0x{error.object[error.start]:02x}) is not UTF-8. Convert "
                    "the file to UTF-8, or leave it out if it is not text."
                ) from error
            if binary := set(piece) & set(BINARY_BYTES):
                place = min(piece.index(byte) for byte in binary)
                raise ValueError(
                    f"{path}: the byte at offset {offset + place} (0x{piece[place]:02x}) does not occur in text; this "
                    "is a binary file, or text in another encoding than UTF-8."
                )
            if not piece:
                return
            offset += len(piece)
