"""Checkpoints saved before parameters were renamed load completely, whichever way they are read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt1_scratch import (
    GPT1Config,
    GPT1ForCausalLM,
    GPT1ForMultipleChoice,
    GPT1ForSequenceClassification,
    GPT1Model,
)
from papers_to_gpt.engine.checkpointing import average_weights, load_weights

CLASSES = [GPT1Model, GPT1ForCausalLM, GPT1ForMultipleChoice, GPT1ForSequenceClassification]
IDS = torch.randint(2, 30, (2, 2, 6), generator=torch.Generator().manual_seed(1))


def tiny(model_class, seed=0, **settings):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    return model_class(GPT1Config(**sizes, initializer_range=1.0, **settings)).eval()


def outputs(model):
    return model(IDS if isinstance(model, GPT1ForMultipleChoice) else IDS[0])[0]


def save_with_old_keys(model, folder):
    """Writes the folder as version 39df440 did, which called `out_proj` `output_projection`."""
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    old = {key.replace("out_proj", "output_projection"): tensor for key, tensor in weights.items()}
    assert len(set(old) - set(weights)) == 4  # weight and bias in two layers
    save_file(old, path, metadata={"format": "pt"})
    return old


@pytest.mark.parametrize("lstm_size", [None, 6])
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_folder_with_old_keys_loads_whole_and_is_saved_with_present_ones(model_class, lstm_size, tmp_path):
    model = tiny(model_class, lstm_size=lstm_size)
    save_with_old_keys(model, tmp_path)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not (report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"])
    torch.testing.assert_close(outputs(loaded), outputs(model), rtol=0, atol=0)
    loaded.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert any("out_proj" in key for key in again) and not any("output_projection" in key for key in again)


@pytest.mark.parametrize("model_class", CLASSES)
def test_every_head_takes_the_backbone_of_a_language_model_with_old_keys(model_class, tmp_path):
    model = tiny(GPT1ForCausalLM)
    save_with_old_keys(model, tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    backbone = loaded if model_class is GPT1Model else loaded.model
    torch.testing.assert_close(backbone.state_dict(), model.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_state_dict_with_old_keys_loads_strictly_and_is_left_as_it_was(model_class, tmp_path):
    model = tiny(model_class)
    old = save_with_old_keys(model, tmp_path)
    before, other = set(old), tiny(model_class, seed=1)
    missing, unexpected = other.load_state_dict(old, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"} and set(old) == before
    torch.testing.assert_close(outputs(other), outputs(model), rtol=0, atol=0)
    wrapped = torch.nn.Sequential(tiny(model_class, seed=1))  # under a prefix
    wrapped.load_state_dict({f"0.{key}": tensor for key, tensor in old.items()}, strict=False)
    torch.testing.assert_close(outputs(wrapped[0]), outputs(model), rtol=0, atol=0)


def test_checkpoints_before_and_after_the_renaming_resume_and_average(tmp_path):
    first, second = tiny(GPT1ForCausalLM), tiny(GPT1ForCausalLM, seed=1)
    (tmp_path / "mean").mkdir()
    save_with_old_keys(first, tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    resumed = tiny(GPT1ForCausalLM, seed=2)
    load_weights(resumed, tmp_path / "first")
    torch.testing.assert_close(resumed.state_dict(), first.state_dict(), rtol=0, atol=0)
    average_weights([tmp_path / "first", tmp_path / "second"], tmp_path / "mean", first.rename_old_keys)
    load_weights(resumed, tmp_path / "mean")
    for key, tensor in resumed.state_dict().items():
        torch.testing.assert_close(tensor, (first.state_dict()[key] + second.state_dict()[key]) / 2)


@pytest.mark.parametrize("model_class", CLASSES)
def test_whichever_class_is_saved_the_code_of_every_class_is_in_the_folder(model_class, tmp_path):
    tiny(model_class).save_pretrained(tmp_path)
    named = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert len(named) == 6
    for name in named.values():
        module, class_name = name.split(".")
        assert f"class {class_name}(" in (tmp_path / f"{module}.py").read_text()
