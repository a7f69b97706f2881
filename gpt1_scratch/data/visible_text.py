"""Detects lines that look empty: white space, control and format characters, byte order marks.

A model's output for such a line would be arbitrary. Inference therefore returns an empty line for it, and training
leaves it out.

The packages do not import each other, and each has this file; a test compares them.
"""

import unicodedata

# Control and format characters (NUL, U+00AD, U+200B, U+FEFF), and separators of words, lines and paragraphs.
_INVISIBLE_CATEGORIES = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))

# Letters and marks that are not visible: the grapheme joiner, fillers in Hangul, two vowels in Khmer, the blank
# pattern in Braille, and selectors of a variant of the preceding character.
_BLANKS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)


def has_visible_text(text: str) -> bool:
    """Returns True if a text has a visible character."""
    return any(
        unicodedata.category(character) not in _INVISIBLE_CATEGORIES and character not in _BLANKS for character in text
    )
