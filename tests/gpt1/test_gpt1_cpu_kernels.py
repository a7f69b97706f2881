"""Attention in blocks, dropout and GELU on a CPU, against plain PyTorch."""

import pytest
import torch
from tiny_gpt1 import gradients, tiny_model, tokens

from gpt1_scratch import cpu_kernels, modeling_gpt1


@pytest.mark.parametrize("padding", ["none", "left", "right", "packed"])
def test_attention_in_blocks_equals_eager_attention(padding, small_blocks):
    model, input_ids = tiny_model(), tokens(3, 21)
    labels, inputs = input_ids.clone(), {}
    if padding in ("left", "right"):
        inputs["attention_mask"] = torch.ones_like(input_ids)
        hidden = slice(0, 6) if padding == "left" else slice(15, 21)
        inputs["attention_mask"][1, hidden] = 0
        labels[1, hidden] = -100
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        if padding == "left":  # what stands before the first real token predicts nothing
            labels[1, 6] = -100
    elif padding == "packed":
        inputs["position_ids"] = torch.cat([torch.arange(10), torch.arange(11)]).expand(3, -1)
    results = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        loss = model.train()(input_ids, labels=labels, **inputs).loss
        results.append((loss.detach(), gradients(model, loss)))
    torch.testing.assert_close(results[0], results[1])


def test_blocks_are_used_in_training_on_cpu_and_only_there(monkeypatch):
    model, input_ids, calls = tiny_model(), tokens(2, 5), []
    blocked = modeling_gpt1.blocked_attention_forward
    monkeypatch.setattr(
        modeling_gpt1, "blocked_attention_forward", lambda *args, **kwargs: calls.append(1) or blocked(*args, **kwargs)
    )
    model.train()(input_ids, labels=input_ids)
    assert len(calls) == model.config.num_hidden_layers
    with torch.no_grad():
        model.eval()(input_ids)
    assert len(calls) == model.config.num_hidden_layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_dropout_equals_plain_attention_with_the_same_mask(dtype, monkeypatch):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 10, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    kept = torch.rand(6, 10, 10) > 0.3
    integers = kept.to(cpu_kernels.SAME_SIZE_INTEGER[query.element_size()])
    monkeypatch.setattr(cpu_kernels, "draw_kept", lambda *_: integers)
    output, _ = cpu_kernels.blocked_attention_forward(None, query, key, value, None, scaling=0.5, dropout=0.3)
    incoming = torch.randn_like(output)
    found = [output, *torch.autograd.grad(output, (query, key, value), incoming)]

    scores = (query @ key.mT * 0.5).masked_fill(torch.ones(10, 10).triu(1).bool(), -torch.inf)
    weights = scores.softmax(-1) * kept.view(2, 3, 10, 10) / 0.7
    output = (weights.to(dtype) @ value).transpose(1, 2)
    expected = [output, *torch.autograd.grad(output, (query, key, value), incoming)]
    tolerance = {"atol": 0.05, "rtol": 0.05} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_quick_gelu_is_no_less_exact_than_the_library(dtype, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "GELU_CHUNK_SIZE", 100)  # the last piece is not full
    numbers = torch.cat([torch.linspace(-12, 12, 2001), torch.tensor([-1e4, 0.0, 1e4])]).to(dtype)
    incoming = torch.ones(3, 668)

    def value_and_slope(activation, dtype):
        leaf = numbers.to(dtype).view(668, 3).T.requires_grad_()  # not contiguous
        result = activation(leaf)
        return torch.stack([result, *torch.autograd.grad(result, leaf, incoming.to(dtype))]).double()

    def plain(states):
        return torch.nn.functional.gelu(states, approximate="tanh")

    expected = value_and_slope(plain, torch.float64)
    largest_error = {}
    for name, activation in {"quick": cpu_kernels.fast_gelu, "plain": plain}.items():
        errors = (value_and_slope(activation, dtype) - expected).abs() / (expected.abs() + 1e-3)
        largest_error[name] = errors.amax((1, 2))
    assert (largest_error["quick"] <= largest_error["plain"] * 1.01).all(), largest_error
    assert cpu_kernels.fast_gelu(numbers.requires_grad_()).grad_fn.name().startswith("_Gelu")


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_right_share_and_scales_it(probability, dtype):
    torch.manual_seed(0)
    count = 400_001  # not a multiple of the four numbers in a word
    ones = torch.ones(count, dtype=dtype, requires_grad=True)
    dropped = cpu_kernels.fast_dropout(ones, probability, training=True)
    survivors = dropped.detach() != 0
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert abs(survivors.double().mean().item() - (1 - probability)) < 5 * deviation
    torch.testing.assert_close(dropped[survivors], torch.full_like(dropped[survivors], 1 / (1 - probability)))
    # Neighbours, and numbers a word apart, are independent.
    zeros = (~survivors).double() - probability
    for distance in (1, 2, 3, 4, 8):
        correlation = (zeros[:-distance] * zeros[distance:]).mean().item() / (probability * (1 - probability))
        assert abs(correlation) < 5 / count**0.5, distance
    (gradient,) = torch.autograd.grad(dropped.sum(), ones)
    torch.testing.assert_close(gradient, dropped.detach())


def test_dropout_follows_the_generator_state():
    numbers = torch.ones(1000, requires_grad=True)
    torch.manual_seed(3)
    first = cpu_kernels.fast_dropout(numbers, 0.2, training=True)
    state = torch.get_rng_state()
    second = cpu_kernels.fast_dropout(numbers, 0.2, training=True)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(cpu_kernels.fast_dropout(numbers, 0.2, training=True), second)
    torch.manual_seed(3)
    assert torch.equal(cpu_kernels.fast_dropout(numbers, 0.2, training=True), first)


def test_dropout_does_nothing_outside_training():
    numbers = torch.randn(100)
    assert cpu_kernels.fast_dropout(numbers, 0.5, training=False) is numbers
    model, input_ids = tiny_model(dropout=0.5), tokens(2, 8)
    torch.testing.assert_close(model(input_ids).logits, tiny_model()(input_ids).logits)
    assert not torch.equal(model.train()(input_ids).logits, model(input_ids).logits)
