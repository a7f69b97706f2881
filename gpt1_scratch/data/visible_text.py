"""Tells text from what only looks like an empty line: white space, control and format characters, byte order marks.

A model makes something of such a line, but nothing that anybody asked for. Inference therefore answers it with an
empty line, and training leaves it out.

The packages do not import each other, and each has this file; a test compares them.
"""

import unicodedata

# Control and format characters (NUL, U+00AD, U+200B, U+FEFF), and separators of words, lines and paragraphs.
_INVISIBLE_CATEGORIES = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))

# Letters and marks that are drawn as nothing: the grapheme joiner, fillers in Hangul, two vowels in Khmer, the blank
# pattern in Braille, and selectors of a variant of the character before them.
_BLANKS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)


def has_visible_text(text: str) -> bool:
    """Whether a text has a character that a reader can see."""
    return any(
        unicodedata.category(character) not in _INVISIBLE_CATEGORIES and character not in _BLANKS for character in text
    )
