"""Names of tokens as a reader knows them."""

import unicodedata
from collections.abc import Collection, Sequence

from gpt1_scratch.tokenization import WORD_END
from seq2seq_scratch.tokenization import WORD_START

CONTINUES = "##"


def readable(tokens: Sequence[str], special: Collection[str], marks_ends: bool) -> list[str]:
    """Returns the names of consecutive tokens of a text: see `name_of`."""
    return [
        name_of(token, before, special, marks_ends) for before, token in zip([None, *tokens], tokens, strict=False)
    ]


def name_of(token: str, before: str | None, special: Collection[str], marks_ends: bool) -> str:
    """Returns a token without the mark of a word's start (`▁`) or end (`</w>`).

    A token that continues a word gets `##` in front, as in BERT's vocabulary. Punctuation, what follows it, and
    writing without spaces, such as Chinese, go without it.

    Args:
        token: the token.
        before: the token before it; None at the start of a text.
        special: tokens such as `</s>`, which are no part of a word and keep their names.
        marks_ends: True if the vocabulary marks the ends of words (GPT-1), False if their starts (translators).
    """
    if token in special:
        return token
    if marks_ends:
        name = token.removesuffix(WORD_END)
        continues = before is not None and not before.endswith(WORD_END)
    else:
        name = token.removeprefix(WORD_START)
        continues = before is not None and name == token
    name = name or token
    joined = continues and before not in special and before[-1].isalnum() and name[0].isalnum()
    return f"{CONTINUES}{name}" if joined and unicodedata.east_asian_width(name[0]) not in "WF" else name
