"""What lets generation go quickly on CPU: weights packed for short products, and a cache with room to grow.

Both hold for one call of `generate()`, in which the same weights meet a few new rows at every step.

Dimensions: B batch, H heads, T positions, W width of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

# A product of few rows is bound by its weights. oneDNN rearranges those of a plain matrix product every time, which
# for so few rows takes as long as the product or longer. Packed weights are faster up to at least this many rows,
# and making them costs about as much as so many calls save.
ROWS_OF_A_SHORT_PRODUCT = 256
CALLS_BEFORE_PACKING = 8


class Linear(nn.Linear):
    """`nn.Linear`, which within `packed_weights` multiplies few rows with weights that are packed for it."""

    short_product: "ShortProduct | None" = None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        # Of rows that are not, PyTorch makes a batched product, and for that a copy of the weights for each sample.
        hidden_states = hidden_states.contiguous()
        if self.short_product is not None and hidden_states.dtype == torch.bfloat16:
            if hidden_states.numel() <= ROWS_OF_A_SHORT_PRODUCT * self.in_features:
                return self.short_product(hidden_states)
        return super().forward(hidden_states)


class ShortProduct:
    """A layer's product with bfloat16 weights that do not change while it lives."""

    def __init__(self, layer: nn.Linear):
        self.weight, self.bias = layer.weight, layer.bias
        self.calls = 0
        self.packed: torch.Tensor | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        if self.packed is None:
            self.calls += 1
            if self.calls < CALLS_BEFORE_PACKING:
                return nn.functional.linear(rows, self.weight, self.bias)
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Packs the bfloat16 weights on CPU of the model's `Linear` layers, once they are used again and again.

    They must not change within. Layers whose weights come and go with every call (offloading) are left as they are.
    """
    layers = []
    if packing_is_supported():
        layers = [layer for layer in model.modules() if type(layer) is Linear and _can_be_packed(layer)]
    for layer in layers:
        layer.short_product = ShortProduct(layer)
    try:
        yield
    finally:
        for layer in layers:
            layer.short_product = None


def packing_is_supported() -> bool:
    """Whether processor and PyTorch have what it takes: the operators, which its own compiler uses, are not public."""
    operators = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
        and operators._is_mkldnn_bf16_supported()
    )


def _can_be_packed(layer: Linear) -> bool:
    weight = layer.weight
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not hasattr(layer, "_hf_hook")


class GrowingLayer(DynamicLayer):
    """A layer of a `DynamicCache` that writes new keys and values behind the old ones.

    The library's copies all of them at every step, which for a batch costs more than attention does.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rooms: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds keys and values, (B, H, T, W); returns all that there are."""
        if torch.is_grad_enabled():  # what gradients need is not to be written into
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append("keys", self.keys, key_states)
        self.values = self._append("values", self.values, value_states)
        return self.keys, self.values

    def _append(self, name: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        batch, heads, count, width = new.shape
        seen = held.shape[-2] if held.numel() else 0
        room = self.rooms.get(name)
        # What reorders or selects rows leaves a tensor of its own in place of the room's beginning.
        usable = room is not None and room.data_ptr() == held.data_ptr() and seen + count <= room.shape[2]
        if not usable or room.is_inference() != torch.is_inference_mode_enabled():
            # A position's heads side by side, as the products before and after have them.
            room = self.rooms[name] = new.new_empty(batch, 2 * (seen + count), heads, width).transpose(1, 2)
            if seen:
                room.narrow(2, 0, seen).copy_(held)
        room.narrow(2, seen, count).copy_(new)
        return room.narrow(2, 0, seen + count)


def give_room(cache: Cache) -> None:
    """Puts growing layers into a plain `DynamicCache` that holds nothing yet; leaves every other cache as it is."""
    if type(cache) is DynamicCache and not cache.offloading:
        if all(type(layer) is DynamicLayer and not layer.is_initialized for layer in cache.layers):
            cache.layers = [GrowingLayer() for _ in cache.layers]
