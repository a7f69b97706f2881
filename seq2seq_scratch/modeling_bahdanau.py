"""Translation with attention (Bahdanau, Cho and Bengio 2014, "RNNsearch"), in plain form.

A bidirectional GRU reads the source. For every target token, the decoder computes weights over all source positions
from its last state, and reads the weighted sum of the source states, the context (section 3.1, appendix A):

    e_ij = v_a . tanh(W_a s_{i-1} + U_a h_j)      AdditiveAttention
    alpha_ij = softmax_j(e_ij)
    c_i = sum_j alpha_ij h_j
    s_i = GRU(s_{i-1}, y_{i-1}, c_i)              gated_recurrent_step
    P(y_i) = softmax(W_o maxout(s_{i-1}, y_{i-1}, c_i))     MaxoutReadout, lm_head

The loops over time here are in plain form. `bahdanau_loops.py` holds their fast form, which training and `generate()`
use by default. Run a model inside `plain_forms()` to step through the plain loops in a debugger.

Dimensions: B batch, S source length, T target length, E embedding size (the paper's m), D hidden size (n),
A attention size (n'), M maxout size (l), V target vocabulary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from .bahdanau_loops import fast_decode, fast_read_both_ways
from .configuration_bahdanau import BahdanauConfig
from .dropout import Dropout
from .plain_forms import plain_forms_are_on
from .recurrent_common import RecurrentDecoderOutput, RecurrentTranslationModel
from .seq2seq_common import TokenEmbedding, has_plain_weight, product_dtype, source_mask


def gated_recurrent_step(
    inputs: torch.Tensor,
    state: torch.Tensor,
    multiply_by_gates: Callable[[torch.Tensor], torch.Tensor],
    multiply_by_candidate: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Computes one step of the gated recurrent unit of appendix A.1.1, s_i from s_{i-1}.

        z = sigmoid(W_z x + U_z s)         the update gate: how much of the state is replaced
        r = sigmoid(W_r x + U_r s)         the reset gate: how much of the state the candidate sees
        s~ = tanh(W x + U (r * s))         the candidate
        s' = (1 - z) * s + z * s~

    The reset gate acts on the state before the product with U. In `nn.GRU` it acts afterwards, r * (U s).

    Args:
        inputs: (B, 3D) the summands of z, r and s~ that do not depend on the state: W_z x, W_r x and W x with biases,
            and in the decoder C_z c, C_r c and C c.
        state: (B, D) s_{i-1}.
        multiply_by_gates: computes U_z s and U_r s, (B, D) to (B, 2D).
        multiply_by_candidate: computes U (r * s), (B, D) to (B, D).

    Returns:
        The new state s_i, (B, D), in fp32 if the precision of products is lower.
    """
    update_inputs, reset_inputs, candidate_inputs = inputs.chunk(3, dim=-1)  # B 3D -> B D each
    update_gate, reset_gate = multiply_by_gates(state.to(inputs.dtype)).chunk(2, dim=-1)  # B D -> B 2D -> B D each
    z = torch.sigmoid(update_inputs + update_gate)
    r = torch.sigmoid(reset_inputs + reset_gate)
    candidate = torch.tanh(candidate_inputs + multiply_by_candidate((r * state).to(inputs.dtype)))
    return (1 - z) * state + z * candidate


@dataclass
class BahdanauEncoderOutput(ModelOutput):
    """The encoder's output: everything that depends on the source alone, computed once.

    Args:
        last_hidden_state: (B, S, 2D) annotations h_j, the forward and the backward state side by side. Padding has
            annotations without a meaning, which no form of the decoder reads. Without attention S is 1, here and
            below: the fixed vector takes the place of all annotations.
        first_backward_state: (B, D) the backward GRU's state at the first token, after it has read the whole source.
        attention_keys: (B, S, A) U_a h_j in fp32.
        gate_values: (B, S, 3D) C_z h_j, C_r h_j and C h_j. As c_i is a weighted sum of the h_j, C c_i is the same
            weighted sum of the C h_j.
        source_mask: (B, S) True at real tokens.
    """

    last_hidden_state: torch.Tensor | None = None
    first_backward_state: torch.Tensor | None = None
    attention_keys: torch.Tensor | None = None
    gate_values: torch.Tensor | None = None
    source_mask: torch.Tensor | None = None


