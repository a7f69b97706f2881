"""Packed weights, the preallocated cache and steps without modules give the results of plain layers and caches."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, StaticCache

from gpt1_scratch import GPT1Config, GPT1ForCausalLM, packed_linear
from gpt1_scratch.cpu_generation import PreallocatedLayer, TokenStep, preallocate_cache
from gpt1_scratch.library_arguments import CACHE_NAME
from gpt1_scratch.packed_linear import PackedLinear, packed_weights, packing_is_supported

PROMPT = torch.randint(2, 61, (3, 5), generator=torch.Generator().manual_seed(1))
PADDED = torch.tensor([[1] * 5, [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = GPT1Config(vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=3)
    model = GPT1ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def generate(model, **given):
    settings = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(PROMPT)}
    settings |= given
    return model.generate(PROMPT, **settings)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (5, 100)])
@torch.no_grad()
def test_products_are_those_of_a_plain_layer_before_and_after_packing(shape, bias):
    torch.manual_seed(0)
    layer = nn.Linear(48, 20, bias=bias).bfloat16()
    rows = torch.randn(*shape, 2, 48).bfloat16()[:, :, -1]  # as the last of several positions lie in memory
    expected = layer(rows)
    with packed_weights(nn.Sequential(layer)):
        for call in range(1, 12):
            torch.testing.assert_close(layer(rows), expected, rtol=0.02, atol=0.02)
            few = rows.numel() <= packed_linear.MAX_ROWS_FOR_PACKED_MATMUL * 48
            packed = packing_is_supported() and layer.forward.packed is not None
            assert packed == (packing_is_supported() and few and call >= packed_linear.CALLS_BEFORE_PACKING)


class Operators(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("lstm_size", [None, 16])
@torch.no_grad()
def test_no_product_copies_frozen_weights_for_each_sample(lstm_size):
    if lstm_size and not torch.backends.mkldnn.enabled:
        pytest.skip("nn.LSTM multiplies every sample apart where it cannot use oneDNN")
    config = GPT1Config(vocab_size=61, hidden_size=24, num_hidden_layers=1, num_attention_heads=3, lstm_size=lstm_size)
    model = GPT1ForCausalLM(config).eval().requires_grad_(False)
    with Operators() as operators:
        model(PROMPT, logits_to_keep=1)
    assert "mm" in operators.names and "bmm" not in operators.names
    with Operators() as operators:  # what the states would be multiplied by otherwise
        model.lm_head(model.model(PROMPT).last_hidden_state[:, -1:])
    assert "bmm" in operators.names


def test_only_bfloat16_on_cpu_is_packed_and_only_within():
    layers = nn.ModuleList([nn.Linear(8, 8, dtype=torch.bfloat16) for _ in range(5)])
    layers[1].float()
    layers[2].to("meta")
    layers[3]._hf_hook = object()  # comes and goes with every call
    layers[4].forward = replaced = layers[4].forward
    with pytest.raises(RuntimeError, match="stop"), packed_weights(layers):
        packed = [isinstance(layer.forward, PackedLinear) for layer in layers]
        assert packed == [packing_is_supported(), False, False, False, False]
        raise RuntimeError("stop")
    assert all("forward" not in vars(layer) for layer in layers[:4]) and layers[4].forward is replaced


def test_every_layer_is_of_the_type_that_quantizers_replace_in_and_out_of_generation(model):
    model.bfloat16()
    types = {module: type(module) for module in model.modules()}
    assert len([module for module in types if type(module) is nn.Linear]) == 2 * 4 + 1
    with packed_weights(model):
        if packing_is_supported():
            assert all(type(m.forward) is PackedLinear for m in types if type(m) is nn.Linear)
        assert {module: type(module) for module in model.modules()} == types
    assert not any("forward" in vars(module) for module in types)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_is_that_of_the_librarys_cache_and_plain_layers(model, num_beams, monkeypatch):
    ours = generate(model, num_beams=num_beams)
    with monkeypatch.context() as plain:
        plain.setattr("gpt1_scratch.generation_gpt1.preallocate_cache", lambda cache: None)
        assert torch.equal(generate(model, num_beams=num_beams), ours)
    assert torch.equal(generate(model, num_beams=num_beams, use_cache=False), ours)


@pytest.fixture
def steps(monkeypatch):
    """Records the shapes of the tokens that steps without modules read."""
    taken = []
    step = TokenStep.__call__

    def watched(self, input_ids, *arguments):
        taken.append(tuple(input_ids.shape))
        return step(self, input_ids, *arguments)

    monkeypatch.setattr(TokenStep, "__call__", watched)
    return taken


def by_modules(model, monkeypatch, **settings):
    with monkeypatch.context() as plain:
        plain.setattr(TokenStep, "supports_model", lambda *_: False)
        return generate(model, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention_mask", [torch.ones_like(PROMPT), PADDED], ids=["full", "padded"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"output_logits": True}], ids=str)
def test_steps_give_the_logits_of_the_modules(settings, attention_mask, dtype, model, steps, monkeypatch):
    model.to(dtype)
    settings = {"attention_mask": attention_mask, "return_dict_in_generate": True, "output_scores": True} | settings
    ours, theirs = generate(model, **settings), by_modules(model, monkeypatch, **settings)
    assert steps == [(3 * settings.get("num_beams", 1), 1)] * 19
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.scores, theirs.scores)
    torch.testing.assert_close(ours.get("logits"), theirs.get("logits"))


def test_a_preallocated_cache_can_be_continued_in_training_after_steps(model, steps):
    cache = generate(model, return_dict_in_generate=True)[CACHE_NAME]
    assert steps
    model(PROMPT[:, :2], cache=cache, labels=None).logits.sum().backward()
    assert model.model.blocks[0].attention.query_key_value.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"output_hidden_states": True, "return_dict_in_generate": True},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache": DynamicCache()},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_steps_are_left_to_the_modules_where_more_is_asked_for(settings, model, steps):
    generate(model, **settings)
    assert not steps
    generate(model)
    assert len(steps) == 19


def test_steps_are_left_to_the_modules_in_training_autocast_and_eager_attention(model, steps):
    with torch.autocast("cpu", torch.bfloat16):
        generate(model)
    generate(model.train())  # dropout
    assert not steps
    generate(model.eval())
    assert len(steps) == 19
    model.set_attn_implementation("eager")
    generate(model)
    assert len(steps) == 19


def test_a_users_hook_and_a_layer_of_another_kind_are_not_passed_over(model, steps):
    calls = []
    hook = model.model.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    before = generate(model)
    hook.remove()
    assert len(calls) == 20 and not steps
    assert torch.equal(generate(model), before) and len(steps) == 19

    class Silent(nn.Linear):
        def forward(self, hidden_states):
            return 0 * super().forward(hidden_states)

    model.model.blocks[0].mlp.contract.__class__ = Silent
    steps.clear()
    assert not torch.equal(generate(model), before) and not steps


def test_steps_end_with_generation(model, steps):
    generate(model)
    assert model._token_step is None and len(steps) == 19
    with pytest.raises(RuntimeError, match="stop"):
        generate(model, prefix_allowed_tokens_fn=stop)
    assert model._token_step is None


def test_threads_that_generate_at_once_do_not_disturb_each_other(model):
    model.bfloat16()
    expected = generate(model)
    with ThreadPoolExecutor(4) as threads:
        lengths = [3, 20, 7, 12] * 6
        results = threads.map(lambda length: generate(model, max_new_tokens=length), lengths)
        for length, result in zip(lengths, results, strict=True):
            assert torch.equal(result, expected[:, : 5 + length])


def stop(*_):
    raise RuntimeError("stop")


def test_weights_changed_between_two_calls_are_seen(model):
    model.bfloat16()
    before = generate(model)
    for parameter in model.parameters():  # behind autograd's back
        parameter.data.copy_(0.2 * torch.randn_like(parameter))
    after = generate(model)
    assert not torch.equal(before, after) and torch.equal(after, generate(copy.deepcopy(model)))


def test_generation_keeps_the_cache_in_one_place(model, monkeypatch):
    seen = []
    update = PreallocatedLayer.update

    def watched(self, *arguments, **options):
        keys, values = update(self, *arguments, **options)
        seen.append((self, keys.data_ptr(), keys.shape[2]))
        return keys, values

    monkeypatch.setattr(PreallocatedLayer, "update", watched)
    generate(model)
    places = [place for layer, place, _ in seen if layer is seen[0][0]]
    assert len(places) == 20 and len(set(places)) == 3  # rooms for 10, 22 and 46 positions
    given = DynamicCache(config=model.config)
    seen.clear()
    generate(model, cache=given)
    assert not seen and given.get_seq_length() == 24


def states(count: int, seed: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, 3, count, 4, generator=generator) for _ in range(2))


@pytest.mark.parametrize("inference", [True, False])
def test_whatever_the_library_does_to_a_cache_happens_to_ours(inference, model):
    steps = [
        lambda cache: cache.update(*states(5, 0), 0),
        *[lambda cache, seed=seed: cache.update(*states(1, seed), 0) for seed in range(1, 9)],
        lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
        lambda cache: cache.update(*states(1, 10), 0),
        lambda cache: cache.crop(-3),
        lambda cache: cache.update(*states(2, 11), 0),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.update(*states(1, 12, batch=4), 0),
        lambda cache: cache.batch_select_indices(torch.tensor([3, 0])),
        lambda cache: cache.update(*states(1, 13), 0),
        lambda cache: cache.reset(),
        lambda cache: cache.update(*states(2, 14), 0),
    ]
    ours, reference = DynamicCache(config=model.config), DynamicCache(config=model.config)
    preallocate_cache(ours)
    with torch.inference_mode(inference), torch.set_grad_enabled(False):
        for step in steps:
            step(ours), step(reference)
            assert ours.get_seq_length() == reference.get_seq_length()
            if reference.layers[0].is_initialized:
                assert torch.equal(ours.layers[0].keys, reference.layers[0].keys)
                assert torch.equal(ours.layers[0].values, reference.layers[0].values)


def test_a_cache_can_be_continued_with_gradients(model):
    cache = DynamicCache(config=model.config)
    preallocate_cache(cache)
    with torch.inference_mode():
        model(PROMPT[:, :3], cache=cache)
    with torch.no_grad():
        model(PROMPT[:, 3:4], cache=cache)
    logits = model(PROMPT[:, 4:], cache=cache).logits
    torch.testing.assert_close(logits[:, -1], model(PROMPT).logits[:, -1], rtol=1e-4, atol=1e-5)
    logits.sum().backward()
    assert model.model.blocks[0].attention.query_key_value.weight.grad.abs().sum() > 0


def test_other_caches_are_left_as_they_are(model):
    filled = DynamicCache(config=model.config)
    filled.update(*states(1, 0), 0)
    static = StaticCache(config=model.config, max_cache_len=8)
    for cache in (filled, static, DynamicCache(config=model.config, offloading=True), None):
        layers = getattr(cache, "layers", None)
        preallocate_cache(cache)
        assert getattr(cache, "layers", None) is layers
