"""The LSTM that replaces the Transformer in the ablation, against its equations, and in every use."""

import pytest
import torch
from tiny_models import GPT1_SIZES, PAD, VOCABULARY
from transformers import AutoModelForCausalLM

from gpt1_scratch import GPT1Config, GPT1ForCausalLM, GPT1ForSequenceClassification
from gpt1_scratch.pretraining.convert_openai_gpt import to_openai_gpt

SIZES = GPT1_SIZES | {"vocab_size": VOCABULARY, "lstm_size": 12, "eos_token_id": None}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = GPT1ForCausalLM(GPT1Config(**SIZES))
    with torch.no_grad():
        for parameter in model.parameters():  # far from symmetric, so that a wrong term shows
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def tokens():
    return torch.randint(PAD + 1, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_forward_is_the_lstms_equations(model, tokens):
    states = model.model.tokens_embed(tokens) + model.model.positions_embed.weight[: tokens.shape[1]]
    for block in model.model.blocks:
        w_x, w_h, b_x, b_h = block.lstm.all_weights[0]
        hidden = cells = torch.zeros(len(tokens), 12)
        outputs = []
        for x in states.unbind(1):
            gates = x @ w_x.T + b_x + hidden @ w_h.T + b_h
            input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
            cells = forget_gate.sigmoid() * cells + input_gate.sigmoid() * candidate.tanh()
            hidden = output_gate.sigmoid() * cells.tanh()
            outputs.append(hidden)
        states = torch.stack(outputs, dim=1) @ block.out_proj.weight.T + block.out_proj.bias
    torch.testing.assert_close(model(tokens).logits, states @ model.lm_head.weight.T)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_with_the_state_kept_equals_generation_without(model, tokens, num_beams):
    with_cache, without = (
        model.generate(tokens, max_new_tokens=9, num_beams=num_beams, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert with_cache.shape == (3, 16) and torch.equal(with_cache, without)


def test_a_saved_model_is_the_same_and_keeps_its_kind(model, tokens, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=0, atol=0)
    assert len(loaded(tokens, output_hidden_states=True).hidden_states) == 1 + 2


def test_heads_read_it_as_they_read_the_transformer(model, tokens, tmp_path):
    model.save_pretrained(tmp_path)
    head = GPT1ForSequenceClassification.from_pretrained(tmp_path).eval()
    alone = head(tokens[:1, :5]).logits
    padded = tokens[:2].clone()
    padded[0] = torch.cat((torch.full((2,), PAD), tokens[0, :5]))
    torch.testing.assert_close(head(padded, attention_mask=(padded != PAD).long()).logits[:1], alone)
    head.train()(padded, labels=torch.tensor([0, 2])).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.model.blocks.parameters())


def test_gradient_checkpointing_changes_nothing(model, tokens):
    model.train()
    gradients = []
    for checkpoint in (False, True):
        model.zero_grad()
        if checkpoint:
            model.gradient_checkpointing_enable()
        model(tokens, labels=tokens).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("places", [slice(0, 2), slice(2, 3), slice(-2, None)])
def test_padding_before_tokens_is_refused(model, tokens, places):
    mask = torch.ones_like(tokens)
    mask[1, places] = 0
    with pytest.raises(ValueError, match="padding on the left or between tokens.*read as text"):
        model.generate(tokens, attention_mask=mask, max_new_tokens=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_implementation": "static", "disable_compile": True}, "cannot continue from a StaticLayer"),
        ({"prompt_lookup_num_tokens": 3}, "assisted generation is not supported with stateful models"),
    ],
)
def test_searches_that_would_lose_the_state_are_refused(model, tokens, settings, message):
    with pytest.raises(ValueError, match=message):
        model.generate(tokens[:1], max_new_tokens=6, do_sample=False, **settings)


def test_no_openai_gpt_can_be_made_of_it(model):
    with pytest.raises(ValueError, match="lstm_size is 12"):
        to_openai_gpt(model)
