"""What the translation models must agree on: the shifted target, the loss, source alignment, recurrent decoding.

Dimensions: B batch, S source length, T target length, N target tokens that count, V target vocabulary, D model size,
H recurrent state size.
"""

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

IGNORE_INDEX = -100


def shift_tokens_right(labels: torch.Tensor, pad_token_id: int, decoder_start_token_id: int) -> torch.Tensor:
    """The decoder's input for teacher forcing: the target moved one place to the right.

    Args:
        labels: (B, T) target token ids, `-100` where nothing is to be predicted.
        pad_token_id: takes the place of `-100`, which no embedding table holds.
        decoder_start_token_id: stands before the first target token.

    Returns:
        (B, T) decoder input ids.
    """
    shifted = labels.new_full(labels.shape, decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORE_INDEX, pad_token_id)


def inverse_permutation(permutation: torch.Tensor) -> torch.Tensor:
    """Where each index stands in the permutations (..., S) of 0 to S - 1: `argsort` without sorting."""
    indices = torch.arange(permutation.shape[-1], device=permutation.device).expand_as(permutation)
    return torch.zeros_like(permutation).scatter(-1, permutation, indices)


def product_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The precision of matrix products on `tensor`: autocast's where it is on, else the tensor's own."""
    device_type = tensor.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else tensor.dtype


def has_plain_weight(layer: nn.Module) -> bool:
    """Whether the layer is `nn.Linear` itself and its weight a plain tensor, so that the weight is all there is to it.

    False for the layer of an adapter or a quantiser, for one whose weight a quantiser has replaced by a tensor of its
    own kind, and for one whose weight is loaded as the layer is called.
    """
    return type(layer) is nn.Linear and not (layer.weight.is_meta or is_traceable_wrapper_subclass(layer.weight))


def effective_weight(layer: nn.Module, like: torch.Tensor) -> torch.Tensor:
    """The matrix that a linear layer without a bias multiplies by, for loops that multiply without calling the layer.

    Where the weight is not plain (see `has_plain_weight`), the layer is applied to the identity matrix. The result
    includes what an adapter adds, is dequantised, and carries gradients to the parameters it is made of. An adapter's
    dropout then drops the same features in every row of the batch.

    Args:
        layer: with an attribute `in_features`.
        like: any tensor on the device and of the type of the layer's usual input without autocast.

    Returns:
        (out_features, in_features).
    """
    if has_plain_weight(layer):
        return layer.weight
    identity = torch.eye(layer.in_features, dtype=like.dtype, device=like.device)
    with torch.autocast(like.device.type, enabled=False):  # as exact as a plain weight
        return layer(identity).T
