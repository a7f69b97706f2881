"""Words and phrases in text and in a search: where words end, and which tokens would complete a phrase.

In a vocabulary of subwords, many tokens end in the middle of a word, so a phrase is not found by its tokens. It is
found in the text that the tokens spell, where a boundary of words comes before it and after it. So "Haus" is part of
"das Haus." and of "Haus-Nummer", but not of "Hausmeister", whatever tokens write these.
"""

import bisect
import functools
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from .tokenization import WORD_START

# Thai, Lao, Burmese, Khmer, kana and Chinese characters: words follow each other without a space.
_WITHOUT_SPACES = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF))
_WITHOUT_SPACES += ((0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF))

# A byte of a character that the vocabulary lacks stands for itself as Python's "surrogateescape" writes it.
_FIRST_BYTE = 0xDC00
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")

# A letter of a script with spaces, which stands for any other.
_LETTER = "a"
_LAST_CHARACTER = "\U0010ffff"


@functools.cache
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] == "M":
        return "mark"
    if category[0] not in "LN" and category not in ("Cf", "Cs", "Co"):
        return "other"
    code = ord(character)
    return "alone" if any(first <= code <= last for first, last in _WITHOUT_SPACES) else "letter"


def joins(left: str, right: str) -> bool:
    """Returns True if two adjacent characters are part of one word.

    Letters, digits and marks make up words. In scripts without spaces, every character counts as a word.
    """
    if _kind(right) == "mark":
        return not left.isspace()
    return _kind(right) == "letter" and _kind(left) in ("letter", "mark")


def words_of(text: str) -> tuple[str, ...]:
    """Splits text, in Unicode NFC, into words and punctuation marks, without white space."""
    words: list[str] = []
    before = " "
    for character in unicodedata.normalize("NFC", text):
        if joins(before, character):
            words[-1] += character
        elif not character.isspace():
            words.append(character)
        before = character
    return tuple(words)


def any_casing(text: str) -> bool:
    """Returns True if a phrase is found in every casing, which is so if it has no capital letter."""
    return text == text.lower()


def fold_case(text: str) -> str:
    """Returns a text for comparison in any casing: a letter is the same in a token and a word, alone and at its end.

    In lower case a Greek sigma depends on the letters around it, and a Turkish dotted I becomes two characters.
    """
    return text.replace("\u0130", "i").lower().replace("\u03c2", "\u03c3")


