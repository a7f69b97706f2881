"""Ways of loading that the library offers: device maps, other precisions, weights in several files."""

import json

import pytest
import torch
from accelerate import infer_auto_device_map
from tiny_models import MODELS, TRANSLATORS, tiny_batch, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves every model with its weights in several files."""
    folders = {}
    for name in MODELS:
        folders[name] = tmp_path_factory.mktemp(name)
        tiny_model(name).save_pretrained(folders[name], max_shard_size="2KB")
    return folders


def outputs_of(name, model):
    with torch.no_grad():
        return model.eval()(**tiny_batch(name))


def logits_of(name, model):
    return outputs_of(name, model).logits


@pytest.mark.parametrize("name", MODELS)
def test_weights_in_several_files_are_the_same_weights(name, saved):
    index = json.loads((saved[name] / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 1 and files == {path.name for path in saved[name].glob("*.safetensors")}
    loaded, original = MODELS[name][0].from_pretrained(saved[name]), tiny_model(name)
    # Not to the last bit: some kernels add in another order where a tensor begins at another place in memory.
    torch.testing.assert_close(logits_of(name, loaded), logits_of(name, original), atol=1e-6, rtol=1e-5)
    state = original.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_an_automatic_device_map_changes_nothing(name, saved):
    model = MODELS[name][0].from_pretrained(saved[name], device_map="auto", low_cpu_mem_usage=True)
    torch.testing.assert_close(logits_of(name, model).cpu(), logits_of(name, tiny_model(name)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_weights_give_nearly_the_same(name, saved):
    model = MODELS[name][0].from_pretrained(saved[name], dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    logits, expected = logits_of(name, model), logits_of(name, tiny_model(name))
    assert logits.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(logits.float().flatten(), expected.flatten(), dim=0) > 0.995
    if name in (*TRANSLATORS, "causal_lm"):
        batch = tiny_batch(name, 2)
        inputs = {key: batch[key][:, :3] for key in ("input_ids", "attention_mask")}
        for beams in (1, 3):
            sequences = model.generate(**inputs, num_beams=beams, max_new_tokens=4, do_sample=False)
            assert sequences.shape[0] == 2


def test_a_device_map_leaves_the_attention_models_decoder_in_one_place():
    model = tiny_model("bahdanau")
    size = sum(parameter.nbytes for parameter in model.parameters())
    # On the first device the library leaves room for whatever layer has to come in: here it gets nothing.
    memory = {0: 0, 1: int(0.7 * size), 2: size}
    device_map = infer_auto_device_map(model, memory, no_split_module_classes=model._no_split_modules)
    assert device_map == {"encoder": 1, "decoder": 2, "lm_head": 2}


# The attention model's decoder reads weights of its layers without calling them, so they have to be in memory.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "bahdanau"])
def test_weights_offloaded_to_disk_give_the_same_results(name, saved, tmp_path):
    """Offloaded layers load their weights when they are called, so code must not use the weights otherwise."""
    largest = max(parameter.nbytes for parameter in tiny_model(name).parameters())
    model = MODELS[name][0].from_pretrained(
        saved[name], device_map="auto", max_memory={"cpu": 4 * largest}, offload_folder=tmp_path
    )
    assert "disk" in model.hf_device_map.values()
    outputs, expected = (outputs_of(name, each) for each in (model, tiny_model(name)))
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.loss, expected.loss)
