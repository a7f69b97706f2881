"""`--quantization int8`: the product itself, every model, the commands, and what is refused."""

import json
import os
import subprocess
import sys

import pytest
import torch
from exported_models import ending_tokenizer, run
from tiny_models import MODELS, TRANSLATORS, tiny_batch, tiny_model, tiny_tokenizer
from torch import nn

from gpt1_scratch import plain_forms as plain_gpt1
from gpt1_scratch.finetuning.tasks import Task, config_of_task
from papers_to_gpt import back_translate, classify, generate_text, score_text, score_translation, translate
from papers_to_gpt.engine.model_folder import ENGINES, EXPORT_FILE
from papers_to_gpt.engine.quantization import Int8Linear, check_int8, quantize_int8
from seq2seq_scratch import plain_forms as plain_translators
from seq2seq_scratch.tokenization import save_tokenizers

# Every layer that multiplies has 32 columns or more.
WIDER = {
    "rnn_seq2seq": {"embedding_size": 32, "hidden_size": 32},
    "bahdanau": {"embedding_size": 32, "hidden_size": 32, "attention_size": 32, "maxout_size": 32},
    "transformer": {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}
WORDS = 40  # the softmax is wide as well
# The largest error of a logit, as a share of the largest one; weights of random models are far from round numbers.
TOLERANCE = 0.08
FORWARD = Int8Linear.forward


@pytest.fixture
def int8():
    pytest.importorskip("torchao", reason="torchao is not installed; the extra `quantization` has it")
    try:
        check_int8()
    except ValueError as error:
        pytest.skip(str(error))


def wide_model(name, **settings):
    settings = {"vocab_size": WORDS, **({"decoder_vocab_size": WORDS} if name in TRANSLATORS else {}), **settings}
    return tiny_model(name, **WIDER.get(name, {"hidden_size": 32}), **settings)


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_that_of_the_rounded_numbers_whatever_the_other_rows(int8, bias):
    torch.manual_seed(0)
    layer, rows = nn.Linear(48, 40, bias=bias), torch.randn(3, 5, 48)
    rows[1, 2], rows[2] = 0.0, 1000 * rows[2]
    quantized = Int8Linear(layer)
    step = layer.weight.detach().double().abs().amax(1, keepdim=True)
    rounded = quantized.weight.double()
    assert (rounded - layer.weight).abs().max() <= 0.51 * (step / (quantized.largest + 0.5)).max()
    assert len(torch.unique(torch.round(quantized.weight / quantized.scale[:, None]))) > 100
    unit = rows.double().abs().amax(-1, keepdim=True) / quantized.largest
    inputs = torch.where(unit == 0, 0.0, torch.floor(rows.double() / unit.clamp(min=1e-30) + 0.5) * unit)
    expected = inputs @ rounded.T + (layer.bias.double() if bias else 0.0)
    found = quantized(rows)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quantized(rows[:1]), found[:1], atol=0, rtol=0)
    torch.testing.assert_close(quantized(rows[2, 3]), found[2, 3], atol=0, rtol=0)
    assert (found - layer(rows)).norm() < 0.03 * layer(rows).norm()
    assert quantized(rows.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", MODELS)
def test_every_wide_layer_of_every_model_is_quantized_and_its_outputs_stay_close(int8, name):
    model, quantized = wide_model(name), wide_model(name)
    wide = {key for key, each in model.named_modules() if isinstance(each, nn.Linear) and min(each.weight.shape) >= 32}
    counts = quantize_int8(quantized)
    assert {key for key, each in quantized.named_modules() if isinstance(each, Int8Linear)} == wide != set()
    assert counts.layers == len(wide) and f"Quantized {len(wide)} linear layers" in str(counts)
    assert counts.parameters == sum(model.get_submodule(key).weight.numel() for key in wide)
    batch = tiny_batch(name)
    with torch.no_grad():
        expected, found = model(**batch), quantized(**batch)
    assert 0 < (found.logits - expected.logits).abs().max() < TOLERANCE * expected.logits.abs().max()
    torch.testing.assert_close(found.loss, expected.loss, atol=0.05, rtol=0.02)
    assert set(quantized.state_dict()) == set(model.state_dict())


@pytest.mark.parametrize("name", [*TRANSLATORS, "causal_lm"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_fast_paths_multiply_the_integers_too(int8, name, num_beams):
    model, quantized = wide_model(name), wide_model(name)
    quantize_int8(quantized)
    batch = tiny_batch(name)
    inputs = {"input_ids": batch["input_ids"][:, :3], "attention_mask": batch["attention_mask"][:, :3]}
    search = {"max_new_tokens": 5, "do_sample": False, "num_beams": num_beams}
    search |= {"output_logits": True, "return_dict_in_generate": True}
    fast = quantized.generate(**inputs, **search)
    with plain_gpt1(), plain_translators():
        plain = quantized.generate(**inputs, **search)
    exact = model.generate(**inputs, **search)
    assert torch.equal(fast.sequences, plain.sequences)
    # Rounding the inputs turns the last digits of two forms into a step of an integer.
    largest = exact.logits[0].abs().max()
    assert (fast.logits[0] - plain.logits[0]).abs().max() < 0.01 * largest
    assert 0 < (fast.logits[0] - exact.logits[0]).abs().max() < TOLERANCE * largest


def test_a_recurrent_step_calls_its_quantized_layers(int8, monkeypatch):
    model = wide_model("bahdanau")
    quantize_int8(model)
    calls = []
    for layer in (model.decoder.attention.query, model.decoder.state_gates, model.decoder.candidate):
        layer.register_forward_hook(lambda layer, inputs, output: calls.append(inputs[0].shape))
    model.generate(torch.tensor([[4, 5, 3]]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert calls == [(1, 32)] * 12  # three layers at each of four tokens, never on an identity matrix


@pytest.fixture
def folders(tmp_path):
    """A translator, a language model and a classifier, as the scripts load them."""
    source = ending_tokenizer()
    wide_model("transformer").save_pretrained(tmp_path / "translator")
    save_tokenizers(tmp_path / "translator", source, source)
    task = config_of_task(Task("mine", "classification", ("text",), ("a", "b", "c"), ("accuracy",)))
    for name in ("causal_lm", "classification"):
        wide_model(name, **(task if name == "classification" else {})).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "in.txt").write_text("word4 word5 word9\nword7 word12\n")
    (tmp_path / "test.tsv").write_text("source\ttarget\nword4 word5\tword9 word4\nword7\tword12\n")
    return tmp_path


def commands(folder):
    lines = ["--input_file", folder / "in.txt"]
    columns = ["--source_column", "source", "--target_column", "target", "--output_dir", folder / "scores"]
    return {
        translate: ["--model_name_or_path", folder / "translator", *lines, "--with_scores", "true"],
        score_translation: [
            *("--model_name_or_path", folder / "translator", "--test_file", folder / "test.tsv", *columns),
            *("--force_decode", "true"),
        ],
        generate_text: [
            *("--model_name_or_path", folder / "causal_lm", "--prompt_file", folder / "in.txt"),
            *("--max_new_tokens", 5, "--do_sample", "false"),
        ],
        score_text: ["--model_name_or_path", folder / "causal_lm", *lines],
        classify: ["--model_name_or_path", folder / "classification", *lines],
    }


@pytest.mark.parametrize("script", [translate, score_translation, generate_text, score_text, classify])
def test_the_commands_run_in_int8_and_say_what_is_quantized(int8, script, folders, monkeypatch, capsys):
    arguments = commands(folders)[script]
    shown = []
    for extra in ([], ["--quantization", "int8"]):
        assert run(script, monkeypatch, *arguments, *extra) in (0, None)
        output, errors = capsys.readouterr()
        if script is score_translation:
            output = (folders / "scores" / "test_forced_scores.jsonl").read_text()
        shown.append(output)
        assert ("linear layers with" in errors) is bool(extra)
    assert shown[0].count("\n") == shown[1].count("\n") == 2 + (script is classify)  # its header
    assert script is generate_text or shown[0] != shown[1]


@pytest.mark.parametrize("script", [score_translation, back_translate])
def test_translations_that_are_scored_or_trained_on_are_of_the_quantized_model(int8, script, folders, monkeypatch):
    called, arguments = [], ["--model_name_or_path", folders / "translator", "--num_beams", 1, "--bf16", "false"]
    if script is score_translation:
        arguments += ["--test_file", folders / "test.tsv", "--source_column", "source", "--target_column", "target"]
        arguments += ["--output_dir", folders / "scores"]
    else:
        arguments += ["--input_file", folders / "in.txt", "--output_file", folders / "pairs.tsv"]
    monkeypatch.setattr(Int8Linear, "forward", lambda self, rows: called.append(self) or FORWARD(self, rows))
    assert run(script, monkeypatch, *arguments) in (0, None) and not called
    if script is back_translate:
        (folders / "pairs.tsv").unlink()
    assert run(script, monkeypatch, *arguments, "--quantization", "int8") in (0, None) and called


def test_an_interrupted_output_is_not_continued_in_other_numbers(int8, folders, monkeypatch, capsys):
    from papers_to_gpt.gpt1 import text_scoring

    monkeypatch.setattr(text_scoring, "LINES_AT_A_TIME", 1)
    arguments = [*commands(folders)[score_text], "--output_file", folders / "out.jsonl"]
    describe = text_scoring.describe

    def stop(index, *rest):
        if index:
            raise KeyboardInterrupt
        return describe(index, *rest)

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(text_scoring, "describe", stop)
        interrupted.setattr(sys, "argv", ["score_text.py", *map(str, arguments)])
        score_text.main()
    assert run(score_text, monkeypatch, *arguments, "--resume", "true", "--quantization", "int8") == 2
    assert "weights of the model was" in capsys.readouterr().err


def test_what_cannot_be_quantized_is_refused(int8, folders, monkeypatch, capsys):
    arguments = [*commands(folders)[generate_text], "--quantization", "int8"]
    assert run(generate_text, monkeypatch, *arguments, "--bf16", "true") == 2
    assert "Leave one of them out" in capsys.readouterr().err
    record = {"kind": "language_model", "model_type": "gpt1", "source": "runs/mine", "quantization": "float32"}
    for engine in ENGINES:  # the advice is for the engine of the export, which runs the model
        record |= {"engine": engine, "positions": 64, "compared": ""}
        (folders / "causal_lm" / EXPORT_FILE).write_text(json.dumps(record))
        assert run(generate_text, monkeypatch, *arguments) == 2
        assert f"export.py runs/mine --format {engine} --quantization int8" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no linear layer with 32 inputs"):
        quantize_int8(tiny_model("causal_lm"))
    with pytest.raises(ValueError, match="the model runs on meta"):
        quantize_int8(wide_model("causal_lm").to("meta"))


@pytest.mark.parametrize(
    ("before", "environment", "message"),
    [
        ("import importlib.util as u; u.find_spec = lambda *a: None", {}, "pip install torchao"),
        ("", {"ATEN_CPU_CAPABILITY": "default"}, "needs an x86 processor with AVX2"),
    ],
)
def test_a_machine_that_lacks_a_part_is_told_which(int8, before, environment, message):
    code = f"{before}\nfrom papers_to_gpt.engine.quantization import check_int8\ncheck_int8()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment)
    assert result.returncode == 1 and message in result.stderr, result.stderr