class Spelling:
    """The text that each token of a target vocabulary spells.

    Attributes:
        texts: V texts; a mark of a word's start is a space, and special tokens are empty.
        starts_word: indices of the tokens that never continue a word, special tokens among them.
        end_ids: the tokens that end a sentence.
        whole_words: True if every token is a whole word, so that no token continues one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, end_ids: Iterable[int]):
        self.tokenizer, self.end_ids = tokenizer, sorted(end_ids)
        special = {*tokenizer.all_special_ids, *self.end_ids}
        known = min(len(tokenizer), size)
        pieces = tokenizer.convert_ids_to_tokens(list(range(known)))
        self.texts = ["" if index in special else _read(piece) for index, piece in enumerate(pieces)]
        self.texts += [""] * (size - known)
        starts = [not text or not joins(_LETTER, text[0]) for text in self.texts]
        self.starts_word = np.flatnonzero(starts)
        self.begins_word: list[bool] = starts
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.whole_words = backend is not None and type(backend.model).__name__ == "WordLevel"

    def tokens(self, text: str) -> list[int] | None:
        """Returns the tokens of a text without the end token; None if the vocabulary lacks a word."""
        ids = self.tokenizer(text_target=text, add_special_tokens=False, verbose=False)["input_ids"]
        return None if self.tokenizer.unk_token_id in ids else ids

    def text(self, ids: Iterable[int]) -> str:
        """Returns what tokens spell."""
        return "".join(self.texts[index] for index in ids)


def _read(piece: str) -> str:
    if (byte := _BYTE_TOKEN.fullmatch(piece)) is None:
        return piece.replace(WORD_START, " ")
    code = int(byte[1], 16)
    text = chr(code if code < 0x80 else _FIRST_BYTE + code)
    return " " if text.isspace() else text


class TextIndex:
    """Finds tokens by the text that they spell.

    Args:
        texts: V texts; empty ones are never found.
    """

    def __init__(self, texts: Sequence[str]):
        self._order = sorted((index for index, text in enumerate(texts) if text), key=texts.__getitem__)
        self._texts = [texts[index] for index in self._order]

    def starting_with(self, text: str) -> list[tuple[int, str]]:
        """Returns the tokens that start with a text, with what they spell."""
        first = bisect.bisect_left(self._texts, text)
        last = bisect.bisect_left(self._texts, text + _LAST_CHARACTER)
        return list(zip(self._order[first:last], self._texts[first:last], strict=True))

    def equal_to(self, text: str) -> list[int]:
        """Returns the tokens that spell exactly a text."""
        first, last = bisect.bisect_left(self._texts, text), bisect.bisect_right(self._texts, text)
        return self._order[first:last]

    def steps_to_write(self, text: str) -> tuple[float, ...]:
        """Returns the smallest number of tokens that write a text from each of its places; the last one may go on.

        It is infinity where no tokens write the rest of the text, and 0 at its end.
        """
        steps: list[float] = [math.inf] * len(text) + [0]
        for place in reversed(range(len(text))):
            if self.starting_with(text[place:]):
                steps[place] = 1
                continue
            ends = (end for end in range(place + 1, len(text)) if self.equal_to(text[place:end]))
            steps[place] = 1 + min((steps[end] for end in ends), default=math.inf)
        return tuple(steps)


class PhraseMatcher:
    """Says which tokens would complete a phrase, after any text.

    Args:
        phrases: as the vocabulary spells them, without outer spaces.
        texts: what the V tokens spell.
        starts_word: indices of the tokens that never continue a word.
        whole_words: as in `Spelling`.
    """

    def __init__(self, phrases: Iterable[str], texts: Sequence[str], starts_word: np.ndarray, whole_words: bool):
        self.phrases = sorted(set(phrases))
        self._index, self._starts_word, self._whole_words = TextIndex(texts), starts_word, whole_words
        self._rests: dict[str, list[str]] = {}
        for phrase in self.phrases:
            for length in range(len(phrase) + 1):
                self._rests.setdefault(phrase[:length], []).append(phrase[length:])
        self.longest = max(map(len, self.phrases), default=0)
        self._within = {is_last: self._completed_within(texts, is_last) for is_last in (False, True)}
        self._cache: dict[tuple[str, bool, bool], np.ndarray] = {}

    def completing(self, text: str, is_last: bool) -> list[np.ndarray]:
        """Returns the tokens after which a phrase would stand in the text, as arrays of indices.

        A phrase that ends with the token stands there if no further token can continue its last word.

        Args:
            text: the last `longest` + 1 characters before the token, or more.
            is_last: whether the token is the last one of the sentence.
        """
        joined = bool(text) and joins(text[-1], _LETTER)
        found = [self._within[is_last], self._after("", joined, is_last)]
        for length in range(1, min(len(text), self.longest) + 1):
            begun = text[-length:]
            at_boundary = length == len(text) or not joins(text[-length - 1], begun[0])
            if begun in self._rests and at_boundary:
                found.append(self._after(begun, False, is_last))
        return [tokens for tokens in found if len(tokens)]

    def find(self, text: str, is_closed: bool) -> str | None:
        """Returns a phrase that stands in a text.

        Args:
            text: what tokens spell.
            is_closed: whether the text ends here, so that no token continues its last word.
        """
        for phrase in self.phrases:
            first = text.find(phrase)
            while first >= 0:
                end = first + len(phrase)
                if not (first and joins(text[first - 1], text[first])) and self._ends(text, end, is_closed):
                    return phrase
                first = text.find(phrase, first + 1)
        return None

    def _ends(self, text: str, end: int, is_last: bool) -> bool:
        """Returns True if a word that ends before a character of the text cannot go on."""
        if end < len(text):
            return not joins(text[end - 1], text[end])
        return is_last or self._whole_words or not joins(text[-1], _LETTER)

    def _after(self, begun: str, joined: bool, is_last: bool) -> np.ndarray:
        """Returns the tokens that complete a phrase that is begun; `joined` if a letter precedes one that is not."""
        key = (begun, joined, is_last)
        if key not in self._cache:
            found: set[int] = set()
            for rest in self._rests.get(begun, ()):
                if joined and joins(_LETTER, rest[0]):
                    continue
                if not rest and joins(begun[-1], _LETTER):
                    found.update(self._starts_word.tolist())
                elif rest:
                    found.update(
                        token
                        for token, text in self._index.starting_with(rest)
                        if self._ends(text, len(rest), is_last)
                    )
            self._cache[key] = np.array(sorted(found), dtype=np.int64)
        return self._cache[key]

    def _completed_within(self, texts: Sequence[str], is_last: bool) -> np.ndarray:
        """Returns the tokens that have a whole phrase after their first character."""
        phrases = set(self.phrases)
        if not phrases:
            return np.array([], dtype=np.int64)
        return np.array(
            [
                token
                for token, text in enumerate(texts)
                if any(
                    text[first:end] in phrases and self._ends(text, end, is_last)
                    for first in range(1, len(text))
                    if not joins(text[first - 1], text[first])
                    for end in range(first + 1, min(len(text), first + self.longest) + 1)
                )
            ],
            dtype=np.int64,
        )
