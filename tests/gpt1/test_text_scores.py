"""Log-probabilities of texts against those counted from the logits of one text at a time."""

import math

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from gpt1_scratch.pretraining.scoring import score_texts

TEXTS = [
    "word4 word5 word6",
    "",
    "word9",
    "word7 word7 \u200b word8 word15 word4",
    "\u200b",
    "unseen word4",
    "word4 word5",
]


def model_of(positions=64, **settings):
    torch.manual_seed(0)
    if not settings and positions == 64:
        return tiny_model("causal_lm").eval()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16}
    return GPT1ForCausalLM(GPT1Config(**sizes, max_position_embeddings=positions, **settings)).eval()


def by_hand(model, ids):
    """One forward pass without padding, in double precision."""
    logits = model.double()(torch.tensor([ids])).logits[0].log_softmax(-1)
    model.float()
    return [logits[place - 1, ids[place]].item() for place in range(1, len(ids))]


@pytest.mark.parametrize("settings", [{}, {"lstm_size": 8}])
@pytest.mark.parametrize("max_tokens_per_batch", [1, 8, 4096])
def test_the_scores_are_the_log_probabilities_of_all_tokens_but_the_first(settings, max_tokens_per_batch):
    model, tokenizer = model_of(**settings), tiny_tokenizer()
    scores = score_texts(model, tokenizer, TEXTS, max_tokens_per_batch=max_tokens_per_batch)
    for text, score in zip(TEXTS, scores, strict=True):
        ids = tokenizer(text, add_special_tokens=False).input_ids if text != "\u200b" else []
        assert score.log_probabilities == pytest.approx(by_hand(model, ids) if len(ids) > 1 else [], abs=1e-5)
        assert list(score.tokens) == tokenizer.convert_ids_to_tokens(ids)[1:]


def test_perplexity_and_bits_per_byte_are_those_of_the_text_behind_the_first_token():
    (score,) = score_texts(model_of(), tiny_tokenizer(), ["word4 word5 w\u00f6rd"])
    assert score.bytes == len(" word5 w\u00f6rd".encode()) == 12
    assert score.log_probability == pytest.approx(sum(score.log_probabilities))
    assert score.perplexity == pytest.approx(math.exp(-sum(score.log_probabilities) / 2))
    assert score.bits_per_byte == pytest.approx(-sum(score.log_probabilities) / math.log(2) / 12)


@pytest.mark.parametrize("stride", [1, 3, 7, None])
@pytest.mark.parametrize("length", [7, 8, 9, 30])
def test_a_long_text_is_read_in_windows_that_overlap(stride, length):
    positions = 8
    model, tokenizer = model_of(positions), tiny_tokenizer()
    ids = [4 + (place * 7) % 11 for place in range(length)]
    (score,) = score_texts(model, tokenizer, [tokenizer.decode(ids)], stride=stride)
    expected, end = by_hand(model, ids[:positions]), positions
    while end < length:
        new = min(stride or positions // 2, length - end)
        end += new
        expected += by_hand(model, ids[end - positions : end])[-new:]
    assert score.log_probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("stride", [0, 64, -1])
def test_a_stride_beyond_the_positions_is_named(stride):
    with pytest.raises(ValueError, match=f"stride is {stride}; the model has 64 positions, so it must be 1 to 63"):
        score_texts(model_of(), tiny_tokenizer(), ["word4 word5"], stride=stride)


@pytest.mark.parametrize("use", [{"truncation": True, "max_length": 3}, {"padding": True}])
def test_what_an_earlier_call_of_the_tokenizer_left_behind_does_not_matter(use):
    model, tokenizer = model_of(), tiny_tokenizer()
    expected = score_texts(model, tokenizer, TEXTS)
    tokenizer(TEXTS, **use)
    assert score_texts(model, tokenizer, TEXTS) == expected
