"""Describes our models as ONNX graphs: what a decoder reads of the source, and one step with its state.

A translator is two graphs, GPT-1 is one. The names of their tensors say what they are:

    input_ids, attention_mask     what a caller gives
    source.*                      what the encoder knows of the source; the same at every step
    past.*                        the state before a step; where the encoder does not give it, it is empty at first
    present.*                     the state after a step, which is `past.*` of the next one
    logits                        (B, T, V)

The modules here only exist to be exported. Loops over time are the LSTM and GRU of ONNX, whose length is free; a loop
in Python would become as many copies of its body as the example has tokens.

Dimensions: B batch, S source length, T new tokens, P tokens before them, D hidden size, E embedding size, L layers,
H heads, W width of a head, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from gpt1_scratch.modeling_gpt1 import causal_mask
from seq2seq_scratch.modeling_bahdanau import BahdanauEncoderOutput
from seq2seq_scratch.modeling_transformer import SinusoidalPositions
from seq2seq_scratch.recurrent_common import align_left

ENCODER_FILE, DECODER_FILE, MODEL_FILE = "encoder.onnx", "decoder.onnx", "model.onnx"

# The model's configuration; under the name config.json, transformers would look for the model's class.
CONFIG_FILE = "model_config.json"

# The sizes of the example that is traced. All differ and none is 0 or 1, so that no two dimensions are taken for one.
ROWS, SOURCE_LENGTH, NEW_TOKENS, PAST_TOKENS = 3, 5, 2, 7


@dataclass(frozen=True)
class Graph:
    """A graph to export.

    Attributes:
        file: the name of its file.
        module: computes it.
        inputs: an example of each input by its name, in the order of the module's arguments.
        axes: the names of the dimensions whose size is free, by input and dimension.
        outputs: the names of the outputs.
    """

    file: str
    module: nn.Module
    inputs: dict[str, torch.Tensor]
    axes: dict[str, dict[int, str]]
    outputs: list[str]


def graphs_of(model: PreTrainedModel) -> list[Graph]:
    """Returns the graphs of a translator or of a GPT-1 that continues text."""
    kinds = {"rnn_seq2seq": _rnn_graphs, "bahdanau": _bahdanau_graphs, "transformer_seq2seq": _transformer_graphs}
    return kinds.get(model.config.model_type, _gpt1_graphs)(model)


def _source_inputs() -> tuple[dict[str, torch.Tensor], dict[str, dict[int, str]]]:
    mask = torch.arange(SOURCE_LENGTH) < torch.tensor([[5], [3], [4]])
    inputs = {"input_ids": mask.long(), "attention_mask": mask.long()}
    return inputs, {name: {0: "batch", 1: "source"} for name in inputs}


class OnnxLSTM(nn.Module):
    """One layer of an LSTM as ONNX's operator.

    Args:
        cell: holds the weights of all layers.
        layer: the layer's index.
    """

    def __init__(self, cell: nn.LSTM, layer: int = 0):
        super().__init__()
        self.size = cell.hidden_size
        weights = {}
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            i, f, g, o = getattr(cell, f"{name}_l{layer}").detach().chunk(4)
            weights[name] = torch.cat([i, o, f, g])[None]  # ONNX's order
        self.register_buffer("input_weight", weights["weight_ih"])  # 1 4D E
        self.register_buffer("state_weight", weights["weight_hh"])  # 1 4D D
        self.register_buffer("bias", torch.cat([weights["bias_ih"], weights["bias_hh"]], dim=1))  # 1 8D

    def forward(
        self, inputs: torch.Tensor, state: torch.Tensor | None = None, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs over a batch.

        Args:
            inputs: (B, T, E), padding after the tokens.
            state: (B, 2, D) h and c; None for zeros.
            lengths: (B,); by default all rows are T long.

        Returns:
            The outputs, (B, T, D), and the last h and c, (B, 2, D).
        """
        rows, steps, _ = inputs.shape
        start = inputs.new_zeros(rows, 2, self.size) if state is None else state
        hidden, memory = start.transpose(0, 1)[:, None]  # 1 B D each
        lengths = inputs.new_full((rows,), steps, dtype=torch.int32) if lengths is None else lengths.int()
        weights = self.input_weight, self.state_weight, self.bias
        outputs, hidden, memory = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (inputs.transpose(0, 1), *weights, lengths, hidden, memory),
            attrs={"hidden_size": self.size},
            dtypes=[inputs.dtype] * 3,
            shapes=[(steps, 1, rows, self.size), hidden.shape, memory.shape],
        )
        return outputs[:, 0].transpose(0, 1), torch.cat([hidden, memory]).transpose(0, 1)


