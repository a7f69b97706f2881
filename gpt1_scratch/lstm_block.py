"""The LSTM that GPT-1's paper puts in the Transformer's place (section 5, table 5) to ask what that is worth.

Dimensions: B batch, T positions of the input, D hidden size, C cells.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_gpt1 import GPT1Config
from .cpu_generation import PreallocatedLayer
from .dropout import dropout


class LSTMBlock(GradientCheckpointingLayer):
    """A layer of LSTM cells and the matrix from their outputs back to the hidden size.

    What came before reaches a position through the state alone, one vector, where attention looks at every position.
    The state runs on from one document of a row to the next: `position_ids` that restart separate nothing here.
    """

    def __init__(self, config: GPT1Config, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.lstm = nn.LSTM(config.hidden_size, config.lstm_size, batch_first=True)
        self.out_proj = nn.Linear(config.lstm_size, config.hidden_size)
        self.residual_dropout = config.residual_dropout

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Reads on from where the cache stands.

        Args:
            hidden_states: (B, T, D).
            attention_mask: has nothing to say: the model keeps padding behind the tokens.
            cache: holds the outputs of all positions as keys, which gives it its length and lets a search
                reorder its rows; the last position's cells are the last of its values.

        Returns:
            (B, T, D).

        Raises:
            ValueError: a cache whose end is not where its last position is, or that rounds what it holds.
        """
        state = None
        if cache is not None and not isinstance(cache, Cache):
            raise ValueError(f"A model with lstm_size cannot go on from a {type(cache).__name__}: use a DynamicCache.")
        if cache is not None and cache.get_seq_length(self.layer_idx):
            layer = cache.layers[self.layer_idx]
            state = tuple(states[:, 0, -1][None].contiguous() for states in (layer.keys, layer.values))  # (1, B, C)
        outputs, (_, cells) = self.lstm(hidden_states, state)
        if cache is not None:
            values = torch.zeros_like(outputs)
            values[:, -1] = cells[0]
            cache.update(outputs[:, None], values[:, None], self.layer_idx)
            kind = type(cache.layers[self.layer_idx])
            if kind not in (DynamicLayer, PreallocatedLayer):
                raise ValueError(f"A model with lstm_size cannot go on from a {kind.__name__}: use a DynamicCache.")
        # nn.LSTM's outputs are a transposed view. For rows that are not contiguous PyTorch may copy frozen weights for
        # each sample, for a batched product.
        return self.out_proj(dropout(outputs, self.residual_dropout, self.training).contiguous())


def refuse_padding_before_text(attention_mask: torch.Tensor | None) -> None:
    """Raises ValueError for a (B, S) mask with padding on the left, which an LSTM would read as text."""
    if attention_mask is not None and attention_mask.ndim == 2 and not attention_mask[:, 0].all():
        raise ValueError(
            "A model with lstm_size reads padding on the left as text. Pad on the right, or give texts of one length."
        )
