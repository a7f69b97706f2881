"""Checkpoints saved before the softmax layer was renamed load completely, whichever way they are read."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TRANSLATORS, tiny_batch, tiny_model
from transformers import AutoModel, AutoModelForSeq2SeqLM

from papers_to_gpt.engine.checkpointing import average_weights, load_weights

# The Transformer's softmax layer has always been `lm_head`.
RENAMED = ["rnn_seq2seq", "bahdanau"]


def other_model(name):
    """Returns another model of the same shape."""
    model = tiny_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.7)
    return model


def logits_of(name, model):
    with torch.no_grad():
        return model.eval()(**tiny_batch(name)).logits


def save_with_old_keys(model, folder):
    """Writes the folder as version 39df440 did, which called `lm_head` `output_projection`."""
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    old = {key.replace("lm_head", "output_projection"): tensor for key, tensor in weights.items()}
    assert set(old) - set(weights) == {"output_projection.weight", "output_projection.bias"}
    save_file(old, path, metadata={"format": "pt"})
    return old


@pytest.mark.parametrize("auto_class", [AutoModelForSeq2SeqLM, AutoModel])
@pytest.mark.parametrize("name", RENAMED)
def test_a_folder_with_old_keys_loads_whole_and_is_saved_with_present_ones(name, auto_class, tmp_path):
    model = tiny_model(name)
    save_with_old_keys(model, tmp_path)
    loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is TRANSLATORS[name][0]
    assert not (report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"])
    assert torch.equal(logits_of(name, loaded), logits_of(name, model))
    loaded.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == model.state_dict().keys()


def test_tied_weights_stay_tied_when_a_folder_has_old_keys(tmp_path):
    model = tiny_model("rnn_seq2seq", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    weights["output_projection.bias"] = weights.pop("lm_head.bias")
    save_file(weights, path, metadata={"format": "pt"})
    loaded = TRANSLATORS["rnn_seq2seq"][0].from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.decoder.embed_tokens.weight
    assert torch.equal(logits_of("rnn_seq2seq", loaded), logits_of("rnn_seq2seq", model))


@pytest.mark.parametrize("name", RENAMED)
def test_a_state_dict_with_old_keys_loads_strictly(name, tmp_path):
    model, other = tiny_model(name), other_model(name)
    other.load_state_dict(save_with_old_keys(model, tmp_path))
    assert torch.equal(logits_of(name, other), logits_of(name, model))


@pytest.mark.parametrize("name", RENAMED)
def test_checkpoints_before_and_after_the_renaming_resume_and_average(name, tmp_path):
    first, second, resumed = tiny_model(name), other_model(name), other_model(name)
    (tmp_path / "mean").mkdir()
    save_with_old_keys(first, tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    load_weights(resumed, tmp_path / "first")
    assert torch.equal(logits_of(name, resumed), logits_of(name, first))
    average_weights([tmp_path / "first", tmp_path / "second"], tmp_path / "mean", first.rename_old_keys)
    load_weights(resumed, tmp_path / "mean")
    for key, tensor in resumed.state_dict().items():
        torch.testing.assert_close(tensor, (first.state_dict()[key] + second.state_dict()[key]) / 2)