class OnnxGRU(nn.Module):
    """A `BidirectionalGRU` as ONNX's operator.

    ONNX's update gate says how much of the state is kept, ours how much is replaced: 1 - sigmoid(x) = sigmoid(-x).
    """

    def __init__(self, gru: nn.Module):
        super().__init__()
        self.size = gru.candidate_weight.shape[-1]
        sign = torch.ones(3 * self.size)
        sign[: self.size] = -1
        state_weight = torch.cat([gru.gate_weight, gru.candidate_weight], dim=-1).detach()  # 2 D 3D
        bias = gru.bias.detach().reshape(2, -1) * sign
        self.register_buffer("input_weight", (gru.input_weight.detach() * sign).transpose(1, 2))  # 2 3D E
        self.register_buffer("state_weight", (state_weight * sign).transpose(1, 2))  # 2 3D D
        self.register_buffer("bias", torch.cat([bias, torch.zeros_like(bias)], dim=1))  # 2 6D

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs both directions over a batch.

        Args:
            inputs: (B, S, E), padding after the tokens.
            lengths: (B,).

        Returns:
            The states, (B, S, 2D), and the last one of each direction, (2, B, D).
        """
        rows, steps, _ = inputs.shape
        outputs, last = torch.onnx.ops.symbolic_multi_out(
            "GRU",
            (inputs.transpose(0, 1), self.input_weight, self.state_weight, self.bias, lengths.int()),
            attrs={"hidden_size": self.size, "direction": "bidirectional"},
            dtypes=[inputs.dtype] * 2,
            shapes=[(steps, 2, rows, self.size), (2, rows, self.size)],
        )
        return outputs.permute(2, 0, 1, 3).flatten(2), last  # S 2 B D -> B S 2D


class LSTMEncoderGraph(nn.Module):
    """The encoder of Sutskever et al.: ids and mask, (B, S) each, to the state (B, L, 2, D)."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.embed_tokens, self.reverse_source = model.encoder.embed_tokens, model.encoder.reverse_source
        self.layers = _lstm_layers(model.encoder.lstm)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        order, lengths = align_left(attention_mask, reverse=self.reverse_source)
        states, inputs = [], self.embed_tokens(input_ids.gather(1, order))
        for layer in self.layers:
            inputs, state = layer(inputs, lengths=lengths)
            states.append(state)
        return (torch.stack(states, dim=1),)


class LSTMStepGraph(nn.Module):
    """The decoder of Sutskever et al.: ids, (B, T), and the state, (B, L, 2, D), to logits and the new state."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.embed_tokens, self.lm_head = model.decoder.embed_tokens, model.lm_head
        self.layers = _lstm_layers(model.decoder.lstm)

    def forward(self, input_ids: torch.Tensor, past: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        states, inputs = [], self.embed_tokens(input_ids)
        for index, layer in enumerate(self.layers):
            inputs, state = layer(inputs, past[0][:, index])
            states.append(state)
        return self.lm_head(inputs), torch.stack(states, dim=1)


def _lstm_layers(lstm: nn.LSTM) -> nn.ModuleList:
    return nn.ModuleList(OnnxLSTM(lstm, layer) for layer in range(lstm.num_layers))


def _rnn_graphs(model: PreTrainedModel) -> list[Graph]:
    config = model.config
    inputs, axes = _source_inputs()
    step = {
        "input_ids": torch.ones(ROWS, NEW_TOKENS, dtype=torch.long),
        "past.state": torch.zeros(ROWS, config.num_hidden_layers, 2, config.hidden_size),
    }
    return [
        Graph(ENCODER_FILE, LSTMEncoderGraph(model), inputs, axes, ["past.state"]),
        Graph(
            DECODER_FILE,
            LSTMStepGraph(model),
            step,
            {"input_ids": {0: "batch", 1: "target"}, "past.state": {0: "batch"}},
            ["logits", "present.state"],
        ),
    ]


class BahdanauEncoderGraph(nn.Module):
    """The encoder of Bahdanau et al.: ids and mask, (B, S) each, to what `BahdanauEncoderOutput` names, and s_0.

    Source positions are in the order of the tokens, with padding after them, whichever side it was on.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.embed_tokens, self.use_attention = model.encoder.embed_tokens, model.encoder.use_attention
        self.gru = OnnxGRU(model.encoder.bidirectional_gru)
        self.attention_key, self.gate_value = model.encoder.attention_key, model.encoder.gate_value
        self.initial_state = model.decoder.initial_state

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        order, lengths = align_left(attention_mask)
        annotations, last = self.gru(self.embed_tokens(input_ids.gather(1, order)), lengths)
        mask = torch.arange(input_ids.shape[1]) < attention_mask.sum(dim=1, keepdim=True)
        if not self.use_attention:
            annotations = torch.cat([last[0], last[1]], dim=-1)[:, None]  # B 1 2D: what each direction read last
            mask = torch.ones_like(mask[:, :1])
        state = torch.tanh(self.initial_state(last[1]))
        return annotations, self.attention_key(annotations), self.gate_value(annotations), mask, state