class BidirectionalGRU(nn.Module):
    """Section 3.2, appendix A.2.1: one GRU reads the source from its start, the other one from its end.

    An annotation that joins both states knows the words before a position and those after it. The parameters of both
    directions are stacked, forward first, and a weight multiplies from the right, as in x @ W.
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        size = config.hidden_size
        self.input_weight = nn.Parameter(torch.empty(2, config.embedding_size, 3 * size))  # W_z, W_r, W
        self.bias = nn.Parameter(torch.empty(2, 1, 3 * size))
        self.gate_weight = nn.Parameter(torch.empty(2, size, 2 * size))  # U_z, U_r
        self.candidate_weight = nn.Parameter(torch.empty(2, size, size))  # U

    def forward(self, embedded: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads the source in both directions.

        Args:
            embedded: (B, S, E) source embeddings.
            mask: (B, S), nonzero at real tokens.

        Returns:
            The annotations, (B, S, 2D): forward and backward state at each source position. And the backward state at
            the first real token, (B, D). Both are in the precision of products, because only products read them.
        """
        if not plain_forms_are_on():
            return fast_read_both_ways(self, embedded, mask)
        positions = range(embedded.shape[1])
        forward_states = self._read(embedded, mask, positions, direction=0)
        backward_states = self._read(embedded, mask, reversed(positions), direction=1)
        annotations = torch.cat([forward_states, backward_states], dim=-1)  # B S D, B S D -> B S 2D
        # Padding leaves the state as it is, so position 0 has the state at the first real token.
        return annotations, backward_states[:, 0]

    def _read(
        self, embedded: torch.Tensor, mask: torch.Tensor, positions: Iterable[int], direction: int
    ) -> torch.Tensor:
        """Runs one direction's GRU over the positions in their order: (B, S, E) to states (B, S, D) by position."""
        inputs = embedded @ self.input_weight[direction] + self.bias[direction]  # B S E -> B S 3D
        state_dtype = torch.promote_types(inputs.dtype, torch.float32)
        state = inputs.new_zeros(inputs.shape[0], inputs.shape[2] // 3, dtype=state_dtype)  # B D
        states: list[Any] = [None] * embedded.shape[1]
        for position in positions:
            new_state = gated_recurrent_step(
                inputs[:, position],
                state,
                lambda state: state @ self.gate_weight[direction],
                lambda gated_state: gated_state @ self.candidate_weight[direction],
            )
            state = torch.where(mask[:, position, None] != 0, new_state, state)
            states[position] = state
        return torch.stack(states, dim=1).to(product_dtype(embedded))


class BahdanauEncoder(nn.Module):
    """The bidirectional GRU, and two products that the decoder would otherwise repeat for every target token.

    U_a of the alignment model and C of the decoder's gates are here because they read the source alone: `generate()`
    runs the encoder once and repeats its output for every beam.
    """

    main_input_name = "input_ids"  # generate() reads this

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.use_attention = config.use_attention
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.embedding_size)
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.bidirectional_gru = BidirectionalGRU(config)
        self.state_dropout = Dropout(config.encoder_dropout)
        self.attention_key = nn.Linear(2 * config.hidden_size, config.attention_size)  # U_a
        self.gate_value = nn.Linear(2 * config.hidden_size, 3 * config.hidden_size, bias=False)  # C_z, C_r, C

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BahdanauEncoderOutput:
        """Encodes the source.

        Args:
            input_ids: (B, S) source token ids.
            attention_mask: (B, S) with 1 at real tokens; by default all tokens but `pad_token_id` are real.
            kwargs: ignored; `generate()` passes the arguments of the whole model.

        Raises:
            ValueError: there is no source, or the mask does not fit it (see `source_mask`).
        """
        mask = source_mask(input_ids, attention_mask, self.pad_token_id)
        embedded = self.embedding_dropout(self.embed_tokens(input_ids))  # B S -> B S E
        annotations, first_backward_state = self.bidirectional_gru(embedded, mask)  # B S E -> B S 2D, B D
        if not self.use_attention:
            annotations = _fixed_vector(annotations, first_backward_state, mask)  # B S 2D -> B 1 2D
            mask = mask.new_ones(len(mask), 1)  # B S -> B 1
        annotations = self.state_dropout(annotations)
        keys = self.attention_key(annotations)  # B S 2D -> B S A
        return BahdanauEncoderOutput(
            last_hidden_state=annotations,
            first_backward_state=first_backward_state,
            # On CPU, tanh takes five times as long in bf16 as in fp32.
            attention_keys=keys.to(torch.promote_types(keys.dtype, torch.float32)),
            gate_values=self.gate_value(annotations),  # B S 2D -> B S 3D
            source_mask=mask,
        )


