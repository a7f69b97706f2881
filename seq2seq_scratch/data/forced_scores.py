"""Log-probabilities that a translator gives to translations that others wrote."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import check_targets, check_texts, encode_sources, pad_right, source_limit
from ..visible_text import has_visible_text

# Of the logits, a batch holds tokens times vocabulary numbers.
LARGEST_FORCED_BATCH = 4096


@dataclass(frozen=True)
class ForcedScore:
    """The score of a translation.

    Attributes:
        tokens: the tokens of the translation, with the end token.
        log_probabilities: the natural logarithm of each token's probability given the source and the tokens before it.
    """

    tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]


@torch.inference_mode()
def score_translations(
    model: PreTrainedModel,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    translations: Sequence[str],
    *,
    max_source_length: int | None = None,
    max_tokens_per_batch: int = LARGEST_FORCED_BATCH,
) -> list[ForcedScore | None]:
    """Computes the log-probability of each translation of its source, by one forward pass without a search.

    Args:
        model: a translator in evaluation mode.
        source_tokenizer, target_tokenizer: its tokenizers.
        sources: N sentences; longer ones than `max_source_length` tokens are cut.
        translations: N translations, which are not cut.
        max_source_length: as in `translate`.
        max_tokens_per_batch: number of rows times the longest row that are computed at a time.

    Returns:
        N scores. None for a pair of which one side has no visible text.

    Raises:
        ValueError: a text cannot be read (see `check_texts`), or a translation is longer than the model's learned
            positions.
    """
    sources, translations = check_texts(sources, "sources"), check_texts(translations, "translations")
    max_source_length = source_limit(model, max_source_length)
    kept = [
        index for index, pair in enumerate(zip(sources, translations, strict=True)) if all(map(has_visible_text, pair))
    ]
    scores: list[ForcedScore | None] = [None] * len(sources)
    if not kept:
        return scores
    source_ids, _ = encode_sources(source_tokenizer, [sources[index] for index in kept], max_source_length)
    target_ids = target_tokenizer(
        text_target=[translations[index] for index in kept], return_attention_mask=False, verbose=False
    )["input_ids"]
    check_targets(model, [translations[index] for index in kept], target_ids)
    lengths = np.maximum([len(ids) for ids in source_ids], [len(ids) for ids in target_ids])
    order = np.argsort(-lengths, kind="stable").tolist()
    while order:
        size = max(1, max_tokens_per_batch // int(lengths[order[0]]))
        batch, order = order[:size], order[size:]
        inputs, mask = pad_right([source_ids[index] for index in batch], source_tokenizer.pad_token_id)  # B S
        labels, there = pad_right([target_ids[index] for index in batch], target_tokenizer.pad_token_id)  # B T
        wanted = torch.from_numpy(labels).to(model.device)
        logits = model(
            input_ids=torch.from_numpy(inputs).to(model.device),
            attention_mask=torch.from_numpy(mask).to(model.device, torch.long),
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(wanted),
            use_cache=False,
        ).logits.float()  # B T V
        found = -F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")  # B T
        for index, row, length in zip(batch, found.tolist(), there.sum(axis=1).tolist(), strict=True):
            tokens = target_tokenizer.convert_ids_to_tokens(target_ids[index])
            scores[kept[index]] = ForcedScore(tuple(tokens), tuple(row[:length]))
    return scores
