"""GPT-1's backbone and language model, against plain PyTorch and against themselves."""

import logging
import math

import pytest
import torch
from tiny_gpt1 import PADDING, gradients, tiny_model, tokens
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gpt1_scratch import GPT1Config, GPT1ForCausalLM, GPT1Model
from gpt1_scratch.library_arguments import CACHE_NAME


def test_default_config_counts_the_published_parameters():
    with torch.device("meta"):
        model = GPT1ForCausalLM(GPT1Config())
    assert sum(parameter.numel() for parameter in model.parameters()) == 116_534_784


def test_initial_weights_follow_the_paper():
    model = GPT1ForCausalLM(GPT1Config(hidden_size=192, num_hidden_layers=1, vocab_size=500))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.mean().abs() < 1e-3, name
            assert parameter.std().item() == pytest.approx(0.02, rel=0.03), name


def test_positions_may_start_as_sinusoids_and_are_learned(tmp_path):
    config = GPT1Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    config.sinusoidal_positions = True
    model = GPT1ForCausalLM(config)
    table = model.model.positions_embed.weight
    assert table.requires_grad and table.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.01)
    # Vaswani et al. 2017, section 3.5, with the sines before the cosines.
    for position, rate in ((0, 0), (7, 0), (100, 5), (511, 11)):
        angle = position / 10_000 ** (2 * rate / 24)
        expected = 0.02 * 2**0.5 * torch.tensor([math.sin(angle), math.cos(angle)])
        torch.testing.assert_close(table[position, [rate, 12 + rate]].detach(), expected, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        table.add_(1)
    model.save_pretrained(tmp_path)
    for loaded in (GPT1ForCausalLM.from_pretrained(tmp_path).model, GPT1Model.from_pretrained(tmp_path)):
        torch.testing.assert_close(loaded.positions_embed.weight, table, rtol=0, atol=0)


def test_forward_is_the_equations_of_the_paper():
    model, input_ids = tiny_model(), tokens(2, 9)
    states = model.model.tokens_embed.weight[input_ids] + model.model.positions_embed.weight[:9]
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    for block in model.model.blocks:
        query, key, value = (
            part.view(2, 9, 3, 8).transpose(1, 2) for part in block.attention.query_key_value(states).chunk(3, dim=-1)
        )
        scores = (query @ key.mT / 8**0.5).masked_fill(~causal, -torch.inf)
        attended = block.attention.out_proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(2, 9, 24))
        states = block.attention_norm(states + attended)
        inner = block.mlp.expand(states)
        inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
        states = block.mlp_norm(states + block.mlp.contract(inner))
    torch.testing.assert_close(model(input_ids).logits, states @ model.model.tokens_embed.weight.T)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("compiled", [False, True], ids=["called", "compiled"])