def _fixed_vector(annotations: torch.Tensor, first_backward_state: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns what RNNencdec's decoder reads: the states of both directions that have read the whole source.

    A softmax over one position gives it the weight 1, so the decoder needs no form of its own. The paper's RNNencdec
    (Cho et al. 2014) has an encoder of one direction, and the vector is its last state. Here both models have the same
    encoder, so they differ in attention alone.

    Args:
        annotations: (B, S, 2D) h_j.
        first_backward_state: (B, D) the backward state at the first token.
        mask: (B, S) True at real tokens.

    Returns:
        (B, 1, 2D) the forward state at the last real token and the backward state at the first one.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * positions).argmax(dim=1)  # B S -> B
    forward_state = annotations[torch.arange(len(last), device=last.device), last, : first_backward_state.shape[1]]
    return torch.cat([forward_state, first_backward_state], dim=-1)[:, None]


class AdditiveAttention(nn.Module):
    """The alignment model of section 3.1 and appendix A.1.2: how well the source around j matches the target at i.

        e_ij = v_a . tanh(W_a s_{i-1} + U_a h_j)

    A network with one hidden layer scores every pair, so query and key may have any size. U_a h_j depends on the
    source alone and comes from the encoder as the key. Later models score by a dot product instead, which is a matrix
    product for all pairs at once.
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.attention_size, bias=False)  # W_a
        self.score = nn.Linear(config.attention_size, 1, bias=False)  # v_a

    def forward(
        self, state: torch.Tensor, keys: torch.Tensor, annotations: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the context of one target position.

        Args:
            state: (B, D) the decoder's last state s_{i-1}.
            keys: (B, S, A) U_a h_j.
            annotations: (B, S, 2D) h_j.
            mask: (B, S) True at real tokens.

        Returns:
            The attention weights alpha_i, (B, S), and the context c_i = sum_j alpha_ij h_j, (B, 2D).
        """
        query = self.query(state)[:, None]  # B D -> B 1 A
        scores = self.score(torch.tanh(query + keys).to(state.dtype))[:, :, 0]  # B S A -> B S 1 -> B S
        # Not -inf: a source of nothing but padding then has uniform weights instead of undefined ones.
        scores = scores.to(keys.dtype).masked_fill(~mask, torch.finfo(keys.dtype).min)
        weights = torch.softmax(scores, dim=-1)
        context = (weights[:, :, None].to(annotations.dtype) * annotations).sum(dim=1)  # B S, B S 2D -> B 2D
        return weights, context


