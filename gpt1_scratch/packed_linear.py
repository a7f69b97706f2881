"""Weights of linear layers packed for products with few rows, on CPU in bfloat16, during one call of `generate()`."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType

import torch
from torch import nn
from torch.nn import functional

# A product of few rows is bound by its weights. oneDNN rearranges those of a plain matrix product every time, which
# for so few rows takes as long as the product or longer. Packed weights are faster up to at least this many rows,
# and making them costs about as much as so many calls save.
MAX_ROWS_FOR_PACKED_MATMUL = 256


CALLS_BEFORE_PACKING = 8


class PackedLinear:
    """Takes the place of a layer's forward, and multiplies few bfloat16 rows with weights that are packed for it.

    The layer itself stays a plain `nn.Linear`, the only type that quantisers replace. The weights must not change
    while this lives.
    """

    def __init__(self, layer: nn.Linear):
        self.weight, self.bias = layer.weight, layer.bias
        self.calls = 0
        self.packed: torch.Tensor | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
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
    """Packs the bfloat16 weights on CPU of the model's `nn.Linear` layers, once they are used again and again.

    They must not change within. Layers whose weights come and go with every call (offloading), whose weights are
    quantised, or whose forward somebody else has replaced are left as they are. Several threads may be within at
    once: the first to leave takes the packed weights from the others, whose products are slower from then on.
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
    """Whether processor and PyTorch have what it takes: the operators, which its own compiler uses, are not public."""
    operators = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
        and operators._is_mkldnn_bf16_supported()
    )


def _can_be_packed(layer: nn.Linear) -> bool:
    weight = layer.weight
    return (
        type(weight) is nn.Parameter  # a quantised one is of a subclass
        and weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and not hasattr(layer, "_hf_hook")
        and _has_own_forward(layer)
    )


def _has_own_forward(module: nn.Module) -> bool:
    """Whether nobody but `packed_weights`, in this or another thread, has replaced the module's forward."""
    return type(vars(module).get("forward")) in (NoneType, PackedLinear)