def test_padding_on_either_side_changes_no_logits_without_position_ids(implementation, compiled):
    model, rows = tiny_model(), [tokens(1, length, seed=length)[0] for length in (3, 9, 7)]
    model.set_attn_implementation(implementation)
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    for side in ("left", "right"):
        input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING, padding_side=side)
        logits = run(input_ids, attention_mask=(input_ids != PADDING).long()).logits
        for row, padded in zip(rows, logits, strict=True):
            padded = padded[9 - len(row) :] if side == "left" else padded[: len(row)]
            torch.testing.assert_close(padded, model(row[None]).logits[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cache_class", [DynamicCache, StaticCache])
def test_a_cache_is_continued_after_padding_on_the_left_without_position_ids(cache_class):
    model, rows = tiny_model(), [tokens(1, length, seed=length)[0] for length in (4, 9)]
    input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING, padding_side="left")
    mask = (input_ids != PADDING).long()
    options = {"max_cache_len": 12} if cache_class is StaticCache else {}
    cache = cache_class(config=model.config, **options)
    with torch.no_grad():
        model(input_ids[:, :6], attention_mask=mask[:, :6], **{CACHE_NAME: cache}, use_cache=True)
        logits = model(input_ids[:, 6:], attention_mask=mask, **{CACHE_NAME: cache}, use_cache=True).logits
    for row, continued in zip(rows, logits, strict=True):
        torch.testing.assert_close(continued, model(row[None]).logits[0, -3:], atol=1e-5, rtol=1e-4)


def test_a_mask_that_does_not_cover_the_cache_is_refused():
    model, input_ids = tiny_model(), tokens(2, 6)
    cache = model(input_ids, use_cache=True)[CACHE_NAME]
    with pytest.raises(ValueError, match="attention_mask has 1 columns, but there are 6 cached tokens and 1 new ones"):
        model(input_ids[:, :1], attention_mask=torch.ones(2, 1), **{CACHE_NAME: cache})


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_cache_equals_no_cache(kind, implementation):
    model, input_ids = tiny_model(), tokens(2, 11)
    model.set_attn_implementation(implementation)
    cache = DynamicCache() if kind == "dynamic" else StaticCache(model.config, max_cache_len=16)
    with torch.no_grad():
        expected = model(input_ids, use_cache=False)
        assert expected.get(CACHE_NAME) is None
        pieces = [model(piece, cache=cache).logits for piece in input_ids.split([6, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected.logits)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_left_padding_does_not_change_logits_or_generation(implementation):
    model, short, long = tiny_model(), tokens(1, 4), tokens(1, 9, seed=2)
    model.set_attn_implementation(implementation)
    padded = torch.cat([torch.cat([torch.full((1, 5), PADDING), short], dim=1), long])
    mask = torch.ones_like(padded)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(padded, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(logits[:1, 5:], model(short).logits)
    torch.testing.assert_close(logits[1:], model(long).logits)
    settings = {"max_new_tokens": 8, "do_sample": False}
    together = model.generate(padded, attention_mask=mask, **settings)
    assert together[0, 9:].tolist() == model.generate(short, **settings)[0, 4:].tolist()
    assert together[1, 9:].tolist() == model.generate(long, **settings)[0, 9:].tolist()


def test_generation_is_the_same_with_every_cache_and_with_none():
    model, prompt = tiny_model(), tokens(2, 5)
    settings = {"max_new_tokens": 10, "do_sample": False}
    expected = model.generate(prompt, use_cache=False, **settings)
    assert torch.equal(model.generate(prompt, **settings), expected)
    assert torch.equal(model.generate(prompt, cache_implementation="static", **settings), expected)
    beams = model.generate(prompt, num_beams=3, **settings)
    assert torch.equal(model.generate(prompt, num_beams=3, use_cache=False, **settings), beams)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_documents_equal_separate_ones(mode, implementation):
    model, first, second = tiny_model(), tokens(2, 7), tokens(2, 9, seed=2)
    model.set_attn_implementation(implementation)
    getattr(model, mode)()
    packed = torch.cat([first, second], dim=1)
    position_ids = torch.cat([torch.arange(7), torch.arange(9)]).expand(2, -1)
    logits = model(packed, position_ids=position_ids).logits
    torch.testing.assert_close(logits[:, :7], model(first).logits)
    torch.testing.assert_close(logits[:, 7:], model(second).logits)
    crossing = model(packed).logits
    assert not torch.allclose(crossing[:, 7:], logits[:, 7:])


def test_flash_attention_is_told_where_documents_begin_in_every_row(monkeypatch):
    """FlashAttention needs a GPU, so a stand-in attends within each sequence that it is told of."""

    def attend(module, query, key, value, attention_mask, scaling, cu_seq_lens_q, max_length_q, **kwargs):
        rows = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]  # (B x T, H, W)
        lengths = cu_seq_lens_q.diff().tolist()
        assert max(lengths) == max_length_q
        pieces = []
        for q, k, v in zip(*(states.split(lengths) for states in rows), strict=True):
            mixed = functional.scaled_dot_product_attention(
                q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), is_causal=True, scale=scaling
            )
            pieces.append(mixed.transpose(0, 1))
        return torch.cat(pieces).unflatten(0, (query.shape[0], -1)), None

    model, packed = tiny_model(), tokens(2, 16)
    position_ids = torch.stack(
        [torch.cat([torch.arange(7), torch.arange(9)]), torch.cat([torch.arange(12), torch.arange(4)])]
    )
    expected = model(packed, position_ids=position_ids).logits
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", attend)
    model.config._attn_implementation_internal = "flash_attention_2"
    torch.testing.assert_close(model(packed, position_ids=position_ids, use_cache=False).logits, expected)


def test_flex_attention_equals_sdpa():
    model, input_ids = tiny_model(hidden_size=48), tokens(2, 9)
    # Uncompiled, for a compiled kernel takes half a minute to build.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = model(input_ids, use_cache=False).logits
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(input_ids, use_cache=False).logits, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(use_reentrant):
    model, input_ids = tiny_model(dropout=0.2).train(), tokens(2, 12)
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        torch.manual_seed(5)
        loss = model(input_ids, labels=input_ids).loss
        results.append((loss.detach(), gradients(model, loss)))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_training_step_compiles_into_one_graph(dropout):
    torch._dynamo.reset()
    model, input_ids = tiny_model(dropout=dropout).train(), tokens(2, 12)
    labels = input_ids.clone()
    labels[0, :4] = -100
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(input_ids, labels=labels).loss.isfinite()
    loss = compiled(input_ids, labels=labels).loss
    found = gradients(model, loss)
    if not dropout:
        expected = model(input_ids, labels=labels).loss
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(found, gradients(model, expected))


def test_padded_inference_compiles_into_one_graph():
    torch._dynamo.reset()
    model, input_ids = tiny_model(), tokens(2, 12)
    inputs = {"attention_mask": torch.ones_like(input_ids), "use_cache": False}
    inputs["attention_mask"][0, 8:] = 0
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(input_ids, **inputs).logits, model(input_ids, **inputs).logits)


def test_autocast_keeps_the_residual_stream_in_bfloat16():
    model, input_ids = tiny_model(), tokens(2, 12)
    expected = model(input_ids, labels=input_ids)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(input_ids, labels=input_ids, output_hidden_states=True)
    assert {states.dtype for states in outputs.hidden_states} == {torch.bfloat16}
    assert outputs.loss.dtype == torch.float32
    assert outputs.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)


