"""`torch.export`, ONNX and `torch.compile` of every model's forward pass, against the pass itself."""

import pytest
import torch
from tiny_models import MODELS, PAD, TRANSLATORS, tiny_batch, tiny_model
from torch.export import Dim

# Loops over time become part of an exported graph, one copy of a step after another, so its length is fixed.
# They break a compiled one, where unrolling them would gain nothing.
RECURRENT = {"rnn_seq2seq", "bahdanau"}
ONE_LAYER = {"transformer": {"encoder_layers": 1, "decoder_layers": 1}, "bahdanau": {}}


def inputs_of(name, rows=slice(None), repeats=1):
    """Returns inputs padded on the right, for translators with the beginning of a translation."""
    length = 3 if name in RECURRENT else 4  # so that some rows are padded
    batch = {key: value[..., :length] if value.dim() > 1 else value for key, value in tiny_batch(name).items()}
    inputs = {key: batch[key][rows] for key in ("input_ids", "attention_mask")}
    if name in TRANSLATORS:
        inputs["decoder_input_ids"] = batch["labels"][rows].masked_fill(batch["labels"][rows] == -100, PAD)
    return {key: value.repeat_interleave(repeats, dim=-1) for key, value in inputs.items()}


def settings_of(name):
    return {} if name in ("classification", "multiple_choice") else {"use_cache": False}


def one_layer(name):
    return tiny_model(name, **ONE_LAYER.get(name, {"num_hidden_layers": 1}))


@pytest.mark.parametrize("name", MODELS)
def test_the_exported_program_gives_what_the_model_gives(name):
    model, inputs = one_layer(name), inputs_of(name)
    sizes = {key: {0: Dim.AUTO, value.dim() - 1: Dim.AUTO} for key, value in inputs.items()}
    with torch.no_grad():
        program = torch.export.export(
            model, (), inputs | settings_of(name), dynamic_shapes=sizes | dict.fromkeys(settings_of(name))
        ).module()
        for rows in (slice(None), slice(2, 5)):
            for repeats in (1,) if name in RECURRENT else (1, 2):
                inputs = inputs_of(name, rows, repeats)
                torch.testing.assert_close(program(**inputs, **settings_of(name)).logits, model(**inputs).logits)


@pytest.mark.parametrize("both_orders", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_what_the_model_gives_for_batches_of_any_size(name, both_orders, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    if both_orders and name != "classification":
        pytest.skip("only the classifier reads pairs in both orders")
    model, inputs = one_layer(name), inputs_of(name)
    if both_orders:
        model.config.both_orders, model.config.delimiter_token_id = True, 7
        assert (inputs["input_ids"] == 7).any()
    sizes = {key: {0: Dim.DYNAMIC, value.dim() - 1: Dim.AUTO} for key, value in inputs.items()}
    with torch.no_grad():
        torch.onnx.export(
            model,
            (),
            tmp_path / "model.onnx",
            kwargs=inputs | settings_of(name),
            dynamic_shapes=sizes | dict.fromkeys(settings_of(name)),
            dynamo=True,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        for rows in (slice(None), slice(2, 5)):
            for repeats in (1,) if name in RECURRENT else (1, 2):
                inputs = inputs_of(name, rows, repeats)
                logits = session.run(None, {key: value.numpy() for key, value in inputs.items()})[0]
                expected = model(**inputs).logits
                torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_compiled_model_gives_what_the_model_gives(name):
    model, inputs = one_layer(name), inputs_of(name)
    torch.compiler.reset()
    # The code generator is PyTorch's own; what may fail here is the capture of the graph.
    compiled = torch.compile(model, backend="aot_eager", fullgraph=name not in RECURRENT)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs, **settings_of(name)).logits, model(**inputs).logits)
