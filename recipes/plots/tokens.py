"""Names of tokens as a reader knows them."""

import unicodedata
from collections.abc import Collection, Sequence

CONTINUES = "##"


def readable(
    tokens: Sequence[str], special: Collection[str], *, word_start: str = "", word_end: str = ""
) -> list[str]:
    """Returns the names of consecutive tokens of a text: see `name_of`."""
    marks = {"word_start": word_start, "word_end": word_end}
    return [name_of(token, before, special, **marks) for before, token in zip([None, *tokens], tokens, strict=False)]


def name_of(
    token: str, before: str | None, special: Collection[str], *, word_start: str = "", word_end: str = ""
) -> str:
    """Returns a token without the mark of a word's start or end.

    A token that continues a word gets `##` in front, as in BERT's vocabulary. Punctuation, what follows it, and
    writing without spaces, such as Chinese, go without it.

    Args:
        token: the token.
        before: the token before it; None at the start of a text.
        special: tokens such as `</s>`, which are no part of a word and keep their names.
        word_start: what the vocabulary marks the starts of words with, such as `▁`.
        word_end: what it marks their ends with, such as `</w>`, if it marks ends.
    """
    if token in special:
        return token
    if word_end:
        name = token.removesuffix(word_end)
        continues = before is not None and not before.endswith(word_end)
    else:
        name = token.removeprefix(word_start)
        continues = before is not None and name == token
    name = name or token
    joined = continues and before not in special and before[-1].isalnum() and name[0].isalnum()
    return f"{CONTINUES}{name}" if joined and unicodedata.east_asian_width(name[0]) not in "WF" else name
