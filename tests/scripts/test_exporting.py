"""Exports to other engines: they compute what the model computes, and are run by the same commands."""

import json
import re
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from exported_models import SOURCES, run, save_gpt1, save_translator, scored_translations
from tiny_models import VOCABULARY
from transformers import GenerationConfig, OpenAIGPTLMHeadModel

from papers_to_gpt import export, generate_text, translate
from papers_to_gpt.engine.model_folder import EXPORT_FILE
from papers_to_gpt.settings.exporting import Quantization
from seq2seq_scratch.data.forced_scores import score_translations
from seq2seq_scratch.translation import load_translator
from seq2seq_scratch.translation import translate as translate_here

TO_CTRANSLATE2 = ["--format", "ctranslate2", "--output_dir"]


@pytest.fixture
def ctranslate2():
    return pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed; the extra `ctranslate2` has it")


OPTIONS = [
    {},
    {"pre_norm": True, "position_embedding_type": "learned", "activation_function": "gelu_new"},
    {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "activation_function": "gelu"},
    {"encoder_layers": 1, "encoder_attention_heads": 4, "vocab_size": VOCABULARY + 3, "decoder_vocab_size": None},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_transformer_in_ctranslate2_translates_and_scores_as_here(tmp_path, monkeypatch, ctranslate2, options):
    separate = not options.get("share_encoder_decoder_embeddings", True)
    model = save_translator(tmp_path / "model", separate=separate, **options)
    assert run(export, monkeypatch, model, *TO_CTRANSLATE2, tmp_path / "exported") in (0, None)
    from papers_to_gpt.exporting.ctranslate2_translator import ExportedTranslator

    exported, ours = ExportedTranslator(tmp_path / "exported"), load_translator(model)
    assert (exported.source_tokenizer is exported.target_tokenizer) is not separate
    for search in ({"num_beams": 1}, {"num_beams": 4, "length_penalty": 0.6, "num_return_sequences": 2}):
        search |= {"with_scores": True, "max_new_tokens": 8}
        found = exported.translate(SOURCES, **search)
        for mine, other in zip(translate_here(*ours, SOURCES, **search), found, strict=True):
            assert mine[0].text == other[0].text
            assert mine[0].score == pytest.approx(other[0].score, abs=1e-5)
    forced = score_translations(*ours, SOURCES, SOURCES[::-1])
    ids = [ours[1](text).input_ids for text in SOURCES]
    tokens = [ours[1].convert_ids_to_tokens(row) for row in ids]
    for mine, other in zip(forced, exported.score(tokens, [row[:-1] for row in tokens[::-1]]), strict=True):
        assert list(mine.log_probabilities) == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False, "layer_norm_eps": 1e-2, "eos_token_id": None}])
def test_gpt1_in_ctranslate2_continues_and_scores_as_here(tmp_path, monkeypatch, ctranslate2, options):
    model, folder = save_gpt1(tmp_path / "model", **options)
    assert run(export, monkeypatch, folder, *TO_CTRANSLATE2, tmp_path / "exported") in (0, None)
    from papers_to_gpt.exporting.ctranslate2_generator import ExportedGenerator

    exported = ExportedGenerator(tmp_path / "exported")
    ids = [4, 9, 7, 15, 6]
    expected = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0].tolist()
    assert exported.generate(ids, 20) == [expected]
    with torch.inference_mode():
        logits = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    tokens = [exported.tokenizer.convert_ids_to_tokens(ids)]
    theirs = torch.from_numpy(np.array(exported.engine.forward_batch(tokens, return_log_probs=True)))
    assert torch.allclose(logits, theirs[0], atol=1e-5)