class BahdanauStepGraph(nn.Module):
    """The decoder of Bahdanau et al.: one id, (B, 1), the encoder's output and s, to logits and the new s."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.decoder, self.lm_head = model.decoder, model.lm_head

    def forward(
        self, input_ids: torch.Tensor, source: Sequence[torch.Tensor], past: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        annotations, keys, gate_values, mask = source
        encoded = BahdanauEncoderOutput(
            last_hidden_state=annotations, attention_keys=keys, gate_values=gate_values, source_mask=mask
        )
        decoded = self.decoder(input_ids, encoded, past[0])
        return self.lm_head(decoded.features), decoded.state


def _bahdanau_graphs(model: PreTrainedModel) -> list[Graph]:
    config, size = model.config, model.config.hidden_size
    inputs, axes = _source_inputs()
    length = SOURCE_LENGTH if config.use_attention else 1
    step = {
        "input_ids": torch.ones(ROWS, 1, dtype=torch.long),
        "source.annotations": torch.zeros(ROWS, length, 2 * size),
        "source.keys": torch.zeros(ROWS, length, config.attention_size),
        "source.gate_values": torch.zeros(ROWS, length, 3 * size),
        "source.mask": torch.ones(ROWS, length, dtype=torch.bool),
        "past.state": torch.zeros(ROWS, size),
    }
    of_source = {0: "batch", 1: "source"} if config.use_attention else {0: "batch"}
    step_axes = {name: of_source if name.startswith("source.") else {0: "batch"} for name in step}
    sources = [name for name in step if name.startswith("source.")]
    return [
        Graph(ENCODER_FILE, BahdanauEncoderGraph(model), inputs, axes, [*sources, "past.state"]),
        Graph(DECODER_FILE, BahdanauStepGraph(model), step, step_axes, ["logits", "present.state"]),
    ]


class ComputedSinusoids(nn.Module):
    """`SinusoidalPositions` without a table, which would end somewhere."""

    def __init__(self, d_model: int):
        super().__init__()
        self.register_buffer("rates", torch.exp(torch.arange(0, d_model, 2).double() * (-math.log(10_000) / d_model)))

    def forward(self, position_ids: torch.Tensor, length: int) -> torch.Tensor:
        angles = position_ids.double()[..., None] * self.rates
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).float()


@contextmanager
def without_tables(model: PreTrainedModel) -> Iterator[None]:
    """Replaces tables of sinusoids by their formula inside the block."""
    tables = {name: module for name, module in model.named_modules() if isinstance(module, SinusoidalPositions)}
    try:
        for name, table in tables.items():
            model.set_submodule(name, ComputedSinusoids(table.d_model))
        yield
    finally:
        for name, table in tables.items():
            model.set_submodule(name, table)


class TransformerEncoderGraph(nn.Module):
    """The Transformer's encoder: ids and mask, (B, S) each, to the mask, keys and values of each decoder layer."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.encoder = model.model.encoder
        self.attentions = nn.ModuleList(layer.cross_attention for layer in model.model.decoder.layers)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        states = self.encoder(input_ids, attention_mask).last_hidden_state  # B S D
        outputs = [attention_mask.bool()]
        for attention in self.attentions:
            for projection, width in ((attention.k_proj, attention.d_k), (attention.v_proj, attention.d_v)):
                outputs.append(projection(states).unflatten(-1, (-1, width)).transpose(1, 2))  # B H S W
        return tuple(outputs)


