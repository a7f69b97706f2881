"""The loops over time of the attention model as autograd functions with their backward pass written out.

Autograd would add up a gradient of every weight, and of the whole source, at each step, where one product over all
steps does.

Dimensions: as in `modeling_bahdanau.py`. Weights in the loops stand input by output, as in x @ W.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Each a single pass: gradient * (1 - output^2), gradient * output * (1 - output).
tanh_backward, sigmoid_backward = torch.ops.aten.tanh_backward, torch.ops.aten.sigmoid_backward


def gated_recurrent_step(
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
    """The gated recurrent unit of appendix A.1.1; the reset gate acts on the state before the product with U.

    z = sigmoid(... + U_z s), r = sigmoid(... + U_r s), s~ = tanh(... + U [r * s]), s' = (1 - z) * s + z * s~.
    nn.GRU's reset gate acts after the product: r * (U s).

    Args:
        gate_inputs: (..., 3H) all other addends of z, r and s~.
        state_gates: (..., 2H) U_z s and U_r s.
        state: (..., H) s.
        candidate_weight: (..., H, H) U.
        gates: (..., 2H) where z and r are written, for the backward pass.
        gated_state: (..., H) where r * s is written, in the precision of products.
        candidate: (..., H) where s~ is written.
        new_state: (..., H) where s' is written.
    """
    size = state.shape[-1]
    gates.copy_(gate_inputs[..., : 2 * size] + state_gates).sigmoid_()
    update, reset = gates.split(size, dim=-1)
    gated_state.copy_(reset * state)
    recurrent = torch.matmul(gated_state, candidate_weight)
    candidate.copy_(gate_inputs[..., 2 * size :] + recurrent).tanh_()
    torch.lerp(state, candidate, update, out=new_state)


def gated_recurrent_step_backward(
    new_state_gradient: torch.Tensor,
    state: torch.Tensor,
    gates: torch.Tensor,
    candidate: torch.Tensor,
    candidate_weight: torch.Tensor,
    *,
    gate_gradients: torch.Tensor,
) -> torch.Tensor:
    """Gradients of `gated_recurrent_step`, given that of the new state and what forward wrote.

    Args:
        gate_gradients: (..., 3H) where the gradients of the sums within z, r and s~ are written, in the precision of
            products.

    Returns:
        The gradient of the state (..., H) except for what reaches it through `state_gates`. It takes the place of
        `new_state_gradient`.
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
    """Both directions of the encoder's GRU over all steps at once, the state starting at 0.

    Args of forward:
        gate_inputs: (2, S, B, 3H) W x + b of z, r and s~, each direction in its own order of reading.
        gate_weight: (2, H, 2H) U_z and U_r.
        candidate_weight: (2, H, H) U.

    Returns:
        (2, S, B, H) the state after each step, in at least fp32.
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
                gated_recurrent_step(
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
                state_gradient = gated_recurrent_step_backward(
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
    """The decoder's recurrence over all target positions: attend, then update the state.

    Args of forward:
        initial_state: (B, H) s_0.
        gate_inputs: (T, B, 3H) W E y_{i-1} + b of z, r and s~.
        keys: (B, S, A) U_a h_j.
        gate_values: (B, S, 3H) C h_j of z, r and s~.
        source_mask: (B, S) True at real tokens.
        state_weight: (H, A + 2H) W_a, U_z and U_r: all that is multiplied by s_{i-1}.
        score_weight: (A,) v_a.
        candidate_weight: (H, H) U.

    Returns:
        (T, B, H) the states s_1 to s_T in at least fp32, and (T, B, S) the attention weights alpha_ij.
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
        # Not -inf: a source of nothing but padding then has uniform weights rather than none.
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
                gated_recurrent_step(
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
                state_gradient = gated_recurrent_step_backward(
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
                # e_ij = v . tanh(k_j + q_i); its derivative is v * (1 - tanh^2). The tanh is computed again, as stored
                # ones would take T x B x S x A numbers, and v is multiplied where there is least to multiply.
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
