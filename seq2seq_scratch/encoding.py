"""From sentences to padded token ids.

Apart from `data`, so that the pipeline that comes with a shared model needs no data set library.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase


def encode_sources(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], max_length: int | None
) -> tuple[list[list[int]], list[bool]]:
    """Token ids of sentences, those with too many tokens cut the tokenizer's way, which keeps the end token.

    Args:
        tokenizer: of the source.
        sentences: at least one.
        max_length: tokens that a sentence may have, the end token included; None for any number.

    Returns:
        The ids of each sentence, and which sentences were cut.
    """
    ids = tokenizer(list(sentences), return_attention_mask=False, verbose=False)["input_ids"]
    truncated = [max_length is not None and len(row) > max_length for row in ids]
    if any(truncated):
        long = [index for index, cut in enumerate(truncated) if cut]
        texts = [sentences[index] for index in long]
        cut = tokenizer(texts, return_attention_mask=False, truncation=True, max_length=max_length)["input_ids"]
        for index, row in zip(long, cut, strict=True):
            ids[index] = row
    return ids, truncated


def pad_right(rows: Sequence[Sequence[int]], fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of B rows, the shorter ones filled up on the right.

    Returns:
        (B, longest) int64 ids, and (B, longest) where they are tokens.
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(mask.shape, fill, dtype=np.int64)
    padded[mask] = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64, count=lengths.sum())
    return padded, mask