def test_hidden_states_and_attention_weights_are_returned():
    model, input_ids = tiny_model(), tokens(2, 7)
    model.set_attn_implementation("eager")
    outputs = model(input_ids, output_hidden_states=True, output_attentions=True)
    assert [states.shape for states in outputs.hidden_states] == [(2, 7, 24)] * 3
    assert [weights.shape for weights in outputs.attentions] == [(2, 3, 7, 7)] * 2
    for weights in outputs.attentions:
        torch.testing.assert_close(weights, weights.tril())
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7))


def test_embeddings_in_place_of_tokens():
    model, input_ids = tiny_model(), tokens(2, 7)
    embeddings = model.get_input_embeddings()(input_ids)
    torch.testing.assert_close(model(inputs_embeds=embeddings).logits, model(input_ids).logits)
    with pytest.raises(ValueError, match="exactly one"):
        model(input_ids, inputs_embeds=embeddings)
    with pytest.raises(ValueError, match="exactly one"):
        model()


def test_saved_model_loads_through_the_auto_classes(tmp_path):
    model, input_ids = tiny_model(), tokens(2, 7)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, trust_remote_code=False).model_type == "gpt1"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    assert loaded.lm_head.weight is loaded.model.tokens_embed.weight
    torch.testing.assert_close(loaded(input_ids).logits, model(input_ids).logits)
    backbone = GPT1Model.from_pretrained(tmp_path)
    torch.testing.assert_close(
        backbone(input_ids).last_hidden_state, model(input_ids, output_hidden_states=True).hidden_states[-1]
    )


def test_added_tokens_resize_both_ends():
    model, input_ids = tiny_model(), tokens(2, 7)
    before = model(input_ids).logits
    model.resize_token_embeddings(64, mean_resizing=False)
    after = model(input_ids).logits
    assert after.shape[-1] == model.config.vocab_size == 64
    torch.testing.assert_close(after[..., :61], before)


def test_generation_stops_at_the_last_position_and_says_so(caplog):
    model, prompt = tiny_model(), tokens(1, 30)
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        generated = model.generate(prompt, max_new_tokens=100, do_sample=False)
    assert generated.shape == (1, 40)
    assert "stop at 40, the model's max_position_embeddings" in caplog.text


def test_generation_from_embeddings_stops_at_the_last_position_too():
    model, prompt = tiny_model(), tokens(1, 30)
    expected = model.generate(prompt, max_new_tokens=100, do_sample=False)[:, 30:]
    embeddings = model.model.tokens_embed(prompt)
    for given in ({}, {"input_ids": prompt}):
        generated = model.generate(inputs_embeds=embeddings, max_new_tokens=100, do_sample=False, **given)
        assert torch.equal(generated[:, -10:], expected)


@pytest.mark.parametrize("length", [40, 41])
def test_a_prompt_that_fills_all_positions_is_refused(length):
    model, prompt = tiny_model(), tokens(1, length)
    for inputs in ({"inputs": prompt}, {"inputs_embeds": model.model.tokens_embed(prompt)}):
        with pytest.raises(ValueError, match=f"prompt has {length} tokens.* is 40: no position is left"):
            model.generate(max_new_tokens=1, **inputs)


def test_sequence_beyond_the_last_position_is_refused():
    with pytest.raises(ValueError, match="41 tokens.*max_position_embeddings is 40"):
        tiny_model()(tokens(1, 41))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 25}, "multiple of num_attention_heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"attention_dropout": 1.0}, "attention_dropout is 1.0"),
        ({"vocab_size": "many"}, "vocab_size"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        GPT1Config(**{"num_attention_heads": 3, "hidden_size": 24, **settings})


def test_sizes_by_the_librarys_other_names_are_the_same_model():
    ours = GPT1Config(hidden_size=96, num_hidden_layers=2, num_attention_heads=3)
    assert ours.intermediate_size == 384
    assert GPT1Config(n_embd=96, n_layer=2, n_head=3).to_dict() == ours.to_dict()
