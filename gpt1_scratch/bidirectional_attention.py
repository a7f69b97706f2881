"""What a GPT-1 with bidirectional attention does differently from the causal one: its mask, and what it refuses.

Skip this file on first reading. GPT-1 is causal; bidirectional attention is that of BERT (Devlin et al. 2018).
"""

import torch
from transformers import PreTrainedConfig
from transformers.masking_utils import (
    create_bidirectional_mask,
    find_packed_sequence_indices,
    packed_sequence_mask_function,
)

from .configuration_gpt1 import GPT1Config

USE_CAUSAL = (
    "attention is 'bidirectional', so the model sees the tokens that come next and predicts masked ones. It can "
    "neither generate nor score text: use a causal model, such as one pre-trained with objective next_token."
)


def create_document_mask(
    config: GPT1Config,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
) -> torch.Tensor | None:
    """Returns the mask with which every position attends to all tokens of its document, before and after it.

    Args:
        config: names the attention implementation.
        inputs_embeds: (B, T, D).
        attention_mask: (B, T) with 0 for padding, on either side; a (B, 1, T, T) mask is returned as it is.
        position_ids: (B, T). Where they restart within a row and there is no padding mask, a new document begins.

    Returns:
        A mask of the attention implementation's own kind, `None` if nothing is hidden.
    """
    documents = None
    if position_ids is not None and attention_mask is None:
        documents = find_packed_sequence_indices(position_ids.expand(inputs_embeds.shape[0], -1))  # B T
    function = None if documents is None else packed_sequence_mask_function(documents)
    return create_bidirectional_mask(config, inputs_embeds, attention_mask, and_mask_function=function)


def refuse_cache(cache: object) -> None:
    """Raises a ValueError if a cache is given: the states of earlier tokens depend on later ones."""
    if cache is not None:
        raise ValueError(
            "A cache is given, but attention is 'bidirectional': the states of earlier tokens depend on later ones. "
            "Leave the cache out, and give whole texts."
        )


def refuse_bidirectional(config: PreTrainedConfig) -> None:
    """Raises a ValueError if a config is that of a bidirectional model, which cannot be a language model."""
    if getattr(config, "attention", "causal") == "bidirectional":
        raise ValueError(f"{USE_CAUSAL} Masked tokens are predicted by GPT1ForMaskedLM (AutoModelForMaskedLM).")
