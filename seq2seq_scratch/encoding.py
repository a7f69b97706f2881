"""Encoding sentences as padded token ids.

The functions are not in `data/`, because the pipeline that a checkpoint carries uses them and needs no data set
library.
"""

import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_texts(texts: Iterable[str], name: str) -> list[str]:
    """Returns a list of texts.

    Args:
        texts: a list, a column of a data set, and so on.
        name: that of the argument, for messages.

    Raises:
        ValueError: the argument is one text, whose characters would count as texts; or one of the texts is no text, or
            has half of a surrogate pair, which no tokenizer reads.
    """
    if isinstance(texts, str):
        raise ValueError(f"{name} is the text {texts[:60]!r}. Pass a list.")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{index}] is {text!r}, of type {type(text).__name__}; it must be text.")
        if not text.isascii() and (half := re.search("[\ud800-\udfff]", text)):
            raise ValueError(
                f"{name}[{index}] is {text[:60]!r}, where U+{ord(half[0]):04X} is half of a surrogate pair and no "
                "character. Decode the text again, or leave it out."
            )
    return texts


def learned_positions(model: PreTrainedModel) -> list[int]:
    """Returns how many tokens a model, or each of an ensemble, can read on each side if its positions are learned."""
    configs = [each.config for each in getattr(model, "models", [model])]
    learned = [each for each in configs if getattr(each, "position_embedding_type", None) == "learned"]
    return [each.max_position_embeddings for each in learned]


def source_limit(model: PreTrainedModel, max_length: int | None) -> int | None:
    """Returns `max_length`, the largest number of a source's tokens, or fewer where a model's positions end."""
    given = [] if max_length is None else [max_length]
    return min([*given, *learned_positions(model)], default=None)


def check_targets(model: PreTrainedModel, translations: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
    """Raises ValueError if a translation, given with its token ids, is longer than a model's learned positions."""
    limit = min(learned_positions(model), default=None)
    for text, row in zip(translations, ids, strict=True):
        if limit is not None and len(row) > limit:
            raise ValueError(
                f"The translation {text[:60]!r} has {len(row)} tokens, but the model has learned {limit} positions. "
                "Shorten it, or leave it out."
            )


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
