"""Quantizers replace every linear layer of every model, and the outputs stay close."""

import pytest
import torch
from tiny_models import MODELS, TRANSLATORS, tiny_batch, tiny_model
from torch import nn

from seq2seq_scratch.seq2seq_common import effective_weight, has_plain_weight

WIDER = {  # torchao needs 32 columns
    "rnn_seq2seq": {"embedding_size": 32, "hidden_size": 32},
    "bahdanau": {"embedding_size": 32, "hidden_size": 32, "attention_size": 32, "maxout_size": 32},
    "transformer": {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}
# The largest error of a logit, as a share of the largest logit: 8-bit weights of random models leave up to 5 percent.
TOLERANCE = 0.08


def wider_model(name):
    return tiny_model(name, **WIDER.get(name, {"hidden_size": 32}))


def check_outputs(name, quantized, model):
    """Compares logits, losses in both modes and, if the model generates, the first scores and a beam search."""
    batch = tiny_batch(name)
    with torch.no_grad():
        expected, found = model(**batch), quantized.eval()(**batch)
        largest = expected.logits.abs().max()
        assert 0 < (found.logits - expected.logits).abs().max() < TOLERANCE * largest
        torch.testing.assert_close(found.loss, expected.loss, atol=0.05, rtol=0.02)
        # Heads for tasks add the language model's loss; all dropout is 0.
        expected, found = (each.train()(**batch).loss for each in (model, quantized))
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)
    model.eval(), quantized.eval()
    if model.can_generate():
        inputs = {"input_ids": batch["input_ids"][:, :3], "attention_mask": batch["attention_mask"][:, :3]}
        settings = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        expected, found = (each.generate(**inputs, **settings).logits[0] for each in (model, quantized))
        assert 0 < (found - expected).abs().max() < TOLERANCE * expected.abs().max()
        assert quantized.generate(**inputs, num_beams=2, max_new_tokens=4, do_sample=False).shape[0] == 8


def linear_layers(model):
    return {key for key, module in model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize("name", MODELS)
def test_dynamic_quantization_replaces_every_linear_layer(name):
    model = wider_model(name)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    replaced = {key for key, m in quantized.named_modules() if type(m) is torch.ao.nn.quantized.dynamic.Linear}
    assert replaced == linear_layers(model) and not linear_layers(quantized)
    check_outputs(name, quantized, model)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"rnn_seq2seq"}))  # whose one linear layer is the softmax
def test_bitsandbytes_replaces_every_linear_layer_but_the_softmax(name, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    model = wider_model(name)
    model.save_pretrained(tmp_path)
    settings = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": "cpu"}
    quantized = type(model).from_pretrained(tmp_path, **settings)
    left = {key for key, module in quantized.named_modules() if type(module) is nn.Linear}
    assert linear_layers(quantized) == linear_layers(model)
    assert left <= {"lm_head"} and len(linear_layers(model)) > 8
    check_outputs(name, quantized, model)


@pytest.mark.parametrize("name", MODELS)
def test_torchao_quantizes_the_weights_of_every_linear_layer(name):
    torchao = pytest.importorskip("torchao.quantization")
    model, quantized = wider_model(name), wider_model(name)
    torchao.quantize_(quantized, torchao.Int8WeightOnlyConfig())
    layers = [quantized.get_submodule(key) for key in linear_layers(model)]
    assert all(type(layer.weight) is not nn.Parameter for layer in layers)
    check_outputs(name, quantized, model)


@pytest.mark.parametrize("name", MODELS)
def test_quanto_replaces_every_linear_layer(name):
    quanto = pytest.importorskip("optimum.quanto")
    model, quantized = wider_model(name), wider_model(name)
    quanto.quantize(quantized, weights=quanto.qint8)
    quanto.freeze(quantized)
    layers = [quantized.get_submodule(key) for key in linear_layers(model)]
    assert all(isinstance(layer, quanto.QLinear) for layer in layers)
    check_outputs(name, quantized, model)


def test_the_effective_weight_is_that_of_a_plain_layer_and_the_dequantized_one_of_another():
    torch.manual_seed(0)
    layer, rows = nn.Linear(6, 5, bias=False), torch.randn(3, 6)
    assert has_plain_weight(layer) and effective_weight(layer, rows) is layer.weight
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, torch.qint8)[0]
    assert not has_plain_weight(quantized)
    with torch.autocast("cpu", torch.bfloat16):
        found = effective_weight(quantized, rows)
    torch.testing.assert_close(found, quantized.weight().dequantize())
    torch.testing.assert_close(found, layer.weight, atol=0.01, rtol=0)


@pytest.mark.parametrize("name", TRANSLATORS)
def test_r_drop_and_label_smoothing_reach_a_quantized_softmax(name):
    model = wider_model(name).train()
    batch = tiny_batch(name, count=4)
    batch = {key: value.repeat(2, 1) for key, value in batch.items() if key in ("input_ids", "labels")}
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    settings = {"smoothing": 0.1, "r_drop_weight": 1.0}
    with torch.no_grad():
        torch.testing.assert_close(
            quantized(**batch, **settings).loss, model(**batch, **settings).loss, atol=0.05, rtol=0.02
        )
