"""Weights of linear layers packed for products with few rows: bfloat16 on CPU, during one call of `generate()`.

Skip this file on first reading. It is optional: without the operators of PyTorch that it uses, which are not part of
the public interface, `packed_weights` does nothing and the layers compute as always.

What it saves in greedy generation of 200 tokens, in CPU time on one core of an AMD EPYC with bfloat16 instructions
(medians of seven runs with packing and seven without, in turn): 15 % for one sequence with the small stories model
(0.33 s in place of 0.39 s), 14 % with four beams, 5 % for eight sequences; 1 % for one sequence with a model of the
published size, whose products are bound by memory either way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType

import torch
from torch import nn
from torch.nn import functional

# The time of a product with few rows is that of reading the weights. In a plain matrix product oneDNN rearranges the
# weights on every call, which for so few rows takes as long as the product or longer. Packed weights are faster up to
# at least this many rows.
MAX_ROWS_FOR_PACKED_MATMUL = 256

# Packing takes about as long as this many calls save.
CALLS_BEFORE_PACKING = 8


class PackedLinear:
    """Replaces a layer's `forward`: multiplies few bfloat16 rows with weights in oneDNN's packed layout.

    The layer itself stays a plain `nn.Linear`, because quantisers replace that exact type only. The weights must not
    change while an instance is in use.
    """

    def __init__(self, layer: nn.Linear):
        self.weight, self.bias = layer.weight, layer.bias
        self.calls = 0
        self.packed: torch.Tensor | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Computes `functional.linear`.

        Args:
            rows: (..., in_features).

        Returns:
            (..., out_features).
        """
        few = rows.numel() <= MAX_ROWS_FOR_PACKED_MATMUL * self.weight.shape[1]
        if not few or rows.dtype != torch.bfloat16:
            return functional.linear(rows, self.weight, self.bias)
        if self.packed is None:
            self.calls += 1
            if self.calls < CALLS_BEFORE_PACKING:
                return functional.linear(rows, self.weight, self.bias)
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Packs the weights of the model's `nn.Linear` layers that are bfloat16 on CPU, once they have been used often.

    The weights must not change within the context. Layers with offloaded or quantised weights, and layers whose
    `forward` other code has replaced, stay as they are. Several threads may be in the context at once. The first one
    to leave restores the plain layers for all of them, which are correct but slower.
    """
    layers = []
    if packing_is_supported():
        layers = [layer for layer in model.modules() if type(layer) is nn.Linear and _can_be_packed(layer)]
    for layer in layers:
        layer.forward = PackedLinear(layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def packing_is_supported() -> bool:
    """Returns True if the processor has bfloat16 and PyTorch has the operators, which its own compiler uses."""
    operators = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
        and operators._is_mkldnn_bf16_supported()
    )


def _can_be_packed(layer: nn.Linear) -> bool:
    weight = layer.weight
    return (
        type(weight) is nn.Parameter  # the weights of quantised layers are of subclasses
        and weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and not hasattr(layer, "_hf_hook")  # accelerate's offloading
        and has_own_forward(layer)
    )


def has_own_forward(module: nn.Module) -> bool:
    """Returns True if only `packed_weights`, in this thread or another, may have replaced the module's `forward`."""
    return type(vars(module).get("forward")) in (NoneType, PackedLinear)
