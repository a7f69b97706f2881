"""Loading the models of an ensemble, which must have the same tokenizers."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..translation import load_translator
from .modeling import EnsembleForSeq2SeqLM


def load_ensemble(
    folders_or_hub_ids: Sequence[str], revision: str | None = None, trust_remote_code: bool = False
) -> tuple[EnsembleForSeq2SeqLM, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Loads translators as one ensemble, with the tokenizers that they share.

    Args:
        folders_or_hub_ids: local folders or ids of models on the Hub, at least one.
        revision: a branch, tag or commit on the Hub, the same for all models.
        trust_remote_code: whether code in the models' folders may run.

    Returns:
        The ensemble in evaluation mode, the source's tokenizer and the target's.

    Raises:
        ValueError: a folder has no tokenizer or that of another model, or the models have different tokenizers or
            vocabularies.
        OSError: there is neither a local folder nor a model on the Hub with one of the names.
    """
    models, shared = [], None
    for name in folders_or_hub_ids:
        model, *tokenizers = load_translator(name, revision=revision, trust_remote_code=trust_remote_code)
        shared = shared or tokenizers
        for side, tokenizer, of_first in zip(("source", "target"), tokenizers, shared, strict=True):
            difference = first_difference(of_first, tokenizer)
            if difference is not None:
                raise ValueError(
                    f"{name} has another {side} tokenizer than {folders_or_hub_ids[0]}, but the models of an ensemble "
                    f"must share one vocabulary: {difference}. Train them with the same tokenizer (tokenizer_name)."
                )
        models.append(model)
    return EnsembleForSeq2SeqLM(models), *shared


def first_difference(first: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str | None:
    """Describes the first difference of two tokenizers, or returns None if they encode and decode alike.

    Entries are compared in the order of their ids, and then the rules of fast tokenizers, such as merges.
    """
    if first is other:
        return None
    entries = [
        [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]
        for tokenizer in (first, other)
    ]
    for index, (one, another) in enumerate(itertools.zip_longest(*entries)):
        if one != another:
            found = ["missing" if token is None else repr(token) for token in (another, one)]
            return f"entry {index} is {found[0]}, and there {found[1]}"
    if first.is_fast and other.is_fast:
        path = _first_path(_rules(first), _rules(other))
        if path is not None:
            return f"the rules of tokenizer.json differ at {'.'.join(path)}"
    return None


def _rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Returns the content of tokenizer.json without truncation and padding, which every call sets anew."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in rules.items() if name not in ("truncation", "padding")}


def _first_path(first: Any, other: Any) -> tuple[str, ...] | None:
    """Returns the keys and indices that lead to the first difference of two JSON values, or None if they are equal."""
    if first == other:
        return None
    if isinstance(first, dict) and isinstance(other, dict):
        keys = [*first, *(key for key in other if key not in first)]
        pairs = ((key, first.get(key), other.get(key)) for key in keys)
    elif isinstance(first, list) and isinstance(other, list):
        pairs = ((index, *pair) for index, pair in enumerate(itertools.zip_longest(first, other)))
    else:
        return ()
    for key, one, another in pairs:
        path = _first_path(one, another)
        if path is not None:
            return (str(key), *path)
    return ()
