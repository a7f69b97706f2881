"""Translation with attention (Bahdanau, Cho and Bengio 2014, "RNNsearch").

A bidirectional GRU reads the source; at every target position the decoder weighs the source states anew, by how well
each matches its own last state (section 3.1, appendix A).

Only what truly depends on the last state stands in the loops over time. Both loops are autograd functions with their
backward pass written out: autograd would add up a gradient of every weight, and of the whole source, at each step,
where one product over all steps does.

Dimensions: B batch, S source length, T target length, E embedding size, H hidden size, A attention size, L maxout
size, V target vocabulary, 2 directions of the encoder. Weights in the loops stand input by output, as in x @ W.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from .bahdanau_loops import _AttentiveLoop, _BidirectionalLoop
from .configuration_bahdanau import BahdanauConfig
from .dropout import Dropout
from .recurrent_common import RecurrentDecoderOutput, RecurrentTranslationModel, align_left
from .seq2seq_common import effective_weight, inverse_permutation, product_dtype


@dataclass
class BahdanauEncoderOutput(ModelOutput):
    """The source as the decoder reads it: everything that depends on the source alone, computed once.

    Args:
        last_hidden_state: (B, S, 2H) annotations h_j, forward and backward state side by side.
        first_backward_state: (B, H) the backward GRU's state at the first token, where it has read the whole source.
        attention_keys: (B, S, A) U_a h_j in fp32.
        gate_values: (B, S, 3H) C_z h_j, C_r h_j and C h_j. As c_i is a weighted sum of the h_j, C c_i is the same
            weighted sum of the C h_j.
        source_mask: (B, S) True at real tokens.
    """

    last_hidden_state: torch.Tensor | None = None
    first_backward_state: torch.Tensor | None = None
    attention_keys: torch.Tensor | None = None
    gate_values: torch.Tensor | None = None
    source_mask: torch.Tensor | None = None


class BidirectionalGRU(nn.Module):
    """Section 3.2: one GRU reads the source from its start, one from its end.

    Both step at once: their weights stand stacked, forward first, and every step is one batched product. Padding
    never needs a mask here, as each direction reads the real tokens first.
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        size = config.hidden_size
        self.input_weight = nn.Parameter(torch.empty(2, config.embedding_size, 3 * size))  # W_z, W_r, W
        self.bias = nn.Parameter(torch.empty(2, 1, 3 * size))
        self.gate_weight = nn.Parameter(torch.empty(2, size, 2 * size))  # U_z, U_r
        self.candidate_weight = nn.Parameter(torch.empty(2, size, size))  # U

    def forward(self, embedded: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs over source embeddings (B, S, E), real where the mask (B, S) says so.

        Returns:
            (B, S, 2H) forward and backward state at each source position, and (B, H) the backward state at the first
            real token, both in the precision of products, which is all that reads them.
        """
        batch_size, length, _ = embedded.shape
        forward_order, lengths = align_left(mask)
        orders = torch.stack([forward_order, align_left(mask, reverse=True)[0]])  # (2, B, S) step to position
        row = torch.arange(batch_size, device=mask.device)
        source_rows = (orders + row[:, None] * length).transpose(1, 2).reshape(-1)  # (2 * S * B,)
        aligned = embedded.flatten(0, 1).index_select(0, source_rows).view(2, length * batch_size, -1)
        gate_inputs = torch.baddbmm(self.bias, aligned, self.input_weight)
        dtype = product_dtype(embedded)
        states = _BidirectionalLoop.apply(
            gate_inputs.view(2, length, batch_size, -1), self.gate_weight.to(dtype), self.candidate_weight.to(dtype)
        )  # (2, S, B, H) by step
        states = states.to(dtype)
        first_backward_state = states[1, lengths - 1, row]
        steps = inverse_permutation(orders).permute(1, 2, 0)  # (B, S, 2) position to step
        direction = torch.arange(2, device=mask.device)
        state_rows = (direction * length + steps) * batch_size + row[:, None, None]
        annotations = states.flatten(0, 2).index_select(0, state_rows.flatten())
        return annotations.view(batch_size, length, -1), first_backward_state


class BahdanauEncoder(nn.Module):
    """The bidirectional GRU, and the two products that the decoder would else repeat for every target token.

    U_a of the alignment model and C of the decoder's gates belong here because they read the source alone:
    `generate()` runs the encoder once and repeats its output for every beam.
    """

    main_input_name = "input_ids"  # asked for by generate()

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.bidirectional_gru = BidirectionalGRU(config)
        self.state_dropout = Dropout(config.encoder_dropout)
        self.attention_key = nn.Linear(2 * config.hidden_size, config.attention_size)  # U_a
        self.gate_value = nn.Linear(2 * config.hidden_size, 3 * config.hidden_size, bias=False)  # C_z, C_r, C

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BahdanauEncoderOutput:
        """Encodes (B, S) token ids; the mask (B, S) is 1 at real tokens, by default all but `pad_token_id`."""
        source_mask = input_ids != self.pad_token_id if attention_mask is None else attention_mask.bool()
        embedded = self.embedding_dropout(self.embed_tokens(input_ids))
        annotations, first_backward_state = self.bidirectional_gru(embedded, source_mask)
        annotations = self.state_dropout(annotations)
        keys = self.attention_key(annotations)
        return BahdanauEncoderOutput(
            last_hidden_state=annotations,
            first_backward_state=first_backward_state,
            # On CPUs tanh takes five times as long in bf16 as in fp32.
            attention_keys=keys.to(torch.promote_types(keys.dtype, torch.float32)),
            gate_values=self.gate_value(annotations),
            source_mask=source_mask,
        )


class AdditiveAttention(nn.Module):
    """The alignment model's part in the decoder, e_ij = v_a . tanh(W_a s_{i-1} + U_a h_j); U_a is in the encoder."""

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.attention_size, bias=False)  # W_a
        self.score = nn.Linear(config.attention_size, 1, bias=False)  # v_a


