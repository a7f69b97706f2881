"""Encodes a corpus word by word, with the tokens that the tokenizer gives for the whole sentences."""

import json
import re
from collections.abc import Sequence

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..tokenization import end_of_sentence, forget_last_call, text_normalizer, word_splitter
from .word_cache import WordCache


class TextEncoder(WordCache):
    """Encodes sentences, each with the special tokens that its tokenizer adds.

    A tokenizer that splits text as `train_tokenizer` does is asked once for every word; any other one is asked for
    every sentence.

    Args:
        tokenizer: the tokenizer of the source or of the target.
        is_target: whether the sentences are targets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, is_target: bool = False):
        super().__init__({"": []})
        self.tokenizer, self.is_target = tokenizer, is_target
        self.treats_words_alike = (
            tokenizer.is_fast and tokenizer.eos_token_id is not None and _treats_words_alike(tokenizer)
        )

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        if self.treats_words_alike:
            end, rows = self.tokenizer.eos_token_id, super().__call__(texts)
            for ids in rows:
                ids.append(end)
            return rows
        given = {"text_target" if self.is_target else "text": list(texts)}
        return self.tokenizer(**given, return_attention_mask=False, verbose=False)["input_ids"]

    def encode_words(self, words: list[str]) -> list[list[int]]:
        forget_last_call(self.tokenizer)
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        return [encoding.ids for encoding in backend.encode_batch_fast(words, add_special_tokens=False)]

    def split(self, text: str) -> list[str]:
        return text.split(" ")


def text_encoders(
    source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
) -> tuple[TextEncoder, TextEncoder]:
    """Returns an encoder of sources and one of targets, which is the same if both sides share a vocabulary."""
    source = TextEncoder(source_tokenizer)
    if target_tokenizer is source_tokenizer and source.treats_words_alike:
        return source, source
    return source, TextEncoder(target_tokenizer, is_target=True)


def _treats_words_alike(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether a word has the same tokens beside any other words, and a sentence ends with the end token."""
    state = tokenizer.backend_tokenizer.to_str()
    saved = json.loads(state)
    tokens = saved["added_tokens"]
    if saved["model"].get("dropout") or any(
        token["lstrip"] or token["rstrip"] or re.search(r"\s", token["content"]) for token in tokens
    ):
        return False
    for lowercase in (False, True):
        expected = Tokenizer.from_str(state)
        expected.normalizer, expected.pre_tokenizer = text_normalizer(lowercase), word_splitter()
        expected.post_processor = end_of_sentence(tokenizer.eos_token_id)
        if saved == json.loads(expected.to_str()):
            return True
    return False