def test_the_commands_run_an_export_as_they_run_its_model(tmp_path, monkeypatch, ctranslate2, capsys):
    model = save_translator(tmp_path / "model")
    run(export, monkeypatch, model, *TO_CTRANSLATE2, tmp_path / "exact")
    (tmp_path / "in.txt").write_text("\n".join([*SOURCES, ""]) + "\n")
    search = ["--num_beams", "3", "--num_return_sequences", "2", "--max_new_tokens", "6", "--input_file"]
    written = []
    for folder, options in ((model, ["--bf16", "false"]), (tmp_path / "exact", [])):
        output = tmp_path / "out.txt"
        arguments = ["--model_name_or_path", folder, *search, tmp_path / "in.txt", "--output_file", output, *options]
        assert run(translate, monkeypatch, *arguments) in (0, None)
        written.append(output.read_text())
        output.unlink()
    assert written[0] == written[1] and written[0].count("\n") == 2 * (len(SOURCES) + 1)
    scored = scored_translations(monkeypatch, tmp_path, model, "--bf16", "false")
    assert scored == scored_translations(monkeypatch, tmp_path, tmp_path / "exact") and len(scored) == 2
    capsys.readouterr()
    for setting in ("--with_alignments", "--bf16"):
        assert run(translate, monkeypatch, "--model_name_or_path", tmp_path / "exact", setting, "true") == 2
        assert setting[2:] in capsys.readouterr().err
    assert run(translate, monkeypatch, "--model_name_or_path", tmp_path / "exact", model) == 2
    assert "no ensembles" in capsys.readouterr().err
    assert run(generate_text, monkeypatch, "--model_name_or_path", tmp_path / "exact") == 2
    assert "for CTranslate2, which this script cannot run; it runs in" in capsys.readouterr().err


def test_int8_is_a_quarter_of_the_size_and_nearly_as_probable(tmp_path, monkeypatch, ctranslate2, capsys):
    model = save_translator(tmp_path / "model", scale=0.5, d_model=64, encoder_ffn_dim=256, decoder_ffn_dim=256)
    sizes = []
    for number in ("float32", "int8"):
        target = tmp_path / number
        assert run(export, monkeypatch, model, *TO_CTRANSLATE2, target, "--quantization", number) in (0, None)
        sizes.append((target / "model.bin").stat().st_size)
        (mean,) = re.findall(r"differ by (\S+) on average", capsys.readouterr().out)
        assert float(mean) < {"float32": 1e-5, "int8": 0.5}[number]
    assert float(mean) > 1e-4  # it is not fp32 under another name
    table = 1024 * 64 * 4  # positions stay in fp32
    assert sizes[1] - table < 0.4 * (sizes[0] - table)


@pytest.mark.parametrize("kind", ["translator", "language_model"])
def test_all_numbers_that_the_processor_has_are_those_that_the_engine_computes_with(
    tmp_path, monkeypatch, ctranslate2, capsys, kind
):
    from papers_to_gpt.exporting.loading import open_export

    model = save_translator(tmp_path / "model") if kind == "translator" else save_gpt1(tmp_path / "model")[1]
    supported = ctranslate2.get_supported_compute_types("cpu") & set(get_args(Quantization))
    assert {"float32", "int8"} <= supported
    for number in supported:
        target = tmp_path / number
        assert run(export, monkeypatch, model, *TO_CTRANSLATE2, target, "--quantization", number) in (0, None)
        (mean,) = re.findall(r"differ by (\S+) on average", capsys.readouterr().out)
        assert float(mean) < 0.1
        assert open_export(target)[0].engine.compute_type.startswith(number)


def test_generate_text_prints_what_it_prints_with_the_model(tmp_path, monkeypatch, ctranslate2, capsys):
    _, model = save_gpt1(tmp_path / "model")
    run(export, monkeypatch, model, *TO_CTRANSLATE2, tmp_path / "exported")
    for extra in ([], ["--num_beams", "2"]):
        shown = []
        for folder, options in ((model, ["--bf16", "false"]), (str(tmp_path / "exported"), [])):
            capsys.readouterr()
            arguments = ["--model_name_or_path", folder, "--prompt", "word4 word9", "--max_new_tokens", "9"]
            assert run(generate_text, monkeypatch, *arguments, "--do_sample", "false", *extra, *options) in (0, None)
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1] != ""
    sampled = []
    for _ in range(2):
        capsys.readouterr()
        arguments = ["--model_name_or_path", tmp_path / "exported", "--prompt", "word4", "--seed", "3"]
        assert run(generate_text, monkeypatch, *arguments) in (0, None)
        sampled.append(capsys.readouterr().out)
    assert sampled[0] == sampled[1] != ""