class MaxoutReadout(nn.Module):
    """The deep output before its softmax: t~_i = U_o s_{i-1} + V_o E y_{i-1} + C_o c_i, then the larger of each pair.

    Unit j is paired with unit j + L, the paper's 2j - 1 with 2j: another numbering of the same units, but two
    contiguous halves.
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        self.from_state = nn.Linear(config.hidden_size, 2 * config.maxout_size)  # U_o
        self.from_embedding = nn.Linear(config.embedding_size, 2 * config.maxout_size, bias=False)  # V_o
        self.from_context = nn.Linear(2 * config.hidden_size, 2 * config.maxout_size, bias=False)  # C_o

    def forward(self, previous_states: torch.Tensor, embedded: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """From (..., H), (..., E) and (..., 2H) to (..., L)."""
        units = self.from_state(previous_states) + self.from_embedding(embedded) + self.from_context(contexts)
        return torch.maximum(*units.chunk(2, dim=-1))


class BahdanauDecoder(nn.Module):
    """Appendix A.2.2: a GRU whose every step is told a new context c_i, a weighted sum of the source states."""

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        size = config.hidden_size
        self.embed_tokens = nn.Embedding(config.decoder_vocab_size, config.embedding_size)
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.initial_state = nn.Linear(size, size)  # W_s
        self.input_gates = nn.Linear(config.embedding_size, 3 * size)  # W_z, W_r, W
        self.state_gates = nn.Linear(size, 2 * size, bias=False)  # U_z, U_r
        self.candidate = nn.Linear(size, size, bias=False)  # U
        self.attention = AdditiveAttention(config)
        self.readout = MaxoutReadout(config)
        self.readout_dropout = Dropout(config.readout_dropout)

    def forward(
        self,
        decoder_input_ids: torch.Tensor,
        encoder_outputs: BahdanauEncoderOutput,
        state: torch.Tensor | None = None,
    ) -> RecurrentDecoderOutput:
        """Reads (B, T) token ids from `state` (B, H), by default s_0 = tanh(W_s h_1), h_1 read backwards."""
        if state is None:
            state = torch.tanh(self.initial_state(encoder_outputs.first_backward_state))
        embedded = self.embedding_dropout(self.embed_tokens(decoder_input_ids.T))  # (T, B, E)
        dtype = product_dtype(embedded)
        score_weight = effective_weight(self.attention.score, embedded)
        candidate_weight = effective_weight(self.candidate, embedded)
        state_weight = torch.cat(
            [effective_weight(layer, embedded) for layer in (self.attention.query, self.state_gates)]
        )
        states, weights = _AttentiveLoop.apply(
            state.to(encoder_outputs.attention_keys.dtype),
            self.input_gates(embedded),
            encoder_outputs.attention_keys,
            encoder_outputs.gate_values,
            encoder_outputs.source_mask,
            state_weight.to(dtype).T,
            score_weight[0].to(encoder_outputs.attention_keys.dtype),
            candidate_weight.to(dtype).T,
        )
        # What is returned is what the features are made of: gradients of states and weights can be asked for.
        states, weights = states.transpose(0, 1), weights.transpose(0, 1)[:, None]  # (B, T, H), (B, 1, T, S)
        annotations = encoder_outputs.last_hidden_state.to(dtype)
        contexts = torch.bmm(weights[:, 0].to(dtype), annotations).transpose(0, 1)
        previous_states = torch.cat([state[None], states.transpose(0, 1)[:-1]]).to(dtype)
        features = self.readout_dropout(self.readout(previous_states, embedded, contexts))
        return RecurrentDecoderOutput(
            features=features.transpose(0, 1),
            last_hidden_state=states,
            state=states[:, -1],
            attention_weights=weights,
        )


class BahdanauForConditionalGeneration(RecurrentTranslationModel):
    """RNNsearch with its softmax; `forward` and `generate()` as in `RecurrentTranslationModel`."""

    config: BahdanauConfig
    # The decoder reads weights of its layers directly, so all have to be on its device.
    _no_split_modules = ["BahdanauEncoder", "BahdanauDecoder"]

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.encoder = BahdanauEncoder(config)
        self.decoder = BahdanauDecoder(config)
        self.lm_head = nn.Linear(config.maxout_size, config.decoder_vocab_size)  # W_o
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Appendix B.1."""
        std = self.config.initializer_std
        if isinstance(module, BidirectionalGRU):
            init.normal_(module.input_weight, std=std)
            init.zeros_(module.bias)
            for weight in (module.gate_weight, module.candidate_weight):
                init.copy_(weight, _orthogonal_blocks(weight))
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Linear):
            if module is self.decoder.state_gates or module is self.decoder.candidate:
                init.copy_(module.weight, _orthogonal_blocks(module.weight))
            elif module is self.decoder.attention.score:
                init.zeros_(module.weight)
            elif module is self.decoder.attention.query or module is self.encoder.attention_key:
                init.normal_(module.weight, std=self.config.attention_initializer_std)
            else:
                init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)


def _orthogonal_blocks(weight: torch.Tensor) -> torch.Tensor:
    """As many orthogonal matrices as the weight has square blocks; drawn apart, since a stack of them is not one."""
    size = min(weight.shape[-2:])
    blocks = torch.empty_like(weight)
    for matrix in blocks.view(-1, *weight.shape[-2:]):
        for block in matrix.split(size, dim=0 if matrix.shape[0] > size else 1):
            square = torch.empty(size, size, dtype=torch.float32, device=weight.device)
            block.copy_(torch.nn.init.orthogonal_(square))
    return blocks


__all__ = ["BahdanauForConditionalGeneration"]
