"""Compares an ONNX export with its model: logits of batches with padding, or log-probabilities in fewer bits."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from papers_to_gpt.exporting.onnx_models import OnnxGPT1, OnnxTranslator
from papers_to_gpt.exporting.verification import (
    Comparison,
    Ids,
    check_log_probabilities,
    check_logits,
    compare_generators,
    compare_translators,
    continue_greedily,
    logit_differences,
    pad,
)
from seq2seq_scratch.library_arguments import CACHE_NAME
from seq2seq_scratch.translation import translate

# Largest difference of a logit in fp32.
LOGIT_TOLERANCE = 1e-4


def compare_onnx_translators(case: Comparison) -> str:
    """Compares a translator with its export; see `compare_translators`."""
    exported = OnnxTranslator(case.folder).eval()
    start, end = case.model.config.decoder_start_token_id, case.tokenizers[1].eos_token_id

    def differences_of(sources: list[Ids], targets: list[Ids]) -> Tensor:
        ids, mask = pad(sources)
        read, is_token = pad([[start, *row] for row in targets])
        predicted, _ = pad([[*row, end] for row in targets])
        ours = case.model(input_ids=ids, attention_mask=mask, decoder_input_ids=read, use_cache=False).logits
        encoded = exported.encoder(ids, mask)

        def read_part(part: slice, **cache: object) -> ModelOutput:
            return exported(encoder_outputs=encoded, decoder_input_ids=read[:, part], **cache)

        return _differences(case, ours, _read_in_two_parts(read_part, read.shape[1]), predicted, is_token)

    translate_there = partial(translate, exported, *case.tokenizers)
    return compare_translators(case, exported.positions, translate_there, differences_of, _check_of(case))


def compare_onnx_generators(case: Comparison) -> str:
    """Compares a GPT-1 with its export; see `compare_generators`."""
    exported = OnnxGPT1(case.folder).eval()

    def differences_of(texts: list[Ids]) -> Tensor:
        read, mask = pad([row[:-1] for row in texts])
        predicted, _ = pad([row[1:] for row in texts])

        def read_part(part: slice, **cache: object) -> ModelOutput:
            return exported(read[:, part], mask[:, : part.stop], **cache)

        ours = case.model(read, attention_mask=mask).logits
        return _differences(case, ours, _read_in_two_parts(read_part, read.shape[1]), predicted, mask)

    continue_there = partial(continue_greedily, exported)
    return compare_generators(case, exported.positions, continue_there, differences_of, _check_of(case))


def _read_in_two_parts(read_part: Callable[..., ModelOutput], length: int) -> Tensor:
    """Returns the logits of T tokens, (B, T, V), the later ones of which continue from the state after the others.

    Args:
        read_part: takes the slice of the tokens to read, and the cache of those before.
        length: T.
    """
    middle = max(1, length // 2)
    first = read_part(slice(0, middle))
    if middle == length:
        return first.logits
    return torch.cat([first.logits, read_part(slice(middle, length), cache=first[CACHE_NAME]).logits], dim=1)


def _differences(case: Comparison, ours: Tensor, theirs: Tensor, predicted: Tensor, mask: Tensor) -> Tensor:
    """Returns the differences at each token, (N,): of logits in fp32, otherwise of the log-probabilities of tokens.

    Args:
        case: what is compared.
        ours, theirs: (B, T, V) logits.
        predicted: (B, T) the tokens that they predict.
        mask: (B, T) 1 at tokens.
    """
    if case.is_exact:
        return logit_differences(ours, theirs, mask)
    chosen = [torch.log_softmax(each, dim=-1).gather(2, predicted[:, :, None])[:, :, 0] for each in (ours, theirs)]
    return (chosen[0] - chosen[1])[mask.bool()]


def _check_of(case: Comparison) -> Callable[[Tensor], str]:
    if case.is_exact:
        return partial(check_logits, tolerance=LOGIT_TOLERANCE)
    return partial(check_log_probabilities, quantization=case.quantization)
