"""Every fast form computes what its plain form does, and inside `plain_forms()` a model runs plain forms only."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from gpt1_scratch import (
    GPT1Config,
    GPT1ForCausalLM,
    GPT1ForMultipleChoice,
    GPT1ForSequenceClassification,
    chunked_cross_entropy,
    cpu_generation,
    cpu_kernels,
    modeling_gpt1,
    packed_linear,
    plain_forms,
)
from gpt1_scratch.dropout import dropout
from gpt1_scratch.library_arguments import CACHE_NAME
from gpt1_scratch.token_loss import linear_cross_entropy

PRECISIONS = [
    pytest.param(torch.float32, {"rtol": 1e-5, "atol": 1e-6}, id="fp32"),
    # 8 bits of mantissa: a rounding changes a number by up to 0.4 %, and several follow each other.
    pytest.param(torch.bfloat16, {"rtol": 0.02, "atol": 0.02}, id="bf16"),
]


def value_and_gradients(function, *leaves):
    """Returns the result and the gradients of all leaves, for a random gradient of the result."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    result = function(*leaves)
    incoming = torch.randn(result.shape, generator=torch.Generator().manual_seed(9)).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, incoming)]


def both_forms(function, *leaves):
    fast = value_and_gradients(function, *leaves)
    with plain_forms():
        plain = value_and_gradients(function, *leaves)
    return fast, plain


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "QUERY_BLOCK_SIZE", 4)
    monkeypatch.setattr(cpu_kernels, "ATTENTION_CHUNK_SIZE", 1)
    monkeypatch.setattr(cpu_kernels, "GELU_CHUNK_SIZE", 50)
    monkeypatch.setattr(chunked_cross_entropy, "LOGIT_CHUNK_SIZE", {"cpu": 7})


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_fast_gelu_equals_the_formula(dtype, tolerance, small_chunks):
    states = torch.linspace(-6, 6, 201).to(dtype)
    fast, plain = both_forms(modeling_gpt1.gelu, states)
    torch.testing.assert_close(fast, plain, **tolerance)
    torch.testing.assert_close(plain[0], nn.functional.gelu(states, approximate="tanh"), **tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_blocked_attention_equals_eager_attention(causal, masked, dtype, tolerance, small_chunks):
    torch.manual_seed(0)
    states = [torch.randn(2, 3, 10, 4).to(dtype) for _ in range(3)]
    mask = None
    if masked:  # two documents, which do not attend to each other
        document = torch.arange(10) >= 6
        visible = modeling_gpt1.causal_mask(10, 10) if causal else torch.ones(10, 10, dtype=torch.bool)
        mask = (visible & (document[:, None] == document)).expand(2, 1, 10, 10)
    module = SimpleNamespace(is_causal=causal)
    results = [
        value_and_gradients(lambda q, k, v, form=form: form(module, q, k, v, mask, scaling=0.5)[0], *states)
        for form in (cpu_kernels.blocked_attention_forward, modeling_gpt1.eager_attention_forward)
    ]
    torch.testing.assert_close(results[0], results[1], **tolerance)
    is_causal = mask is None and causal
    library = nn.functional.scaled_dot_product_attention(*states, attn_mask=mask, is_causal=is_causal, scale=0.5)
    torch.testing.assert_close(results[1][0], library.transpose(1, 2), **tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_chunked_cross_entropy_equals_cross_entropy_over_all_logits(weighted, dtype, tolerance, small_chunks):
    torch.manual_seed(0)
    states, weight, targets = torch.randn(30, 8).to(dtype), torch.randn(50, 8).to(dtype), torch.randint(50, (30,))
    targets[::4] = -100
    factors = torch.rand(30) if weighted else None
    fast, plain = both_forms(lambda s, w: linear_cross_entropy(s, w, targets, factors), states, weight)
    torch.testing.assert_close(fast, plain, **tolerance)
    assert fast[0].dtype == plain[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_dropout_keeps_the_same_share_and_scales_it_alike(dtype):
    torch.manual_seed(0)
    ones = torch.ones(100_000, dtype=dtype)
    for result, gradient in both_forms(lambda x: dropout(x, 0.2, True), ones):
        assert set(result.unique().tolist()) == {0, torch.tensor(1 / 0.8, dtype=dtype).item()}
        assert abs((result == 0).float().mean().item() - 0.2) < 5 * (0.2 * 0.8 / 100_000) ** 0.5
        assert torch.equal(gradient == 0, result == 0)
    with plain_forms():
        assert dropout(ones, 0.2, training=False) is ones


SIZES = {"vocab_size": 61, "max_position_embeddings": 40, "hidden_size": 24, "num_hidden_layers": 2}
RATES = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout", "classifier_dropout"), 0.0)
IDS = torch.randint(2, 61, (3, 8), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[1, :3] = 0
POSITIONS = (MASK.cumsum(1) - 1).clamp(min=0)


def tiny(model_class, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    config = GPT1Config(**SIZES, **RATES, num_attention_heads=3, pad_token_id=0, initializer_range=0.3, **settings)
    return model_class(config).to(dtype)


def watch(function, name, calls):
    def watched(*args, **kwargs):
        calls.add(name)
        return function(*args, **kwargs)

    return watched


@pytest.fixture
def fast_calls(monkeypatch):
    """Records the names of the fast forms that run."""
    calls = set()
    for place, name in [
        (cpu_kernels._Dropout, "forward"),
        (cpu_kernels._Gelu, "forward"),
        (cpu_kernels._BlockedAttention, "forward"),
        (chunked_cross_entropy._LinearCrossEntropy, "forward"),
        (cpu_generation.TokenStep, "__call__"),
        (cpu_generation.PreallocatedLayer, "update"),
        (packed_linear.PackedLinear, "__call__"),
    ]:
        watched = watch(getattr(place, name), place.__name__, calls)
        static = isinstance(vars(place)[name], staticmethod)
        monkeypatch.setattr(place, name, staticmethod(watched) if static else watched)
    return calls


def loss_and_gradients(model, **inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return {"loss": loss.detach().float()} | {name: p.grad.float() for name, p in model.named_parameters()}


@pytest.mark.parametrize("lstm_size", [None, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["language", "classes", "choices"])
@pytest.mark.parametrize("training", [True, False])
def test_forward_and_backward_of_a_model_are_the_same_in_plain_forms(kind, training, dtype, lstm_size, fast_calls):
    inputs = {"input_ids": IDS, "labels": torch.tensor([0, 1, 0])}
    if kind == "language":
        model = tiny(GPT1ForCausalLM, dtype, lstm_size=lstm_size)
        labels = IDS.masked_fill(MASK == 0, -100)
        labels[1, 3] = -100  # the position before it is padding
        inputs |= {"labels": labels}
        if lstm_size is None:  # which takes no padding on the left
            inputs |= {"attention_mask": MASK, "position_ids": POSITIONS}
    elif kind == "classes":
        model = tiny(GPT1ForSequenceClassification, dtype, lstm_size=lstm_size)
        inputs |= {"attention_mask": MASK}
    else:
        model = tiny(GPT1ForMultipleChoice, dtype, lstm_size=lstm_size)
        inputs |= {"input_ids": IDS[:, None].repeat(1, 2, 1), "attention_mask": MASK[:, None].repeat(1, 2, 1)}
        inputs["input_ids"][:, 1, 4:] += 1
        inputs["input_ids"] %= 61
    model.train(training)
    fast = loss_and_gradients(model, **inputs)
    # Without training, an LSTM's heads have no fast form. Elsewhere the comparison would show nothing without one.
    assert fast_calls or (lstm_size and kind != "language" and not training)
    fast_calls.clear()
    with plain_forms():
        plain = loss_and_gradients(model, **inputs)
    assert not fast_calls
    if dtype == torch.float32:
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    else:
        assert fast["loss"].item() == pytest.approx(plain["loss"].item(), rel=0.02)
        flat = [torch.cat([gradient.flatten() for gradient in each.values()]) for each in (fast, plain)]
        assert nn.functional.cosine_similarity(*flat, dim=0) > 0.995


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"use_cache": False}], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_generation_is_the_same_in_plain_forms(padded, settings, fast_calls):
    model = tiny(GPT1ForCausalLM).eval()
    settings = {"attention_mask": MASK if padded else torch.ones_like(IDS), "max_new_tokens": 12} | settings
    fast = model.generate(IDS, do_sample=False, **settings)
    assert ("TokenStep" in fast_calls) == settings.get("use_cache", True)
    fast_calls.clear()
    with plain_forms():
        plain = model.generate(IDS, do_sample=False, **settings)
    assert not fast_calls and torch.equal(fast, plain)


def test_generation_of_an_lstm_is_the_same_in_plain_forms(monkeypatch):
    model = tiny(GPT1ForCausalLM, lstm_size=16).eval()
    settings = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    fast = model.generate(IDS, **settings)
    monkeypatch.setattr(nn.LSTM, "forward", lambda *_: pytest.fail("nn.LSTM runs"))
    with plain_forms():
        assert torch.equal(model.generate(IDS, **settings), fast)


def test_bfloat16_logits_of_generation_in_plain_forms_are_close(fast_calls):
    model = tiny(GPT1ForCausalLM, torch.bfloat16).eval()
    settings = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    fast = model.generate(IDS, attention_mask=MASK, **settings)
    assert {"TokenStep", "PreallocatedLayer"} <= fast_calls
    assert ("PackedLinear" in fast_calls) == packed_linear.packing_is_supported()
    fast_calls.clear()
    with plain_forms():
        plain = model.generate(IDS, attention_mask=MASK, **settings)
    assert not fast_calls and all(type(layer) is DynamicLayer for layer in plain[CACHE_NAME].layers)
    # Only the first logits follow the same tokens for certain.
    torch.testing.assert_close(fast.logits[0], plain.logits[0], rtol=0.05, atol=0.1)


def test_plain_attention_continues_from_a_cache():
    model = tiny(GPT1ForCausalLM).eval()
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), plain_forms():
        pieces = [model(piece, cache=cache).logits for piece in IDS.split([4, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(IDS).logits, rtol=1e-4, atol=1e-5)


def test_the_causal_mask_is_a_triangle_that_ends_at_the_last_position():
    assert modeling_gpt1.causal_mask(3, 3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert modeling_gpt1.causal_mask(2, 4).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_leaving_plain_forms_brings_the_fast_forms_back_even_after_an_error(fast_calls):
    model = tiny(GPT1ForCausalLM).train()
    with pytest.raises(RuntimeError, match="stop"), plain_forms():
        with plain_forms():
            pass
        model(IDS, labels=IDS)
        assert not fast_calls
        raise RuntimeError("stop")
    model(IDS, labels=IDS)
    assert "_BlockedAttention" in fast_calls
    assert "plain" not in model.config.to_json_string()
