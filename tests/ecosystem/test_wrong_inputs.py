"""Inputs of translators that do not fit each other or the vocabulary, and masks of every type."""

from contextlib import nullcontext

import pytest
import torch
from tiny_models import PAD, TRANSLATORS, tiny_batch, tiny_model
from transformers.modeling_outputs import BaseModelOutput

from seq2seq_scratch import plain_forms


def changed(batch, name, value):
    """Returns the batch with a value at the last place of the first row, where no mask or shift hides it."""
    rows = batch[name].masked_fill(batch[name] == -100, PAD)
    rows[0, -1] = value
    return {name: rows}


MISTAKES = {
    "no source": (lambda batch: {"input_ids": None, "attention_mask": None}, "There is no source. Give input_ids"),
    "one row": (
        lambda batch: {"input_ids": batch["input_ids"][0], "attention_mask": None},
        r"input_ids has the shape \(5,\); it must have two dimensions",
    ),
    "short mask": (
        lambda batch: {"attention_mask": batch["attention_mask"][:, :-2]},
        r"attention_mask has the shape \(4, 3\), but input_ids has \(4, 5\)",
    ),
    "mask of one row": (
        lambda batch: {"attention_mask": batch["attention_mask"][:1]},
        r"attention_mask has the shape \(1, 5\), but input_ids has \(4, 5\)",
    ),
    "source id too large": (
        lambda batch: changed(batch, "input_ids", 16),
        "Token ids run from 1 to 16, but the embedding holds 16; the model's vocab_size",
    ),
    "more targets": (
        lambda batch: {"labels": batch["labels"].repeat(2, 1)},
        "The batch has 4 sources, but 8 targets",
    ),
    "fewer targets": (lambda batch: {"labels": batch["labels"][:1]}, "The batch has 4 sources, but 1 targets"),
    "last label too large": (
        lambda batch: changed(batch, "labels", 16),
        "Labels run from 1 to 16, but the softmax layer holds 16; the model's vocab_size",
    ),
    "labels padded with -1": (
        lambda batch: {"labels": batch["labels"].masked_fill(batch["labels"] == -100, -1)},
        "run from -1 to .*; labels are padded with -100",
    ),
    "last label below 0": (
        lambda batch: changed(batch, "labels", -1),
        "Labels run from -1 to .*, but the softmax layer holds 16; labels are padded with -100",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", TRANSLATORS)
def test_the_mistake_is_named(name, mistake):
    model, batch = tiny_model(name), tiny_batch(name, 4)
    change, message = MISTAKES[mistake]
    wrong = batch | change(batch)
    for is_training in (False, True):
        model.train(is_training)
        with pytest.raises(ValueError, match=message):
            model(**wrong)
    source = {key: wrong[key] for key in ("input_ids", "attention_mask") if wrong[key] is not None}
    if any(wrong[key] is not batch[key] for key in source):
        with pytest.raises(ValueError, match=message):
            model.eval().generate(**source, max_new_tokens=3)


@pytest.mark.parametrize("name", TRANSLATORS)
def test_embeddings_in_place_of_a_source_are_refused(name):
    model, batch = tiny_model(name), tiny_batch(name, 4)
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    with pytest.raises(ValueError, match="take no inputs_embeds"):
        model.generate(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], max_new_tokens=3)
    with pytest.raises(TypeError, match="unknown argument 'inputs_embeds'"):
        model(inputs_embeds=embeddings, labels=batch["labels"])


@pytest.mark.parametrize("name", TRANSLATORS)
def test_an_encoders_output_without_names_is_refused(name):
    model, batch = tiny_model(name), tiny_batch(name, 4)
    encoded = model.get_encoder()(batch["input_ids"], batch["attention_mask"])
    loss = model(encoder_outputs=encoded, labels=batch["labels"]).loss
    assert loss == model(**batch).loss
    with pytest.raises(TypeError, match="encoder_outputs is a tuple"):
        model(encoder_outputs=encoded.to_tuple(), labels=batch["labels"])


def test_the_transformer_reads_states_alone_with_a_mask_beside_them():
    model, batch = tiny_model("transformer"), tiny_batch("transformer", 4)
    states = BaseModelOutput(model.get_encoder()(batch["input_ids"], batch["attention_mask"]).last_hidden_state)
    rest = {key: batch[key] for key in ("attention_mask", "labels")}
    assert model(encoder_outputs=states, **rest).loss == model(**batch).loss


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32, torch.float16])
@pytest.mark.parametrize("name", TRANSLATORS)
def test_a_mask_may_have_any_type(name, dtype, is_plain):
    model, batch = tiny_model(name), tiny_batch(name, 4)
    other = batch | {"attention_mask": batch["attention_mask"].to(dtype)}
    source = {key: other[key] for key in ("input_ids", "attention_mask")}
    with plain_forms() if is_plain else nullcontext():
        assert model(**other).loss == model(**batch).loss
        search = {"max_new_tokens": 5, "num_beams": 2}
        expected = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **search)
        assert model.generate(**source, **search).tolist() == expected.tolist()


def test_without_an_id_for_padding_every_token_is_read():
    model, batch = tiny_model("transformer"), tiny_batch("transformer", 4)
    model.config.pad_token_id = None
    source, target = batch["input_ids"], batch["input_ids"]
    assert (source == PAD).any()
    found = model(source, decoder_input_ids=target).logits
    torch.testing.assert_close(found, model(source, torch.ones_like(source), target).logits)