@pytest.mark.parametrize(
    ("kind", "options", "saved"),
    [
        ("translator", {}, {}),
        ("translator", {"pre_norm": True, "position_embedding_type": "learned"}, {}),  # fewer than it may write
        ("translator", {}, {"max_new_tokens": 7, "min_new_tokens": 3, "num_beams": 2, "length_penalty": 0.0}),
        ("translator", {}, {"max_length": 9, "eos_token_id": [3, 15], "min_new_tokens": 4, "suppress_tokens": [9]}),
        ("translator", {}, {"max_length": 9, "do_sample": True, "top_k": 1}),
        ("language_model", {}, {"no_repeat_ngram_size": 2, "eos_token_id": [3, 9]}),
        ("language_model", {"max_position_embeddings": 24, "eos_token_id": None}, {}),
    ],
)
def test_the_python_code_of_a_card_runs_as_it_stands(tmp_path, monkeypatch, ctranslate2, capsys, kind, options, saved):
    save = save_translator if kind == "translator" else save_gpt1
    save(tmp_path / "model", **options)
    defaults = GenerationConfig.from_pretrained(tmp_path / "model")
    defaults.update(**saved)
    defaults.save_pretrained(tmp_path / "model")
    run(export, monkeypatch, tmp_path / "model", *TO_CTRANSLATE2, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "differ by" in card and json.loads((tmp_path / "exported" / EXPORT_FILE).read_text())["kind"] == kind
    capsys.readouterr()
    exec(re.search(r"```python\n(.*?)```", card, re.S)[1], {})
    shown = capsys.readouterr().out
    assert shown
    if kind == "translator" and saved:  # what translate.py writes, by the same search
        (tmp_path / "in.txt").write_text("A sentence.\n")
        arguments = ["--model_name_or_path", tmp_path / "exported", "--input_file", tmp_path / "in.txt"]
        assert run(translate, monkeypatch, *arguments) in (0, None)
        assert capsys.readouterr().out == shown != "\n"


def test_an_export_that_differs_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, ctranslate2, capsys):
    from papers_to_gpt.exporting import ctranslate2_specs

    model = save_translator(tmp_path / "model")
    monkeypatch.setattr(ctranslate2_specs, "LAYER_NORM_EPS", 0.5)
    assert run(export, monkeypatch, model, *TO_CTRANSLATE2, tmp_path / "exported") == 2
    assert "differs from the model" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transformer", {"position_embedding_type": "absent"}, "position_embedding_type is absent"),
        ("transformer", {"d_k": 3, "d_v": 3}, "d_k is 3"),
        ("bahdanau", {}, "the attention model"),
        ("rnn_seq2seq", {}, "an LSTM"),
        ("causal_lm", {"lstm_size": 8}, "lstm_size is 8"),
        ("causal_lm", {"intermediate_size": 24}, "It can be exported to ctranslate2 and onnx."),
        ("masked_lm", {}, "does not continue text"),
        ("classification", {}, "does not continue text"),
    ],
)
def test_a_model_without_the_format_is_refused(tmp_path, monkeypatch, capsys, name, options, message):
    is_gpt1 = name in ("causal_lm", "masked_lm", "classification")
    save = save_gpt1 if is_gpt1 else save_translator
    save(tmp_path / "model", name, **options)
    form = "openai-gpt" if "intermediate_size" in options else "ctranslate2"
    assert run(export, monkeypatch, tmp_path / "model", "--format", form, "--output_dir", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_openai_gpt_is_a_format_too(tmp_path, monkeypatch, capsys):
    model, folder = save_gpt1(tmp_path / "model", intermediate_size=32)
    model.generation_config.update(num_beams=2, max_new_tokens=9)
    model.generation_config.save_pretrained(folder)
    arguments = [folder, "--format", "openai-gpt", "--output_dir", tmp_path / "out"]
    assert run(export, monkeypatch, *arguments) in (0, None)
    exported = OpenAIGPTLMHeadModel.from_pretrained(tmp_path / "out")
    prompt = torch.tensor([[4, 9, 7, 15, 6]])
    assert exported.generate(prompt).tolist() == model.generate(prompt).tolist()  # by the saved search
    assert run(export, monkeypatch, *arguments) == 2
    assert "exists and is not empty" in capsys.readouterr().err


def test_the_card_of_openai_gpt_runs_within_the_positions_and_warns_of_batches(tmp_path, monkeypatch, capsys):
    sizes = {"intermediate_size": 32, "max_position_embeddings": 24, "eos_token_id": None}
    model, folder = save_gpt1(tmp_path / "model", **sizes)
    assert run(export, monkeypatch, folder, "--format", "openai-gpt", "--output_dir", tmp_path / "out") in (0, None)
    card = (tmp_path / "out" / "README.md").read_text()
    capsys.readouterr()
    exec(re.search(r"```python\n(.*?)```", card, re.S)[1].replace("Once upon a time", "word4 word9"), {})
    assert re.match(r"word4 word9 \S+( \S+)*\n$", capsys.readouterr().out)  # with a space before the new text
    assert "at most 24 tokens" in card and "continue one text at a time" in " ".join(card.split())
    padded = {"input_ids": torch.tensor([[1, 1, 4, 9]]), "attention_mask": torch.tensor([[0, 0, 1, 1]])}
    ours, theirs = model, OpenAIGPTLMHeadModel.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        expected = ours(torch.tensor([[4, 9]])).logits[0, -1]
        assert torch.allclose(ours(**padded).logits[0, -1], expected, atol=1e-5)
        assert not torch.allclose(theirs(**padded).logits[0, -1], expected, atol=1e-2)


def test_lines_without_visible_text_are_no_samples(tmp_path, monkeypatch, capsys):
    _, model = save_gpt1(tmp_path / "model", intermediate_size=32)
    (tmp_path / "samples.txt").write_text("word4 word9\n\u200b\n\nword7\n")
    arguments = [model, "--format", "openai-gpt", "--sample_file", tmp_path / "samples.txt", "--output_dir"]
    assert run(export, monkeypatch, *arguments, tmp_path / "out") in (0, None)
    assert "the logits of 3 tokens differ" in capsys.readouterr().out
    (tmp_path / "samples.txt").write_text("\u200b\n")
    assert run(export, monkeypatch, *arguments, tmp_path / "other") == 2
    assert "has no text" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("form", ["openai-gpt", "marian", "pegasus", "blenderbot"])
def test_a_class_of_the_library_has_no_other_numbers(form):
    with pytest.raises(ValueError, match=f"quantization is int8, but the format {form} has no such numbers"):
        export.parse(["model", "--format", form, "--output_dir", "out", "--quantization", "int8"])


def test_missing_parts_are_named(tmp_path, monkeypatch, capsys, ctranslate2):
    model = save_translator(tmp_path / "model")
    missing = [each for each in ("int16", "float16") if each not in ctranslate2.get_supported_compute_types("cpu")]
    if missing:
        arguments = [model, *TO_CTRANSLATE2, tmp_path / "out", "--quantization", missing[0]]
        assert run(export, monkeypatch, *arguments) == 2
        assert f"quantization is {missing[0]}" in capsys.readouterr().err
    (tmp_path / "model" / "tokenizer.json").unlink()
    assert run(export, monkeypatch, model, *TO_CTRANSLATE2, tmp_path / "out") == 2
    assert "no tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(("form", "package"), [("ctranslate2", "ctranslate2"), ("onnx", "onnxruntime")])
def test_without_the_package_the_message_has_the_pip_line(tmp_path, form, package):
    model = save_translator(tmp_path / "model")
    code = (
        f"import sys; sys.modules['{package}'] = None; import importlib.util as u; find = u.find_spec;"
        f"u.find_spec = lambda name, *rest: None if name == '{package}' else find(name, *rest);"
        "sys.argv = ['recipes/export.py', *sys.argv[1:]];"
        "from papers_to_gpt import export; from papers_to_gpt.settings.arguments import run_script;"
        "run_script(export.main)"
    )
    command = [sys.executable, "-c", code, model, "--format", form, "--output_dir", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    # Where the others are missing too, they are named with it.
    assert re.search(rf"pip install .*\b{package}\b.*\(or the extra `{form}`", result.stderr)