class MaxoutReadout(nn.Module):
    """The deep output before the softmax, appendix A.2.2: the larger of each pair of units of t~_i.

        t~_i = U_o s_{i-1} + V_o E y_{i-1} + C_o c_i

    Unit j forms a pair with unit j + M, while the paper pairs unit 2j - 1 with 2j. This only numbers the same units in
    another order, and makes two contiguous halves.
    """

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        self.from_state = nn.Linear(config.hidden_size, 2 * config.maxout_size)  # U_o
        self.from_embedding = nn.Linear(config.embedding_size, 2 * config.maxout_size, bias=False)  # V_o
        self.from_context = nn.Linear(2 * config.hidden_size, 2 * config.maxout_size, bias=False)  # C_o

    def forward(self, previous_states: torch.Tensor, embedded: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Computes the units that the softmax layer reads.

        Args:
            previous_states: (..., D) s_{i-1}.
            embedded: (..., E) the embeddings of y_{i-1}.
            contexts: (..., 2D) c_i.

        Returns:
            (..., M).
        """
        units = self.from_state(previous_states) + self.from_embedding(embedded) + self.from_context(contexts)
        return torch.maximum(*units.chunk(2, dim=-1))  # ... 2M -> ... M


class BahdanauDecoder(nn.Module):
    """Appendix A.2.2: a GRU that reads a new context c_i, a weighted sum of the source states, at every step."""

    def __init__(self, config: BahdanauConfig):
        super().__init__()
        size = config.hidden_size
        self.use_attention = config.use_attention
        self.embed_tokens = TokenEmbedding(config.decoder_vocab_size, config.embedding_size)
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
        """Reads target tokens one after the other, in training the right ones (teacher forcing).

        Args:
            decoder_input_ids: (B, T) token ids y_0 ... y_{T-1}.
            encoder_outputs: the encoder's output for the source of each row.
            state: (B, D) the state to continue from; by default s_0 = tanh(W_s h_1), where h_1 is the backward GRU's
                state at the first token.

        Returns:
            What the softmax layer reads, (B, T, M), the states s_1 ... s_T, (B, T, D), the last one, (B, D), and the
            attention weights, (B, 1, T, S), None without attention.
        """
        if state is None:
            state = torch.tanh(self.initial_state(encoder_outputs.first_backward_state))
        embedded = self.embedding_dropout(self.embed_tokens(decoder_input_ids.T))  # B T -> T B E
        is_plain = plain_forms_are_on() or self._multiplies_in_other_numbers()
        decode = self._decode if is_plain else partial(fast_decode, self)
        features, states, weights = decode(embedded, state, encoder_outputs)
        return RecurrentDecoderOutput(
            features=self.readout_dropout(features).transpose(0, 1),  # T B M -> B T M
            last_hidden_state=states,
            state=states[:, -1],
            attention_weights=weights if self.use_attention else None,
        )

    def _multiplies_in_other_numbers(self) -> bool:
        """Returns True at inference if a layer of the loop is quantized, so that only a call multiplies as it does."""
        layers = (self.attention.query, self.attention.score, self.state_gates, self.candidate)
        return not torch.is_grad_enabled() and not all(map(has_plain_weight, layers))

    def _decode(
        self, embedded: torch.Tensor, state: torch.Tensor, encoder_outputs: BahdanauEncoderOutput
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Runs the loop over target positions in plain form.

        Args:
            embedded: (T, B, E) the embeddings of y_0 ... y_{T-1}.
            state: (B, D) s_0.
            encoder_outputs: the encoder's output.

        Returns:
            The readouts, (T, B, M), the states s_1 ... s_T, (B, T, D), and the attention weights, (B, 1, T, S).
        """
        dtype = product_dtype(embedded)
        keys, gate_values = encoder_outputs.attention_keys, encoder_outputs.gate_values
        annotations = encoder_outputs.last_hidden_state.to(dtype)
        state = state.to(keys.dtype)
        features, states, all_weights = [], [], []
        for y in embedded:
            previous_state = state.to(dtype)
            weights, context = self.attention(previous_state, keys, annotations, encoder_outputs.source_mask)
            features.append(self.readout(previous_state, y, context))
            from_context = (weights[:, :, None].to(dtype) * gate_values).sum(dim=1)  # C c_i: B S, B S 3D -> B 3D
            state = gated_recurrent_step(self.input_gates(y) + from_context, state, self.state_gates, self.candidate)
            states.append(state)
            all_weights.append(weights)
        return torch.stack(features), torch.stack(states, dim=1), torch.stack(all_weights, dim=1)[:, None]


class BahdanauForConditionalGeneration(RecurrentTranslationModel):
    """RNNsearch with its softmax layer; `forward` and `generate()` as in `RecurrentTranslationModel`."""

    config: BahdanauConfig
    # The fast loops read weights of the layers directly, so all layers have to be on one device.
    _no_split_modules = ["BahdanauEncoder", "BahdanauDecoder"]

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.encoder = BahdanauEncoder(config)
        self.decoder = BahdanauDecoder(config)
        self.lm_head = nn.Linear(config.maxout_size, config.decoder_vocab_size)  # W_o
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialises as appendix B.1: recurrent matrices orthogonal, v_a and biases 0, all others Gaussian."""
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
    """Returns a tensor like the weight whose square blocks are orthogonal; a stack of them drawn as one is not."""
    size = min(weight.shape[-2:])
    blocks = torch.empty_like(weight)
    for matrix in blocks.view(-1, *weight.shape[-2:]):
        for block in matrix.split(size, dim=0 if matrix.shape[0] > size else 1):
            square = torch.empty(size, size, dtype=torch.float32, device=weight.device)
            block.copy_(torch.nn.init.orthogonal_(square))
    return blocks


__all__ = ["BahdanauForConditionalGeneration"]
