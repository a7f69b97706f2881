"""Fast generation on CPU: a preallocated cache, and decoding steps that do not call the modules.

Skip this file on first reading: it computes what `modeling_gpt1.py` does. Both optimisations hold for one call of
`generate()`, during which the weights do not change and every step adds one token to each sequence. `plain_forms()`
turns them off.

Dimensions: B batch, T positions of the input, S positions attended to, H heads, W width of a head, D model width,
V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.utils import output_capturing

from .packed_linear import MAX_ROWS_FOR_PACKED_MATMUL, has_own_forward

LIBRARY_MODULES = (nn.Embedding, nn.LayerNorm, nn.Linear, nn.ModuleList)


class PreallocatedLayer(DynamicLayer):
    """A layer of a `DynamicCache` that writes new keys and values into buffers with free space at the end.

    The library's `DynamicLayer.update` concatenates, which copies all earlier keys and values at every step. For a
    batch, that takes longer than attention itself. Here a full buffer is replaced by one of twice the size.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.buffers: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends keys and values; extends `DynamicLayer.update`.

        Args:
            key_states, value_states: (B, H, T, W), those of the new positions.

        Returns:
            Keys and values of all positions, (B, H, S, W) each.
        """
        if torch.is_grad_enabled():  # autograd may need the old values of a buffer, so none is written to
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append("keys", self.keys, key_states)
        self.values = self._append("values", self.values, value_states)
        return self.keys, self.values

    def _append(self, name: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        count = new.shape[2]
        seen = held.shape[2] if held.numel() else 0
        buffer = self.buffers.get(name)
        # Methods that reorder or select rows replace `held`, which is otherwise the beginning of the buffer.
        if buffer is None or buffer.data_ptr() != held.data_ptr() or seen + count > buffer.shape[2]:
            batch, heads, _, width = new.shape
            # The heads of a position lie side by side in memory, the layout of the products before and after.
            with torch.inference_mode(False):  # the buffer must be writable both in inference mode and outside of it
                buffer = new.new_empty(batch, 2 * (seen + count), heads, width).transpose(1, 2)  # B H space W
            self.buffers[name] = buffer
            if seen:
                buffer.narrow(2, 0, seen).copy_(held)
        buffer.narrow(2, seen, count).copy_(new)
        return buffer.narrow(2, 0, seen + count)  # B H S W


def preallocate_cache(cache: Cache | None) -> None:
    """Makes the layers of an empty plain `DynamicCache` preallocated ones; leaves every other cache unchanged."""
    if type(cache) is DynamicCache and not cache.offloading:
        if all(type(layer) is DynamicLayer and not layer.is_initialized for layer in cache.layers):
            cache.layers = [PreallocatedLayer() for _ in cache.layers]


class TokenStep:
    """Computes the logits of one new token for each sequence without calling GPT-1's modules.

    For a single token, calling some fifty modules of a small model, with their keyword arguments, hooks and case
    distinctions, takes about as long as the matrix products. An instance holds references to the weights' forwards,
    so it must not be used after the weights have been replaced.
    """

    def __init__(self, model: nn.Module):
        self.embeddings = [embed.weight for embed in (model.model.tokens_embed, model.model.positions_embed)]
        self.blocks = [
            (
                *(layer.forward for layer in (block.attention.query_key_value, block.attention.out_proj)),
                _layer_norm_arguments(block.attention_norm),
                *(layer.forward for layer in (block.mlp.expand, block.mlp.contract)),
                _layer_norm_arguments(block.mlp_norm),
            )
            for block in model.model.blocks[: model.config.num_hidden_layers]
        ]
        self.head_width = model.model.blocks[0].attention.head_width
        self.lm_head = model.lm_head.forward

    @staticmethod
    def supports_model(model: nn.Module, model_classes: tuple[type, ...]) -> bool:
        """Returns True if the model is on CPU and uses SDPA, and all modules are unmodified and in evaluation mode.

        An adapter, quantisation, offloading, a user's hook or dropout would have no effect here, because the modules
        are not called.

        Args:
            model_classes: GPT-1's own module classes that this class computes.
        """
        return (
            model.config._attn_implementation == "sdpa"
            and all(
                type(module) in (*model_classes, *LIBRARY_MODULES) and _is_unmodified(module)
                for module in model.modules()
            )
            and all(weight.device.type == "cpu" for weight in model.parameters())
        )

    def supports_input(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        cache: Cache | None,
        **others: Any,
    ) -> bool:
        """Returns True for one token per sequence with a filled preallocated cache, if only logits are requested."""
        return (
            input_ids is not None
            and input_ids.shape[1] == 1
            and len(input_ids) <= MAX_ROWS_FOR_PACKED_MATMUL
            and position_ids is not None
            and (attention_mask is None or attention_mask.dim() == 2)
            and isinstance(cache, DynamicCache)
            and len(cache.layers) == len(self.blocks)
            and all(type(layer) is PreallocatedLayer and layer.is_initialized for layer in cache.layers)
            and not any(value is not None and value is not False for value in others.values())
            and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())
        )

    @torch.inference_mode()  # saves autograd's bookkeeping in every operator, a tenth of the time
    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        cache: DynamicCache,
    ) -> torch.Tensor:
        """Predicts the next token of each sequence and extends the cache.

        Args:
            input_ids, position_ids: (B, 1).
            attention_mask: (B, S) with 0 for padding; `None` if there is none.
            cache: keys and values of the S - 1 positions before.

        Returns:
            Logits, (B, 1, V).
        """
        if attention_mask is not None:
            attention_mask = None if attention_mask.all() else attention_mask[:, None, None, :].bool()  # B 1 1 S
        tokens_embed, positions_embed = self.embeddings
        states = functional.embedding(input_ids, tokens_embed) + functional.embedding(position_ids, positions_embed)
        batch, _, width = states.shape  # B 1 D
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            query_key_value, out_proj, attention_norm, expand, contract, mlp_norm = block
            heads = query_key_value(states).view(batch, 1, 3, -1, self.head_width)  # B 1 3D -> B 1 3 H W
            query, key, value = heads.transpose(1, 3).unbind(2)  # B H 1 W each
            key, value = layer.update(key, value)  # B H S W each
            mixed = functional.scaled_dot_product_attention(query, key, value, attention_mask)
            mixed = mixed.transpose(1, 2).reshape(batch, 1, width)  # B H 1 W -> B 1 D
            states = torch.layer_norm(states + out_proj(mixed), *attention_norm)
            transformed = contract(functional.gelu(expand(states), approximate="tanh"))
            states = torch.layer_norm(states + transformed, *mlp_norm)
        return self.lm_head(states)  # B 1 D -> B 1 V


def _layer_norm_arguments(layer: nn.LayerNorm) -> tuple[Any, ...]:
    return layer.normalized_shape, layer.weight, layer.bias, layer.eps


def _is_unmodified(module: nn.Module) -> bool:
    if module.training or not has_own_forward(module):
        return False
    # The library registers hooks when hidden states are first requested and never removes them. They have no effect
    # unless hidden states are requested again.
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return all(getattr(hook, "__module__", None) == output_capturing.__name__ for hook in hooks)
