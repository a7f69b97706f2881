"""What lets generation go quickly on CPU: weights packed for short products, a cache with room, steps without modules.

All hold for one call of `generate()`, in which the same weights meet a few new rows at every step.

Dimensions: B batch, H heads, T positions, S positions attended to, W width of a head, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.utils import output_capturing

from .packed_linear import MAX_ROWS_FOR_PACKED_MATMUL, _has_own_forward

PLAIN_MODULES = (nn.Embedding, nn.LayerNorm, nn.Linear, nn.ModuleList)


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
        count = new.shape[2]
        seen = held.shape[2] if held.numel() else 0
        room = self.rooms.get(name)
        # What reorders or selects rows leaves a tensor of its own in place of the room's beginning.
        if room is None or room.data_ptr() != held.data_ptr() or seen + count > room.shape[2]:
            batch, heads, _, width = new.shape
            # A position's heads side by side, as the products before and after have them.
            with torch.inference_mode(False):  # such a tensor can be written to in that mode and outside of it
                room = new.new_empty(batch, 2 * (seen + count), heads, width).transpose(1, 2)
            self.rooms[name] = room
            if seen:
                room.narrow(2, 0, seen).copy_(held)
        room.narrow(2, seen, count).copy_(new)
        return room.narrow(2, 0, seen + count)


def give_room(cache: Cache) -> None:
    """Puts growing layers into a plain `DynamicCache` that holds nothing yet; leaves every other cache as it is."""
    if type(cache) is DynamicCache and not cache.offloading:
        if all(type(layer) is DynamicLayer and not layer.is_initialized for layer in cache.layers):
            cache.layers = [GrowingLayer() for _ in cache.layers]


class TokenStep:
    """One new token a row through GPT-1, computed as its modules would but without calling them.

    For one token the calls of some fifty modules, with their keyword arguments, hooks and choices, take about as long
    as the products. It holds on to the weights, so it must not outlive them.
    """

    def __init__(self, model: nn.Module):
        self.embeddings = [embed.weight for embed in (model.model.tokens_embed, model.model.positions_embed)]
        self.blocks = [
            (
                *(layer.forward for layer in (block.attention.query_key_value, block.attention.output_projection)),
                _norm(block.attention_norm),
                *(layer.forward for layer in (block.mlp.expand, block.mlp.contract)),
                _norm(block.mlp_norm),
            )
            for block in model.model.blocks[: model.config.num_hidden_layers]
        ]
        self.head_width = model.model.blocks[0].attention.head_width
        self.lm_head = model.lm_head.forward

    @staticmethod
    def takes_model(model: nn.Module, known: tuple[type, ...]) -> bool:
        """Whether the model is on CPU, attends by SDPA, and has modules that are all known, in evaluation, not hooked.

        What adapters, quantisation, offloading, a user's own hook or dropout do would be passed over.
        """
        return (
            model.config._attn_implementation == "sdpa"
            and all(type(module) in (*known, *PLAIN_MODULES) and _is_plain(module) for module in model.modules())
            and all(weight.device.type == "cpu" for weight in model.parameters())
        )

    def takes_input(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        cache: Cache | None,
        **others: Any,
    ) -> bool:
        """Whether this is one token a row with a filled growing cache, and nothing is asked for but logits."""
        return (
            input_ids is not None
            and input_ids.shape[1] == 1
            and len(input_ids) <= MAX_ROWS_FOR_PACKED_MATMUL
            and position_ids is not None
            and (attention_mask is None or attention_mask.dim() == 2)
            and isinstance(cache, DynamicCache)
            and len(cache.layers) == len(self.blocks)
            and all(type(layer) is GrowingLayer and layer.is_initialized for layer in cache.layers)
            and not any(value is not None and value is not False for value in others.values())
            and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())
        )

    @torch.inference_mode()  # spares every operator what autograd would keep, a tenth of the time
    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        cache: DynamicCache,
    ) -> torch.Tensor:
        """(B, 1) tokens and positions and a (B, S) mask to (B, 1, V) logits; the cache is extended."""
        if attention_mask is not None:
            attention_mask = None if attention_mask.all() else attention_mask[:, None, None, :].bool()
        tokens_embed, positions_embed = self.embeddings
        states = functional.embedding(input_ids, tokens_embed) + functional.embedding(position_ids, positions_embed)
        batch, _, width = states.shape  # (B, 1, D)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            query_key_value, output_projection, attention_norm, expand, contract, mlp_norm = block
            heads = query_key_value(states).view(batch, 1, 3, -1, self.head_width)
            query, key, value = heads.transpose(1, 3).unbind(2)  # (B, H, 1, W)
            key, value = layer.update(key, value)  # (B, H, S, W)
            mixed = functional.scaled_dot_product_attention(query, key, value, attention_mask)
            mixed = mixed.transpose(1, 2).reshape(batch, 1, width)
            states = torch.layer_norm(states + output_projection(mixed), *attention_norm)
            transformed = contract(functional.gelu(expand(states), approximate="tanh"))
            states = torch.layer_norm(states + transformed, *mlp_norm)
        return self.lm_head(states)


def _norm(layer: nn.LayerNorm) -> tuple[Any, ...]:
    return layer.normalized_shape, layer.weight, layer.bias, layer.eps


def _is_plain(module: nn.Module) -> bool:
    if module.training or not _has_own_forward(module):
        return False
    # The library's own hooks stay once hidden states were asked for, and do nothing unless they are again.
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return all(getattr(hook, "__module__", None) == output_capturing.__name__ for hook in hooks)
