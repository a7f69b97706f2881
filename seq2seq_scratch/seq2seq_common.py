"""What several translation models share: embeddings, checks of inputs, the shifted target, permutations, precision.

Dimensions: B batch, S source length, T target length.
"""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.modeling_outputs import ModelOutput

IGNORE_INDEX = -100


class TokenEmbedding(nn.Embedding):
    """A vector for every token; an id outside the table is named, together with the size of the table."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Looks up (...) token ids: returns (..., D). Raises ValueError for an id outside the table."""
        try:
            return super().forward(input_ids)
        except IndexError as error:
            raise ValueError(describe_wrong_ids("Token ids", input_ids, "embedding", self.num_embeddings)) from error


def describe_wrong_ids(name: str, ids: torch.Tensor, table: str, size: int) -> str:
    """Returns the message for ids outside a table; ids below 0 have another cause than ids that are too large."""
    low = int(ids.min())
    if low < 0:
        advice = f"labels are padded with {IGNORE_INDEX}, and no other id may be below 0."
    else:
        advice = "the model's vocab_size or decoder_vocab_size must be the tokenizer's."
    return f"{name} run from {low} to {int(ids.max())}, but the {table} holds {size}; {advice}"


def source_mask(
    input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, pad_token_id: int | None
) -> torch.Tensor:
    """Returns which positions of the source hold tokens, once the source and its mask fit each other.

    Args:
        input_ids: (B, S) source token ids.
        attention_mask: (B, S) of any type, 0 at padding; by default all tokens but `pad_token_id` are real.
        pad_token_id: the id of padding; `None` if nothing is padded.

    Returns:
        (B, S), True at tokens.

    Raises:
        ValueError: there is no source, it is no batch of rows, or the mask has another shape.
    """
    if input_ids is None:
        raise ValueError(
            "There is no source. Give input_ids, or encoder_outputs; these encoders take no inputs_embeds."
        )
    if input_ids.dim() != 2:
        raise ValueError(
            f"input_ids has the shape {tuple(input_ids.shape)}; it must have two dimensions, sentences and tokens."
        )
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool) if pad_token_id is None else input_ids != pad_token_id
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has the shape {tuple(attention_mask.shape)}, but input_ids has "
            f"{tuple(input_ids.shape)}; the mask needs one number for each source token."
        )
    return attention_mask != 0


def check_rows(input_ids: torch.Tensor, decoder_input_ids: torch.Tensor) -> None:
    """Raises ValueError unless a batch has as many sources, (B, S), as targets, (B, T)."""
    if input_ids.shape[0] != decoder_input_ids.shape[0]:
        raise ValueError(
            f"The batch has {input_ids.shape[0]} sources, but {decoder_input_ids.shape[0]} targets (labels or "
            "decoder_input_ids). Each source needs one target: repeat a source for each of its targets."
        )


def check_encoder_outputs(encoder_outputs: Any) -> None:
    """Raises TypeError for a tuple, which has no names: the models here read more of the encoder than its states."""
    if not isinstance(encoder_outputs, ModelOutput):
        raise TypeError(
            f"encoder_outputs is a {type(encoder_outputs).__name__}. Give what the encoder returns with "
            "return_dict=True, an object whose parts have names."
        )


def shift_tokens_right(labels: torch.Tensor, pad_token_id: int, decoder_start_token_id: int) -> torch.Tensor:
    """Shifts the target one position to the right, which gives the decoder's input for teacher forcing.

    When it translates, the decoder reads its own last token. In training it reads the right one instead, whatever it
    would have predicted (teacher forcing, Williams and Zipser 1989), so all positions are trained at once:

        labels           drei  hundert  </s>
        decoder input    <s>   drei     hundert

    Args:
        labels: (B, T) target token ids; `-100` where there is nothing to predict.
        pad_token_id: replaces `-100`, which is no index of an embedding table.
        decoder_start_token_id: comes before the first target token.

    Returns:
        The decoder's input ids, (B, T).
    """
    shifted = labels.new_full(labels.shape, decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORE_INDEX, pad_token_id)


def inverse_permutation(permutation: torch.Tensor) -> torch.Tensor:
    """Inverts permutations of 0 to S - 1, (..., S): `argsort` without sorting."""
    indices = torch.arange(permutation.shape[-1], device=permutation.device).expand_as(permutation)
    return torch.zeros_like(permutation).scatter(-1, permutation, indices)


def product_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Returns the precision of matrix products with `tensor`: autocast's if it is on, otherwise the tensor's own."""
    device_type = tensor.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else tensor.dtype


def has_plain_weight(layer: nn.Module) -> bool:
    """Returns True if the layer is exactly `nn.Linear` and its weight an ordinary tensor, so code may multiply by it.

    False for a layer of an adapter or a quantiser, for one whose weight a quantiser has replaced by a tensor of its
    own class, and for one whose weight is loaded when the layer is called.
    """
    return type(layer) is nn.Linear and not (layer.weight.is_meta or is_traceable_wrapper_subclass(layer.weight))


def effective_weight(layer: nn.Module, like: torch.Tensor) -> torch.Tensor:
    """Returns the matrix of a linear layer without a bias, for loops that multiply by it without calling the layer.

    If the weight is not an ordinary tensor (see `has_plain_weight`), the layer is applied to the identity matrix. The
    result includes what an adapter adds, is dequantised, and passes gradients on to the layer's parameters. An
    adapter's dropout then drops the same features in every row of the batch.

    Args:
        layer: has an attribute `in_features`.
        like: any tensor with the device and type of the layer's usual input without autocast.

    Returns:
        (out_features, in_features).
    """
    if has_plain_weight(layer):
        return layer.weight
    identity = torch.eye(layer.in_features, dtype=like.dtype, device=like.device)
    with torch.autocast(like.device.type, enabled=False):  # as exact as a plain weight
        return layer(identity).T