class TransformerStepGraph(nn.Module):
    """The Transformer's decoder: ids, (B, T), the encoder's output, keys and values, to logits and the longer ones."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.decoder, self.lm_head = model.model.decoder, model.lm_head

    def forward(
        self, input_ids: torch.Tensor, source: Sequence[torch.Tensor], past: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        mask, *source = source
        cache = EncoderDecoderCache(_filled_cache(past), _filled_cache(source))
        cache.is_updated = dict.fromkeys(range(len(self.decoder.layers)), True)
        # Keys and values of the source are in the cache: of the encoder's states, only the number of rows is read.
        outputs = self.decoder(input_ids, mask[:, :, None], mask, cache=cache)
        return self.lm_head(outputs.last_hidden_state), *_content(cache.self_attention_cache)


def _filled_cache(tensors: Sequence[torch.Tensor]) -> DynamicCache:
    """Returns a cache with keys and values by turns, (B, H, P, W) each."""
    cache = DynamicCache()
    for layer in range(len(tensors) // 2):
        cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
    return cache


def _content(cache: DynamicCache) -> list[torch.Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _transformer_graphs(model: PreTrainedModel) -> list[Graph]:
    config = model.config
    inputs, axes = _source_inputs()
    attention = model.model.decoder.layers[0].self_attention
    heads, widths = config.decoder_attention_heads, {"key": attention.d_k, "value": attention.d_v}
    step: dict[str, torch.Tensor] = {"input_ids": torch.ones(ROWS, NEW_TOKENS, dtype=torch.long)}
    step["source.mask"] = torch.ones(ROWS, SOURCE_LENGTH, dtype=torch.bool)
    for kind, length in (("source", SOURCE_LENGTH), ("past", PAST_TOKENS)):
        for layer in range(config.decoder_layers):
            for name, width in widths.items():
                step[f"{kind}.{layer}.{name}"] = torch.zeros(ROWS, heads, length, width)
    step_axes = {name: {0: "batch", tensor.dim() // 2: name.partition(".")[0]} for name, tensor in step.items()} | {
        "input_ids": {0: "batch", 1: "target"}
    }
    sources = [name for name in step if name.startswith("source.")]
    return [
        Graph(ENCODER_FILE, TransformerEncoderGraph(model), inputs, axes, sources),
        Graph(DECODER_FILE, TransformerStepGraph(model), step, step_axes, ["logits", *_present(step)]),
    ]


def _present(inputs: dict[str, Any]) -> list[str]:
    return [name.replace("past.", "present.") for name in inputs if name.startswith("past.")]


class GPT1Graph(nn.Module):
    """GPT-1: ids, (B, T), the mask, (B, P + T), keys and values, to logits and the longer ones."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        length = input_ids.shape[1]
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -length:]
        visible = causal_mask(length, attention_mask.shape[1]) & attention_mask.bool()[:, None, None]  # B 1 T P+T
        cache = _filled_cache(past)
        outputs = self.model(input_ids, attention_mask=visible, position_ids=position_ids, cache=cache)
        return outputs.logits, *_content(cache)


class GPT1LSTMGraph(nn.Module):
    """GPT-1 with an LSTM: ids, (B, T), mask, (B, P + T), and state, (B, L, 2, C), to logits and the new state."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.tokens_embed, self.positions_embed = model.model.tokens_embed, model.model.positions_embed
        self.layers = nn.ModuleList(OnnxLSTM(block.lstm) for block in model.model.blocks)
        self.projections = nn.ModuleList(block.out_proj for block in model.model.blocks)
        self.lm_head = model.lm_head

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        hidden_states = self.tokens_embed(input_ids) + self.positions_embed(position_ids)
        states = []
        for index, (layer, projection) in enumerate(zip(self.layers, self.projections, strict=True)):
            outputs, state = layer(hidden_states, past[0][:, index])
            states.append(state)
            hidden_states = projection(outputs)
        return self.lm_head(hidden_states), torch.stack(states, dim=1)


def _gpt1_graphs(model: PreTrainedModel) -> list[Graph]:
    config = model.config
    step: dict[str, torch.Tensor] = {
        "input_ids": torch.ones(ROWS, NEW_TOKENS, dtype=torch.long),
        "attention_mask": torch.ones(ROWS, PAST_TOKENS + NEW_TOKENS, dtype=torch.long),
    }
    axes = {"input_ids": {0: "batch", 1: "target"}, "attention_mask": {0: "batch", 1: "past_and_target"}}
    if config.lstm_size is not None:
        step["past.state"] = torch.zeros(ROWS, config.num_hidden_layers, 2, config.lstm_size)
        axes["past.state"] = {0: "batch"}
        return [Graph(MODEL_FILE, GPT1LSTMGraph(model), step, axes, ["logits", *_present(step)])]
    heads = config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        for name in ("key", "value"):
            step[f"past.{layer}.{name}"] = torch.zeros(ROWS, heads, PAST_TOKENS, config.hidden_size // heads)
            axes[f"past.{layer}.{name}"] = {0: "batch", 2: "past"}
    return [Graph(MODEL_FILE, GPT1Graph(model), step, axes, ["logits", *_present(step)])]
