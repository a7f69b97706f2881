"""Writes a GPT-1 as transformers' own `openai-gpt`, which loads it without this project's code."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import OpenAIGPTLMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from gpt1_scratch.file_modes import give_umask_permissions
from gpt1_scratch.pretraining.convert_openai_gpt import to_openai_gpt
from papers_to_gpt.exporting.verification import LOGIT_TOLERANCE


def write_openai_gpt(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a model of the library with the numbers of a GPT-1, and a tokenizer that cuts to its positions.

    Args:
        model: a `GPT1ForCausalLM` whose configuration `formats_of` accepts.
        tokenizer: the model's.
        folder: an empty folder.
    """
    converted = to_openai_gpt(model)
    converted.generation_config = model.generation_config
    converted.save_pretrained(folder)
    give_umask_permissions(folder)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)


@torch.inference_mode()
def compare_openai_gpt(model: PreTrainedModel, folder: Path, rows: Sequence[Sequence[int]]) -> str:
    """Compares a GPT-1 in fp32 with its export: logits.

    Args:
        model: the exported model.
        folder: the export.
        rows: token ids of texts.

    Returns:
        What was found, a sentence.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    exported = OpenAIGPTLMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    largest = 0.0
    for ids in rows:
        batch = torch.tensor([ids[: model.config.max_position_embeddings]])
        largest = max(largest, float((model(batch).logits - exported(batch).logits).abs().max()))
    if not largest <= LOGIT_TOLERANCE:  # also for NaN
        raise ValueError(
            f"The export differs from the model: logits by up to {largest:.4g}, where {LOGIT_TOLERANCE:g} is allowed. "
            "Nothing was written."
        )
    return f"Compared with the model: the logits of {len(rows)} texts differ by {largest:.2g} at most."
