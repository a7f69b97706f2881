"""The LSTM of GPT-1's ablation (section 5 and table 5 of the paper), which replaces the Transformer's blocks.

Dimensions: B batch, T positions of the input, S positions of the cache and the input, D model width, C cells.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_gpt1 import GPT1Config
from .cpu_generation import PreallocatedLayer
from .dropout import dropout
from .plain_forms import has_fast_form


def call_lstm(
    lstm: nn.LSTM, inputs: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Computes `run_lstm` by `nn.LSTM`, on an accelerator outside of autocast.

    On a GPU, autocast gives cuDNN's LSTM float16 even if its own type is bf16 (aten/src/ATen/cudnn/AutocastRNN.cpp).
    Most gradients of a loss that is not scaled are below float16's smallest normal number, 6e-5, and lose bits. In
    fp32, cuDNN rounds the factors of its products to TF32, which has the range of bf16 and three bits more.

    The translators' package has the same function; the packages do not import each other.
    """
    device_type = inputs.device.type
    if device_type == "cpu" or not torch.amp.is_autocast_available(device_type):
        return lstm(inputs, state)
    dtype = lstm.weight_ih_l0.dtype
    with torch.autocast(device_type, enabled=False):
        return lstm(inputs.to(dtype), None if state is None else tuple(part.to(dtype) for part in state))


@has_fast_form(call_lstm)
def run_lstm(
    lstm: nn.LSTM, inputs: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Runs the equations of `LSTMBlock` over a sequence in plain form.

    Args:
        lstm: holds the weights W and U of the gates, in the order i, f, g, o.
        inputs: (B, T, D).
        state: outputs and cells of the position before, (1, B, C) each; `None` for zeros.

    Returns:
        The outputs, (B, T, C), and the last outputs and cells, (1, B, C) each.
    """
    weights = [getattr(lstm, f"{kind}_{source}_l0") for source in ("ih", "hh") for kind in ("weight", "bias")]
    input_weight, input_bias, state_weight, state_bias = weights
    zeros = inputs.new_zeros(inputs.shape[0], lstm.hidden_size)
    output, cells = (zeros, zeros) if state is None else (part[0] for part in state)  # B C each
    outputs = []
    for x in inputs.unbind(1):  # B D at every position
        gates = nn.functional.linear(x, input_weight, input_bias) + nn.functional.linear(
            output, state_weight, state_bias
        )  # B 4C
        i, f, g, o = gates.chunk(4, dim=-1)
        cells = f.sigmoid() * cells + i.sigmoid() * g.tanh()
        output = o.sigmoid() * cells.tanh()
        outputs.append(output)
    return torch.stack(outputs, dim=1), (output[None], cells[None])


class LSTMBlock(GradientCheckpointingLayer):
    """A layer of LSTM cells and a linear layer from their outputs back to the model width.

    The input at a position and the state of the position before give the cells c and the outputs h (Hochreiter and
    Schmidhuber 1997, with forget gates), where * is element by element:

        i, f, o = sigmoid(W x_t + U h_{t-1} + b)    input, forget and output gates, each with its own W, U and b
        g       = tanh(W x_t + U h_{t-1} + b)
        c_t     = f * c_{t-1} + i * g
        h_t     = o * tanh(c_t)

    So everything before a position reaches it through one state of fixed size, while attention reads every position.
    The state continues from one document of a row to the next. `position_ids` that restart have no effect here.
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
        """Runs the LSTM over the input, from the state in the cache or from zeros.

        Args:
            hidden_states: (B, T, D).
            attention_mask: unused; padding is always on the right.
            cache: a `DynamicCache`. Its keys, (B, 1, S, C), are the outputs of all positions, which gives it a length
                and lets beam search reorder its rows. The last of its values, (B, 1, S, C), are the cells of the last
                position; the others are zeros.

        Returns:
            (B, T, D).

        Raises:
            ValueError: the cache is of a class whose last entry is not the last position, or that quantises.
        """
        state = None
        if cache is not None and not isinstance(cache, Cache):
            raise ValueError(_describe_wrong_cache(cache))
        if cache is not None and cache.get_seq_length(self.layer_idx):
            layer = cache.layers[self.layer_idx]
            state = tuple(states[:, 0, -1][None].contiguous() for states in (layer.keys, layer.values))  # 1 B C each
        outputs, (_, cells) = run_lstm(self.lstm, hidden_states, state)  # B T D -> B T C and 1 B C
        if cache is not None:
            values = torch.zeros_like(outputs)
            values[:, -1] = cells[0]
            cache.update(outputs[:, None], values[:, None], self.layer_idx)
            layer = cache.layers[self.layer_idx]
            if type(layer) not in (DynamicLayer, PreallocatedLayer):
                raise ValueError(_describe_wrong_cache(layer))
        # The outputs of nn.LSTM are a transposed view. If the rows were not contiguous, PyTorch might copy frozen
        # weights for each sample of a batched product.
        return self.out_proj(dropout(outputs, self.residual_dropout, self.training).contiguous())  # B T C -> B T D


def _describe_wrong_cache(cache: Any) -> str:
    return f"A model with lstm_size cannot continue from a {type(cache).__name__}. Use a DynamicCache."


def refuse_padding_before_tokens(attention_mask: torch.Tensor | None) -> None:
    """Raises a ValueError if a (B, S) mask has padding on the left or in between, which an LSTM would read as text."""
    if attention_mask is not None and attention_mask.ndim == 2:
        real = attention_mask != 0
        if (real[:, 1:] & ~real[:, :-1]).any():
            raise ValueError(
                "attention_mask has padding on the left or between tokens, which a model with lstm_size would read as "
                "text. Pad on the right, or use texts of the same length."
            )
