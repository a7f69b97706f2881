"""Finds fonts for the characters of a picture, and names the font that is missing.

matplotlib 3.11 shapes and orders right-to-left text itself (libraqm); it only has to be told which fonts to use.
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

logger = logging.getLogger(__name__)

DEFAULT_FAMILY = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Armenian, Georgian

# The font to install for the first word of characters' Unicode names.
FONTS = {
    **dict.fromkeys(("CJK", "IDEOGRAPHIC", "FULLWIDTH", "KANGXI", "BOPOMOFO"), ("Noto Sans CJK SC", "fonts-noto-cjk")),
    **dict.fromkeys(("HIRAGANA", "KATAKANA", "HALFWIDTH"), ("Noto Sans CJK JP", "fonts-noto-cjk")),
    "HANGUL": ("Noto Sans CJK KR", "fonts-noto-cjk"),
}
# For other letters the font is called Noto Sans and the script, which comes before the first of these words.
SCRIPT = re.compile(
    r"(?P<script>.+?) (?:LETTER|VOWEL|SYLLABLE|CHARACTER|SIGN|DIGIT|CONSONANT|MARK|SUBJOINED|CAPITAL)\b"
)
LETTERS_PACKAGE = "fonts-noto-core"
SYMBOLS = ("Symbola", "fonts-symbola")  # emoji too, without colours, which matplotlib cannot draw

# Fonts that have a glyph for everything, or glyphs that matplotlib cannot draw.
UNUSABLE = ("Last Resort", "LastResort", "Color", "Emoji")

_warned_of: set[str] = set()  # the fonts that were named; every label of a picture may lack the same one


def families_for(texts: Iterable[str]) -> list[str]:
    """Returns the font families that together have every character of the texts, for a Text's `fontfamily`.

    If no installed font has a character, a warning names a font that does and how to install it.
    """
    characters = {character for text in texts for character in text if character.isprintable() and character != " "}
    return list(_families_for(frozenset(characters)))


@lru_cache(maxsize=64)
def _families_for(characters: frozenset[str]) -> tuple[str, ...]:
    from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font

    default = get_font(findfont(DEFAULT_FAMILY))
    missing = {character for character in characters if not default.get_char_index(ord(character))}
    if not missing:
        return (DEFAULT_FAMILY,)
    chosen, missing = _choose(missing)
    if missing:
        # The list of fonts is kept in a file, and may be older than a font that the user has just installed.
        known = {entry.fname for entry in fontManager.ttflist}
        for path in findSystemFonts():
            if path not in known:
                try:
                    fontManager.addfont(path)
                except (OSError, RuntimeError):  # a damaged file
                    continue
        more, missing = _choose(missing)
        chosen += more
    if missing:
        fonts = {character: font_for(character)[0] for character in sorted(missing)}
        unnamed = [character for character, font in fonts.items() if font not in _warned_of]
        if unnamed:
            _warned_of.update(fonts.values())
            logger.warning("%s", describe_missing(unnamed))
    return (DEFAULT_FAMILY, *chosen)


def _choose(missing: set[str]) -> tuple[list[str], set[str]]:
    """Returns installed families, each the one that has most of what is still missing, and what no family has."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    covered: dict[str, set[str]] = {}
    plain = [entry for entry in fontManager.ttflist if entry.style == "normal" and entry.weight in (400, "normal")]
    for entry in plain:
        if entry.name not in covered and not any(word in entry.name for word in UNUSABLE):
            try:
                font = FT2Font(entry.fname, face_index=entry.index)
            except (OSError, RuntimeError):  # removed or damaged since it was listed
                continue
            covered[entry.name] = {character for character in missing if font.get_char_index(ord(character))}
    chosen, missing = [], set(missing)
    while missing and covered:
        name = max(sorted(covered), key=lambda name: len(covered[name] & missing))
        if not covered[name] & missing:
            break
        chosen.append(name)
        missing -= covered[name]
    return chosen, missing


def font_for(character: str) -> tuple[str, str]:
    """Returns the name of a font that has a character, and the package of Debian that has the font."""
    name = unicodedata.name(character, "UNKNOWN")
    first = name.split()[0]
    if first in FONTS:
        return FONTS[first]
    letters = SCRIPT.match(name)
    if unicodedata.category(character)[0] not in "LMN" or letters is None:
        return SYMBOLS
    return f"Noto Sans {letters['script'].title()}", LETTERS_PACKAGE


def describe_missing(characters: Sequence[str]) -> str:
    """Returns the message about characters that no installed font has, with the font to install."""
    fonts: dict[str, str] = {}
    for character in characters:
        name, package = font_for(character)
        fonts[name] = package
    shown = "".join(characters[:20]) + ("..." if len(characters) > 20 else "")
    return (
        f"No installed font has {shown}: the picture has boxes in their place. Install {' and '.join(fonts)} "
        f"(Debian and Ubuntu: apt install {' '.join(dict.fromkeys(fonts.values()))}; other systems: "
        "https://fonts.google.com/noto), then draw again."
    )
