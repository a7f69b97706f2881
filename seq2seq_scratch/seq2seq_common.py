"""Functions that several translation models share: the shifted target, permutations, precision, effective weights.

Dimensions: B batch, S source length, T target length.
"""

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

IGNORE_INDEX = -100


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
