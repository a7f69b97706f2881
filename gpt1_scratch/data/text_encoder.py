"""Encodes a corpus word by word, with the tokens that the tokenizer gives for the whole texts."""

import json
import re
from collections.abc import Sequence

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ..tokenization import CHARACTERS, SEPARATE, forget_last_call, text_normalizer, word_splitter
from .word_cache import WordCache

# As the normaliser has them. Python writes \x85 for \x{85}.
LINE_BREAK, REMOVED = (
    re.compile(re.sub(r"\\x\{(\w+)\}", lambda code: chr(int(code[1], 16)), pattern)) for pattern, _ in CHARACTERS[:2]
)
SPACE_AROUND_LINE_BREAK = re.compile(r"[^\S\n]*\n\s*")
# Cut off from them, a third fewer words differ in novels. The curly quotes become straight ones.
BESIDE_WORDS = re.compile(rf"[{SEPARATE}\u201c-\u201f]")


class TextEncoder(WordCache):
    """Encodes texts without special tokens.

    A tokenizer that splits text as `train_tokenizer` and `published_tokenizer` do is asked once for every word; any
    other one is asked for every text.

    Args:
        tokenizer: any fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.treats_words_alike = _treats_words_alike(tokenizer.backend_tokenizer)
        added = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values()]
        self.added = re.compile("|".join(added) or r"(?!)")
        word, two_lines = self.encode_words(["a", "a\na"])
        super().__init__({"": [], "\n": two_lines[len(word) : len(two_lines) - len(word)]})

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return super().__call__(texts) if self.treats_words_alike else self.encode_words(list(texts))

    def encode_words(self, words: list[str]) -> list[list[int]]:
        forget_last_call(self.tokenizer)
        backend = self.tokenizer.backend_tokenizer
        return [encoding.ids for encoding in backend.encode_batch_fast(words, add_special_tokens=False)]

    def split(self, text: str) -> list[str]:
        # The line breaks beside a special token are no words, and what is removed may have stood beside a space.
        if self.added.search(text) or REMOVED.search(text):
            return [text]
        text = BESIDE_WORDS.sub(r" \g<0> ", LINE_BREAK.sub("\n", text).strip())
        return SPACE_AROUND_LINE_BREAK.sub(" \n ", text).split(" ")


def _treats_words_alike(backend: Tokenizer) -> bool:
    """Returns whether a word has the same tokens beside any other words."""
    expected = Tokenizer.from_str(backend.to_str())
    expected.normalizer, expected.pre_tokenizer = text_normalizer(), word_splitter()
    saved = json.loads(backend.to_str())
    tokens = saved["added_tokens"]
    return (
        saved == json.loads(expected.to_str())
        and not saved["model"].get("dropout")
        and not any(token["lstrip"] or token["rstrip"] or re.search(r"\s", token["content"]) for token in tokens)
    )
