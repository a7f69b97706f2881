"""The masked language model: its masks, its bidirectional attention, its loss, and what it refuses."""

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, DynamicCache, pipeline

from gpt1_scratch import (
    GPT1Config,
    GPT1ForCausalLM,
    GPT1ForMaskedLM,
    GPT1ForSequenceClassification,
    GPT1Model,
    GPT1TextGenerationPipeline,
    cpu_kernels,
    plain_forms,
)
from gpt1_scratch.pretraining.masking import FixedMasks, TokenMasker, predicted_tokens
from gpt1_scratch.pretraining.scoring import score_texts
from gpt1_scratch.tokenization import MASK, add_mask_token, train_tokenizer

MASK_ID, LENGTH = 60, 12
SIZES = {
    **{"vocab_size": 61, "max_position_embeddings": 40, "hidden_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 3, "initializer_range": 0.3, "pad_token_id": 0},
    **dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout", "classifier_dropout"), 0.0),
}
IDS = torch.randint(1, 60, (3, LENGTH), generator=torch.Generator().manual_seed(1))
LABELS = IDS.masked_fill(torch.rand(IDS.shape, generator=torch.Generator().manual_seed(2)) > 0.4, -100)
MASKER = TokenMasker(MASK_ID, torch.arange(5, 60))


def tiny(model_class=GPT1ForMaskedLM, attention="bidirectional", **settings):
    torch.manual_seed(0)
    return model_class(GPT1Config(**{**SIZES, "attention": attention, **settings})).eval()


# Masks


def test_of_every_row_15_percent_are_predicted_of_which_80_are_masked_and_10_random():
    tokens = torch.randint(1, 60, (400, 100), generator=torch.Generator().manual_seed(3))
    before = tokens.clone()
    inputs, labels = MASKER(tokens, torch.Generator().manual_seed(4))
    predicted = labels != -100
    assert torch.equal(tokens, before) and (predicted.sum(dim=1) == 15).all()
    assert torch.equal(inputs[~predicted], tokens[~predicted]) and torch.equal(labels[predicted], tokens[predicted])
    masked = inputs == MASK_ID
    assert not (masked & ~predicted).any() and masked.sum() / predicted.sum() == pytest.approx(0.8, abs=0.02)
    # One random token in 55 is the original by chance.
    changed = predicted & ~masked & (inputs != tokens)
    assert changed.sum() / predicted.sum() == pytest.approx(0.1 * 54 / 55, abs=0.015)
    assert inputs[changed].min() >= 5  # the special tokens are not among the random ones
    assert predicted.sum(dim=0).min() > 30  # every place is chosen as often
    assert [predicted_tokens(length) for length in (2, 10, 256)] == [1, 2, 38]


def test_the_original_token_of_a_masked_place_changes_no_logit():
    masks = FixedMasks([{"input_ids": IDS[0].tolist()}], MASKER)
    example = masks[0]
    place = int((example["input_ids"] == MASK_ID).nonzero()[0][0])
    other_ids = IDS[0].tolist()
    other_ids[place] = 1 + other_ids[place] % 59
    other = FixedMasks([{"input_ids": other_ids}], MASKER)[0]
    assert other["labels"][place] != example["labels"][place]
    model = tiny()
    logits = [model(torch.tensor(each["input_ids"])[None]).logits for each in (example, other)]
    assert torch.equal(*logits)


def test_fixed_masks_depend_on_the_place_alone():
    blocks = [{"input_ids": IDS[0].tolist(), "position_ids": list(range(LENGTH))}] * 20
    torch.manual_seed(0)
    first = [FixedMasks(blocks, MASKER)[index]["labels"].tolist() for index in range(20)]
    torch.manual_seed(1)
    assert [FixedMasks(blocks, MASKER)[index]["labels"].tolist() for index in reversed(range(20))] == first[::-1]
    assert first.count(first[0]) < 20 and FixedMasks(blocks, MASKER)[3]["position_ids"] == list(range(LENGTH))


# Attention


def test_a_bidirectional_model_sees_what_comes_next_and_a_causal_one_does_not():
    changed = IDS.clone()
    changed[:, -1] = 1 + changed[:, -1] % 59
    for attention, sees in (("bidirectional", True), ("causal", False)):
        model = tiny(GPT1Model, attention)
        before, after = (model(ids).last_hidden_state[:, :-1] for ids in (IDS, changed))
        assert ((before - after).abs().amax(dim=-1) > 1e-4).all().item() is sees
        assert torch.equal(before, after) is not sees


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_logits(side, training, implementation):
    model = tiny(attn_implementation=implementation).train(training)
    padding = torch.zeros(3, 4, dtype=torch.long)
    parts = [IDS, padding] if side == "right" else [padding, IDS]
    mask = torch.cat([torch.ones_like(part) if part is IDS else part for part in parts], dim=1)
    for filler in (0, 7):  # whatever stands there
        padded = torch.cat([part if part is IDS else part + filler for part in parts], dim=1)
        logits = model(padded, attention_mask=mask).logits[mask.bool()].view(3, LENGTH, -1)
        torch.testing.assert_close(logits, model(IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_documents_of_a_row_do_not_see_each_other(training):
    model = tiny().train(training)
    positions = torch.tensor([[*range(5), *range(LENGTH - 5)]]).expand(3, -1)
    apart = torch.cat([model(part).logits for part in IDS.split([5, LENGTH - 5], dim=1)], dim=1)
    torch.testing.assert_close(model(IDS, position_ids=positions).logits, apart, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(IDS).logits, apart, atol=1e-3)


@pytest.mark.parametrize("inputs", ["whole", "padded", "documents"])
def test_the_plain_form_equals_the_fast_one(inputs, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "QUERY_BLOCK_SIZE", 5)
    monkeypatch.setattr(cpu_kernels, "ATTENTION_CHUNK_SIZE", 1)
    model, more = tiny().train(), {}
    if inputs == "padded":
        more["attention_mask"] = torch.ones_like(IDS).index_fill(1, torch.arange(3), 0)
    if inputs == "documents":
        more["position_ids"] = torch.tensor([[*range(5), *range(LENGTH - 5)]]).expand(3, -1)
    results = []
    for plain in (False, True):
        model.zero_grad()
        with plain_forms() if plain else torch.enable_grad():
            loss = model(IDS, labels=LABELS, **more).loss
            loss.backward()
        results.append({"loss": loss.detach()} | {name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


# Loss


@pytest.mark.parametrize("num_items_in_batch", [None, 17])
def test_the_loss_is_the_cross_entropy_at_the_chosen_places_alone(num_items_in_batch):
    model = tiny()
    output = model(IDS, labels=LABELS, num_items_in_batch=num_items_in_batch)
    places = LABELS != -100
    losses = functional.cross_entropy(output.logits[places], LABELS[places], reduction="sum")
    torch.testing.assert_close(output.loss, losses / (num_items_in_batch or places.sum()))
    assert model.train()(IDS, labels=LABELS).logits is None and model(IDS).logits is not None


# Loading and using


@pytest.fixture(scope="module")
def tokenizer():
    return add_mask_token(train_tokenizer(["a cat sat on the mat and a dog ran to the cat"] * 3, merges=40))


def test_the_mask_token_is_one_more_special_token(tokenizer):
    plain = train_tokenizer(["a cat sat on the mat"] * 3, merges=5)
    masking = add_mask_token(plain)
    assert plain.mask_token is None and masking.mask_token == MASK and masking.mask_token_id == len(plain)
    assert masking("a cat").input_ids == plain("a cat").input_ids
    assert add_mask_token(masking).mask_token_id == masking.mask_token_id
    assert set(masking.all_special_ids).isdisjoint(TokenMasker.of(masking).ordinary_ids.tolist())


def test_a_saved_model_loads_by_the_auto_classes_of_its_objective_and_fills_masks(tokenizer, tmp_path):
    model = tiny(vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, trust_remote_code=False)
    ids = tokenizer(f"a cat {MASK} on the mat", return_tensors="pt").input_ids
    assert type(loaded) is GPT1ForMaskedLM and torch.equal(loaded(ids).logits, model(ids).logits)
    assert AutoModel.from_pretrained(tmp_path, trust_remote_code=False).config.attention == "bidirectional"
    with pytest.raises(ValueError, match="cannot|can neither generate nor score text"):
        AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    fill = pipeline("fill-mask", model=str(tmp_path), trust_remote_code=False)
    place = (ids[0] == tokenizer.mask_token_id).nonzero().item()
    assert fill(f"a cat {MASK} on the mat")[0]["token"] == model(ids).logits[0, place].argmax().item()
    tiny(GPT1ForCausalLM, "causal").save_pretrained(tmp_path / "causal")
    with pytest.raises(ValueError, match="predicts the next token and not the masked ones"):
        AutoModelForMaskedLM.from_pretrained(tmp_path / "causal", trust_remote_code=False)


def test_what_a_bidirectional_model_cannot_do_is_refused(tokenizer, tmp_path):
    model = tiny(vocab_size=len(tokenizer))
    for use in (
        lambda: model.generate(IDS),
        lambda: GPT1ForCausalLM(model.config),
        lambda: score_texts(model, tokenizer, ["a cat"]),
        lambda: GPT1TextGenerationPipeline(model=model, tokenizer=tokenizer),
        lambda: pipeline("text-generation", model=model, tokenizer=tokenizer),
    ):
        with pytest.raises(ValueError, match="can neither generate nor score text: use a causal model"):
            use()
    with pytest.raises(ValueError, match="A cache is given"):
        model.model(IDS[:, :4] % 20, cache=DynamicCache())
    assert model.model(IDS % 20, use_cache=True).get("cache") is None
    for settings, message in (
        ({"lstm_size": 8}, "an LSTM reads from left to right"),
        ({"auxiliary_loss_weight": 0.5}, "Set auxiliary_loss_weight to 0"),
        ({"attention": "both"}, "attention"),
    ):
        with pytest.raises(Exception, match=message):
            tiny(**settings)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Set auxiliary_loss_weight to 0"):
        GPT1ForSequenceClassification.from_pretrained(tmp_path, auxiliary_loss_weight=0.5)
