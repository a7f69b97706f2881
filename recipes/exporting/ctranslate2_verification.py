"""Compares an export for CTranslate2 with its model: log-probabilities of tokens, since the engine gives no logits."""

from functools import partial

import torch
from torch import Tensor

from papers_to_gpt.exporting.ctranslate2_generator import ExportedGenerator
from papers_to_gpt.exporting.ctranslate2_translator import ExportedTranslator
from papers_to_gpt.exporting.saved_generation import describe_differences
from papers_to_gpt.exporting.verification import (
    Comparison,
    Ids,
    check_log_probabilities,
    compare_generators,
    compare_translators,
)


def compare_ctranslate2_translators(case: Comparison) -> str:
    """Compares a translator with its export; see `compare_translators`."""
    exported = ExportedTranslator(case.folder)
    source_tokenizer, target_tokenizer = case.tokenizers
    start, end = case.model.config.decoder_start_token_id, target_tokenizer.eos_token_id

    def differences_of(sources: list[Ids], targets: list[Ids]) -> Tensor:
        theirs = exported.score(
            [source_tokenizer.convert_ids_to_tokens(row) for row in sources],
            [target_tokenizer.convert_ids_to_tokens(row) for row in targets],
        )
        differences = []
        for source, target, other in zip(sources, targets, theirs, strict=True):
            ids = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([[start, *target]])}
            differences.append(_log_probabilities(case.model(**ids).logits[0], [*target, end]) - torch.tensor(other))
        return torch.cat(differences)

    check = partial(check_log_probabilities, quantization=case.quantization)
    note = describe_differences(case.model.generation_config, has_prompts=False)
    compared = (case, exported.positions, exported.translate, differences_of, check)
    return compare_translators(*compared, compare_beams=not note) + note


def compare_ctranslate2_generators(case: Comparison) -> str:
    """Compares a GPT-1 with its export; see `compare_generators`."""
    exported = ExportedGenerator(case.folder)

    def continue_there(ids: Ids, new_tokens: int) -> Ids:
        return exported.generate(ids, new_tokens)[0]

    def differences_of(texts: list[Ids]) -> Tensor:
        differences = []
        for ids in texts:
            ours = _log_probabilities(case.model(torch.tensor([ids[:-1]])).logits[0], ids[1:])
            differences.append(ours - torch.tensor(exported.log_probabilities(ids)))
        return torch.cat(differences)

    check = partial(check_log_probabilities, quantization=case.quantization)
    note = describe_differences(case.model.generation_config, has_prompts=True)
    compared = (case, exported.positions, continue_there, differences_of, check)
    return compare_generators(*compared, must_be_equal=not note) + note


def _log_probabilities(logits: Tensor, ids: Ids) -> Tensor:
    """Returns the log-probabilities of tokens, (T,), from logits, (T, V)."""
    return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
