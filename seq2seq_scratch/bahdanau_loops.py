"""The fast form of the attention model's loops over time, with their backward pass written out.

Skip this file on first reading. `modeling_bahdanau.py` has the plain form, and tests hold both to the same numbers.

Only what depends on the last state is computed inside the loops; everything else is one product over all steps. The
loops are autograd functions. Autograd by itself would add up a gradient of every weight, and of the whole source, at
each step, where one product over all steps is enough.

Dimensions: as in `modeling_bahdanau.py`. A weight multiplies from the right, as in x @ W.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.modeling_outputs import ModelOutput

from .recurrent_common import align_left
from .seq2seq_common import effective_weight, inverse_permutation, product_dtype

# Both are a single pass over their arguments: gradient * (1 - output^2), and gradient * output * (1 - output).
tanh_backward, sigmoid_backward = torch.ops.aten.tanh_backward, torch.ops.aten.sigmoid_backward


def fused_recurrent_step(
    gate_inputs: torch.Tensor,
    state_gates: torch.Tensor,
    state: torch.Tensor,
    candidate_weight: torch.Tensor,
    *,
    gates: torch.Tensor,
    gated_state: torch.Tensor,
    candidate: torch.Tensor,
    new_state: torch.Tensor,
) -> None:
    """Computes `gated_recurrent_step` in place and writes down what its backward pass needs.

    Args:
        gate_inputs: (..., 3D) the summands of z, r and s~ that do not depend on the state.
        state_gates: (..., 2D) U_z s and U_r s.
        state: (..., D) s.
        candidate_weight: (..., D, D) U.
        gates: (..., 2D) receives z and r.
        gated_state: (..., D) receives r * s, in the precision of products.
        candidate: (..., D) receives s~.
        new_state: (..., D) receives s'.
    """
    size = state.shape[-1]
    gates.copy_(gate_inputs[..., : 2 * size] + state_gates).sigmoid_()
    update, reset = gates.split(size, dim=-1)
    gated_state.copy_(reset * state)
    recurrent = torch.matmul(gated_state, candidate_weight)
    candidate.copy_(gate_inputs[..., 2 * size :] + recurrent).tanh_()
    torch.lerp(state, candidate, update, out=new_state)


def fused_recurrent_step_backward(
    new_state_gradient: torch.Tensor,
    state: torch.Tensor,
    gates: torch.Tensor,
    candidate: torch.Tensor,
    candidate_weight: torch.Tensor,
    *,
    gate_gradients: torch.Tensor,
) -> torch.Tensor:
    """Computes the gradients of `fused_recurrent_step` from the new state's gradient and what forward wrote.

    Args:
        new_state_gradient: (..., D), overwritten.
        state: (..., D) s.
        gates: (..., 2D) z and r.
        candidate: (..., D) s~.
        candidate_weight: (..., D, D) U.
        gate_gradients: (..., 3D) receives the gradients of the sums inside z, r and s~, in the precision of products.

    Returns:
        The gradient of the state, (..., D), except for the part that reaches it through `state_gates`.
    """
    update, reset = gates.split(state.shape[-1], dim=-1)
    update_gradient, reset_gradient, candidate_gradient = gate_gradients.split(state.shape[-1], dim=-1)
    through_update = new_state_gradient * update
    candidate_gradient.copy_(tanh_backward(through_update, candidate))
    gated_state_gradient = torch.matmul(candidate_gradient, candidate_weight.mT).to(state.dtype)
    update_gradient.copy_(sigmoid_backward((candidate - state).mul_(new_state_gradient), update))
    reset_gradient.copy_(sigmoid_backward(gated_state_gradient * state, reset))
    return new_state_gradient.sub_(through_update).addcmul_(gated_state_gradient, reset)


class _BidirectionalLoop(torch.autograd.Function):
    """Runs both directions of the encoder's GRU over all steps; both step together, and the state starts at 0.

    Args of forward:
        gate_inputs: (2, S, B, 3D) W x + b of z, r and s~; each direction has its own order of reading.
        gate_weight: (2, D, 2D) U_z and U_r.
        candidate_weight: (2, D, D) U.

    Returns:
        (2, S, B, D) the state after each step, in at least fp32.
    """

    @staticmethod
    def forward(ctx: Any, gate_inputs, gate_weight, candidate_weight):
        directions, steps, batch_size, width = gate_inputs.shape
        size = width // 3
        state_dtype = torch.promote_types(gate_inputs.dtype, torch.float32)
        states = gate_inputs.new_zeros(directions, steps + 1, batch_size, size, dtype=state_dtype)
        gates = states.new_empty(directions, steps, batch_size, 2 * size)
        candidates = states.new_empty(directions, steps, batch_size, size)
        product_states, gated_states = gate_weight.new_empty(2, directions, steps, batch_size, size)
        with torch.autocast(gate_inputs.device.type, enabled=False):
            for step in range(steps):
                state = states[:, step]
                fused_recurrent_step(
                    gate_inputs[:, step],
                    torch.bmm(product_states[:, step].copy_(state), gate_weight),
                    state,
                    candidate_weight,
                    gates=gates[:, step],
                    gated_state=gated_states[:, step],
                    candidate=candidates[:, step],
                    new_state=states[:, step + 1],
                )
        ctx.save_for_backward(states, product_states, gated_states, gates, candidates, gate_weight, candidate_weight)
        return states[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, states_gradient):
        states, product_states, gated_states, gates, candidates, gate_weight, candidate_weight = ctx.saved_tensors
        directions, steps, batch_size, size = candidates.shape
        gate_gradients = gate_weight.new_empty(directions, steps, batch_size, 3 * size)
        state_gradient = torch.zeros_like(states[:, 0])
        with torch.autocast(states.device.type, enabled=False):
            for step in reversed(range(steps)):
                state_gradient = fused_recurrent_step_backward(
                    state_gradient.add_(states_gradient[:, step]),
                    states[:, step],
                    gates[:, step],
                    candidates[:, step],
                    candidate_weight,
                    gate_gradients=gate_gradients[:, step],
                )
                state_gradient += torch.bmm(gate_gradients[:, step, :, : 2 * size], gate_weight.mT)
            by_direction = gate_gradients.flatten(1, 2)
            gate_weight_gradient = torch.bmm(product_states.flatten(1, 2).mT, by_direction[..., : 2 * size])
            candidate_weight_gradient = torch.bmm(gated_states.flatten(1, 2).mT, by_direction[..., 2 * size :])
        return gate_gradients, gate_weight_gradient, candidate_weight_gradient


class _AttentiveLoop(torch.autograd.Function):
    """Runs the decoder over all target positions: each step attends, then updates the state.

    Args of forward:
        initial_state: (B, D) s_0.
        gate_inputs: (T, B, 3D) W E y_{i-1} + b of z, r and s~.
        keys: (B, S, A) U_a h_j.
        gate_values: (B, S, 3D) C h_j of z, r and s~.
        source_mask: (B, S) True at real tokens.
        state_weight: (D, A + 2D) W_a, U_z and U_r, which all multiply s_{i-1}.
        score_weight: (A,) v_a.
        candidate_weight: (D, D) U.

    Returns:
        (T, B, D) the states s_1 to s_T in at least fp32, and (T, B, S) the attention weights alpha_ij.
    """

    @staticmethod
    def forward(
        ctx: Any,
        initial_state,
        gate_inputs,
        keys,
        gate_values,
        source_mask,
        state_weight,
        score_weight,
        candidate_weight,
    ):
        steps, batch_size, _ = gate_inputs.shape
        attention_size, size = keys.shape[2], initial_state.shape[1]
        states = keys.new_empty(steps + 1, batch_size, size)
        states[0] = initial_state
        queries = keys.new_empty(steps, batch_size, attention_size)
        weights = keys.new_empty(steps, batch_size, keys.shape[1])
        gates = keys.new_empty(steps, batch_size, 2 * size)
        candidates = keys.new_empty(steps, batch_size, size)
        product_states, gated_states = state_weight.new_empty(2, steps, batch_size, size)
        # Not -inf: a source of nothing but padding then has uniform weights instead of undefined ones.
        padding_scores = torch.zeros_like(source_mask, dtype=keys.dtype).masked_fill_(
            ~source_mask, torch.finfo(keys.dtype).min
        )
        alignment = torch.empty_like(keys)
        with torch.autocast(keys.device.type, enabled=False):
            for step in range(steps):
                products = product_states[step].copy_(states[step]) @ state_weight
                queries[step] = products[:, :attention_size]
                torch.add(keys, queries[step, :, None], out=alignment).tanh_()
                torch.softmax(alignment @ score_weight + padding_scores, dim=-1, out=weights[step])
                context_gates = torch.bmm(weights[step, :, None].to(gate_values.dtype), gate_values)[:, 0]
                fused_recurrent_step(
                    gate_inputs[step] + context_gates,
                    products[:, attention_size:],
                    states[step],
                    candidate_weight,
                    gates=gates[step],
                    gated_state=gated_states[step],
                    candidate=candidates[step],
                    new_state=states[step + 1],
                )
        ctx.save_for_backward(
            *(states, product_states, gated_states, queries, weights, gates, candidates),
            *(keys, gate_values, state_weight, score_weight, candidate_weight),
        )
        return states[1:], weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, states_gradient, weights_gradient):
        states, product_states, gated_states, queries, weights, gates, candidates, *inputs = ctx.saved_tensors
        keys, gate_values, state_weight, score_weight, candidate_weight = inputs
        steps, batch_size, size = candidates.shape
        attention_size = keys.shape[2]
        gate_gradients = gate_values.new_empty(steps, batch_size, 3 * size)
        product_gradients = gate_values.new_empty(steps, batch_size, attention_size + 2 * size)
        keys_gradient = torch.zeros_like(keys)
        score_weight_gradient = torch.zeros_like(score_weight)
        state_gradient = torch.zeros_like(states[0])
        alignment = torch.empty_like(keys)
        one = keys.new_ones(())
        with torch.autocast(keys.device.type, enabled=False):
            for step in reversed(range(steps)):
                state_gradient = fused_recurrent_step_backward(
                    state_gradient.add_(states_gradient[step]),
                    states[step],
                    gates[step],
                    candidates[step],
                    candidate_weight,
                    gate_gradients=gate_gradients[step],
                )
                # Through the context into the attention weights, through their softmax into the scores e_ij.
                weight_gradient = (
                    torch.bmm(gate_gradients[step, :, None], gate_values.mT)[:, 0] + weights_gradient[step]
                )
                weighted = weights[step] * weight_gradient
                score_gradient = weighted - weights[step] * weighted.sum(dim=-1, keepdim=True)
                # e_ij = v . tanh(k_j + q_i); its derivative is v * (1 - tanh^2). The tanh is computed again, because
                # to store all would take T x B x S x A numbers, and v multiplies the smallest of the tensors.
                torch.add(keys, queries[step, :, None], out=alignment).tanh_()
                score_weight_gradient += score_gradient.flatten() @ alignment.flatten(0, 1)
                torch.addcmul(one, alignment, alignment, value=-1, out=alignment)
                keys_gradient.addcmul_(score_gradient[:, :, None], alignment)
                query_gradient = torch.bmm(score_gradient[:, None], alignment)[:, 0].mul_(score_weight)
                product_gradients[step, :, :attention_size] = query_gradient
                product_gradients[step, :, attention_size:] = gate_gradients[step, :, : 2 * size]
                state_gradient += product_gradients[step] @ state_weight.T
            keys_gradient *= score_weight
            state_weight_gradient = product_states.flatten(0, 1).T @ product_gradients.flatten(0, 1)
            candidate_weight_gradient = gated_states.flatten(0, 1).T @ gate_gradients[..., 2 * size :].flatten(0, 1)
            gate_values_gradient = torch.bmm(
                weights.permute(1, 2, 0).to(gate_values.dtype), gate_gradients.transpose(0, 1)
            )
        return (
            state_gradient,
            gate_gradients,
            keys_gradient,
            gate_values_gradient,
            None,
            state_weight_gradient,
            score_weight_gradient,
            candidate_weight_gradient,
        )


# torch.compile would unroll the loops and make new code for every length.
@torch.compiler.disable
def fast_read_both_ways(
    gru: nn.Module, embedded: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `BidirectionalGRU.forward`; both directions step at once, and every step is one batched product.

    Each direction reads the real tokens first, so padding needs no mask.

    Args:
        gru: the `BidirectionalGRU`.
        embedded: (B, S, E) source embeddings.
        mask: (B, S), nonzero at real tokens.

    Returns:
        The annotations, (B, S, 2D), and the backward state at the first real token, (B, D).
    """
    batch_size, length, _ = embedded.shape
    forward_order, lengths = align_left(mask)
    orders = torch.stack([forward_order, align_left(mask, reverse=True)[0]])  # (2, B, S) step to position
    row = torch.arange(batch_size, device=mask.device)
    source_rows = (orders + row[:, None] * length).transpose(1, 2).reshape(-1)  # (2 * S * B,)
    aligned = embedded.flatten(0, 1).index_select(0, source_rows).view(2, length * batch_size, -1)
    gate_inputs = torch.baddbmm(gru.bias, aligned, gru.input_weight)
    dtype = product_dtype(embedded)
    states = _BidirectionalLoop.apply(
        gate_inputs.view(2, length, batch_size, -1), gru.gate_weight.to(dtype), gru.candidate_weight.to(dtype)
    )  # (2, S, B, D) by step
    states = states.to(dtype)
    first_backward_state = states[1, lengths - 1, row]
    steps = inverse_permutation(orders).permute(1, 2, 0)  # (B, S, 2) position to step
    direction = torch.arange(2, device=mask.device)
    state_rows = (direction * length + steps) * batch_size + row[:, None, None]
    annotations = states.flatten(0, 2).index_select(0, state_rows.flatten())
    return annotations.view(batch_size, length, -1), first_backward_state


