"""Stops generation at given strings, in vocabularies whose tokens mark the end of a word.

Skip this file on first reading. It serves `generate(stop_strings=..., tokenizer=...)` and the argument `stop_sequence`
of the pipeline `text-generation`.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria


class StopStrings(StoppingCriteria):
    """Ends a row whose last token completes one of the strings.

    The library's `StopStringCriteria` takes the text of a sequence to be the texts of its tokens one behind the other.
    In GPT-1's vocabulary a token marks the end of a word and not its beginning, so "lowe" and "st</w>" by themselves
    are " lowe" and " st", and "lowest" would never be found. This class decodes the end of the sequence.

    Args:
        tokenizer: the model's tokenizer.
        strings: the string or the strings to stop at. If the tokenizer writes them in lower case, they are looked for
            in lower case.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: str | Sequence[str]):
        self.tokenizer = tokenizer
        self.strings = [self._as_decoded(string) for string in ([strings] if isinstance(strings, str) else strings)]
        # A token has at least one character. Words at the cut may have lost what decides about spaces beside them.
        self.tokens = max(map(len, self.strings)) + 2

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor, **kwargs: Any) -> torch.BoolTensor:
        """Returns which of the (B, T) sequences end, (B,)."""
        ends = [self._ends(row) for row in input_ids[:, -self.tokens :].tolist()]
        return torch.tensor(ends, dtype=torch.bool, device=input_ids.device)

    def _ends(self, ids: list[int]) -> bool:
        before, text = self.tokenizer.decode(ids[:-1]), self.tokenizer.decode(ids)
        old = len(os.path.commonprefix([before, text]))
        return any(string in text and text.rfind(string) + len(string) > old for string in self.strings)

    def _as_decoded(self, string: str) -> str:
        written = self.tokenizer.decode(self.tokenizer(string, add_special_tokens=False)["input_ids"])
        return string.lower() if written == written.lower() else string
