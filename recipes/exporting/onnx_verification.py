"""Compares an ONNX export with the model that it was made of: logits of batches with padding, then searches."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papers_to_gpt.exporting.onnx_models import OnnxGPT1, OnnxTranslator
from papers_to_gpt.exporting.verification import (
    NEW_TOKENS,
    check_searches,
    check_tie,
    check_tokens,
    examples_of,
    search_with_both,
)
from seq2seq_scratch.library_arguments import CACHE_NAME
from seq2seq_scratch.translation import translate

# Largest difference of a logit in fp32.
LOGIT_TOLERANCE = 1e-4


@torch.inference_mode()
def compare_onnx_translators(
    model: PreTrainedModel,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    texts: Sequence[str],
    quantization: str,
) -> str:
    """Compares a translator with its export: logits, greedy search and beam 4.

    Returns:
        What was found, two sentences.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    exported = OnnxTranslator(folder).eval()
    tokenizers = source_tokenizer, target_tokenizer
    both = [partial(translate, each, *tokenizers) for each in (model, exported)]
    searches = search_with_both(*both, texts, exported.positions)
    ids, targets = examples_of(searches, *tokenizers, texts, exported.positions)
    source, mask = _pad(ids)
    read, there = _pad([[model.config.decoder_start_token_id, *row] for row in targets])
    wanted, _ = _pad([[*row, target_tokenizer.eos_token_id] for row in targets])
    ours = model(input_ids=source, attention_mask=mask, decoder_input_ids=read, use_cache=False).logits
    # In two parts, so that the second one continues from a state.
    encoded = exported.encoder(source, mask)
    middle = max(1, read.shape[1] // 2)
    parts, state = [], {}
    for part in (read[:, :middle], read[:, middle:]):
        if part.shape[1]:
            output = exported(encoder_outputs=encoded, decoder_input_ids=part, **state)
            parts, state = [*parts, output.logits], {"cache": output[CACHE_NAME]}
    found = _check_logits(ours, torch.cat(parts, dim=1), wanted, there, quantization)
    return f"{found} {check_searches(searches, texts, quantization)}"


@torch.inference_mode()
def compare_onnx_generators(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    texts: Sequence[str],
    quantization: str,
) -> str:
    """Compares a GPT-1 with its export: logits, and greedy continuations.

    Returns:
        What was found, two sentences.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    exported = OnnxGPT1(folder).eval()
    kept = max(2, model.config.max_position_embeddings // 2)
    rows = [row[:kept] for row in tokenizer(list(texts), verbose=False)["input_ids"]]
    continued, equal = [], 0
    for ids in rows:
        prompt = torch.tensor([ids])
        room = min(NEW_TOKENS, model.config.max_position_embeddings - len(ids))
        search = {
            "attention_mask": torch.ones_like(prompt),
            "max_new_tokens": room,
            "do_sample": False,
            "num_beams": 1,
        }
        mine, other = (each.generate(prompt, **search)[0].tolist() for each in (model, exported))
        equal += mine == other
        if quantization == "float32" and mine != other:
            check_tie(model, mine, other, tokenizer, len(ids))
        continued.append(mine)
    read, mask = _pad([row[:-1] for row in continued])
    wanted, _ = _pad([row[1:] for row in continued])
    ours = model(read, attention_mask=mask).logits
    middle = max(1, read.shape[1] // 2)
    output = exported(read[:, :middle], mask[:, :middle])
    parts = [output.logits]
    if middle < read.shape[1]:
        parts.append(exported(read[:, middle:], mask, cache=output[CACHE_NAME]).logits)
    found = _check_logits(ours, torch.cat(parts, dim=1), wanted, mask, quantization)
    return f"{found} {equal} of {len(rows)} greedy continuations are equal."


def _pad(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rows of ids, padded with 0 on the right, and their mask, (B, T) each."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def _check_logits(
    ours: torch.Tensor, theirs: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor, quantization: str
) -> str:
    """Checks logits, and returns what was found, a sentence.

    Args:
        ours, theirs: (B, T, V).
        wanted: (B, T) the tokens that they predict.
        mask: (B, T) 1 at tokens.
        quantization: the numbers of the export.

    Raises:
        ValueError: they differ by more than rounding. In numbers of fewer bits, log-probabilities are compared.
    """
    if quantization != "float32":
        chosen = [
            torch.log_softmax(each.float(), -1).gather(2, wanted[:, :, None])[:, :, 0] for each in (ours, theirs)
        ]
        return check_tokens(np.asarray((chosen[0] - chosen[1])[mask.bool()]), quantization)
    largest = float((ours - theirs)[mask.bool()].abs().max())
    if not largest <= LOGIT_TOLERANCE:  # also for NaN
        raise ValueError(
            f"The export differs from the model: logits by up to {largest:.4g}, where {LOGIT_TOLERANCE:g} is allowed. "
            "Nothing was written."
        )
    return f"Compared with the model: the logits of {int(mask.sum())} tokens differ by {largest:.2g} at most."