@torch.compiler.disable
def fast_decode(
    decoder: nn.Module, embedded: torch.Tensor, state: torch.Tensor, encoder_outputs: ModelOutput
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes `BahdanauDecoder._decode`: one loop for the states, then contexts and readouts of all steps at once.

    Args:
        decoder: the `BahdanauDecoder`.
        embedded: (T, B, E) the embeddings of y_0 ... y_{T-1}.
        state: (B, D) s_0.
        encoder_outputs: the encoder's output.

    Returns:
        The readouts, (T, B, M), the states s_1 ... s_T, (B, T, D), and the attention weights, (B, 1, T, S).
    """
    dtype = product_dtype(embedded)
    keys, attention = encoder_outputs.attention_keys, decoder.attention
    score_weight = effective_weight(attention.score, embedded)
    candidate_weight = effective_weight(decoder.candidate, embedded)
    state_weight = torch.cat([effective_weight(layer, embedded) for layer in (attention.query, decoder.state_gates)])
    states, weights = _AttentiveLoop.apply(
        state.to(keys.dtype),
        decoder.input_gates(embedded),
        keys,
        encoder_outputs.gate_values,
        encoder_outputs.source_mask,
        state_weight.to(dtype).T,
        score_weight[0].to(keys.dtype),
        candidate_weight.to(dtype).T,
    )
    # The features are computed from the tensors that are returned, so that gradients of states and weights exist.
    states, weights = states.transpose(0, 1), weights.transpose(0, 1)[:, None]  # (B, T, D), (B, 1, T, S)
    contexts = torch.bmm(weights[:, 0].to(dtype), encoder_outputs.last_hidden_state.to(dtype)).transpose(0, 1)
    previous_states = torch.cat([state[None], states.transpose(0, 1)[:-1]]).to(dtype)
    return decoder.readout(previous_states, embedded, contexts), states, weights
