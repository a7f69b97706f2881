"""Encoding sentences as padded token ids.

The functions are not in `data/`, because the pipeline that a checkpoint carries uses them and needs no data set
library.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase


def encode_sources(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], max_length: int | None
) -> tuple[list[list[int]], list[bool]]:
    """Encodes sentences; those with too many tokens are truncated by the tokenizer, which keeps the end token.

    Args:
        tokenizer: the source's tokenizer.
        sentences: at least one sentence.
        max_length: largest number of tokens of a sentence, the end token included; None for no limit.

    Returns:
        The token ids of each sentence, and for each sentence whether it was truncated.
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
    """Joins B rows of ids to one array; the shorter rows are padded on the right.

    Args:
        rows: token ids of each row.
        fill: the id of padding.

    Returns:
        The ids, (B, T) in int64 with T the longest row's length, and the mask, (B, T), true at tokens.
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(mask.shape, fill, dtype=np.int64)
    padded[mask] = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64, count=lengths.sum())
    return padded, mask
