"""Transformers exported as classes of transformers, which load and translate without this project's code."""

import json
import re
import subprocess
import sys

import pytest
import torch
from exported_models import ending_tokenizer, run
from tiny_models import VOCABULARY, tiny_model

from papers_to_gpt import export, translate
from papers_to_gpt.exporting import library_classes
from seq2seq_scratch.tokenization import save_tokenizers

SEPARATE = {"share_encoder_decoder_embeddings": False}
LEARNED = {"pre_norm": True, "position_embedding_type": "learned"}
EXACT = [
    ("marian", {}),
    ("marian", SEPARATE | {"activation_function": "gelu", "encoder_layers": 1}),
    ("marian", SEPARATE | {"tie_word_embeddings": False, "vocab_size": VOCABULARY + 3, "encoder_attention_heads": 4}),
    ("pegasus", {"pre_norm": True, "decoder_layers": 1}),
    ("blenderbot", LEARNED | {"activation_function": "gelu_new"}),
]


def save(folder, **options):
    model = tiny_model("transformer", **options)
    model.generation_config.update(num_beams=2, max_new_tokens=9)
    model.save_pretrained(folder)
    tokenizers = [ending_tokenizer(), ending_tokenizer()]
    save_tokenizers(folder, tokenizers[0], tokenizers[options.get("vocab_size", VOCABULARY) > VOCABULARY])
    return model


@pytest.mark.parametrize(("name", "options"), EXACT)
def test_the_class_has_the_logits_and_translations_of_the_model(tmp_path, monkeypatch, capsys, name, options):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = save(tmp_path / "model", **options)
    arguments = [tmp_path / "model", "--format", name, "--output_dir", tmp_path / "out"]
    assert run(export, monkeypatch, *arguments) in (0, None)
    assert "32 of 32 translations, greedy and with 4 beams, are equal" in capsys.readouterr().out
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert loaded.config.model_type == name and type(loaded).__module__.startswith("transformers.models.")
    assert not list((tmp_path / "out").glob("*.py"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    inputs = tokenizer(["word4 word9 word7", "word11"], padding=True, return_tensors="pt")
    assert inputs.input_ids.tolist() == [[4, 9, 7, 3], [11, 3, 1, 1]]
    target = torch.tensor([[2, 5, 6, 9, 4], [2, 8, 12, 3, 1]])
    with torch.no_grad():
        expected, found = (each(**inputs, decoder_input_ids=target).logits for each in (model, loaded))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    greedy = {"num_beams": 1, "max_new_tokens": 12}
    assert torch.equal(loaded.generate(**inputs, **greedy), model.generate(**inputs, **greedy))
    assert (loaded.generation_config.num_beams, loaded.generation_config.max_new_tokens) == (2, 9)


@pytest.mark.parametrize(("name", "options"), [EXACT[2], EXACT[3]])
def test_the_code_of_the_card_runs_where_this_project_is_not(tmp_path, monkeypatch, name, options):
    save(tmp_path / "model", **options)
    monkeypatch.chdir(tmp_path)
    run(export, monkeypatch, "model", "--format", name, "--output_dir", "out")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)[1]
    refuse = "import sys; sys.modules['seq2seq_scratch'] = sys.modules['papers_to_gpt'] = None\n"
    result = subprocess.run([sys.executable, "-c", refuse + code], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith("["), result.stderr


@pytest.mark.parametrize(("name", "options"), [EXACT[0], EXACT[3], EXACT[4]])
def test_the_card_says_that_the_converter_of_ctranslate2_is_not_for_it(tmp_path, monkeypatch, name, options):
    save(tmp_path / "model", **options)
    run(export, monkeypatch, tmp_path / "model", "--format", name, "--output_dir", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Do not convert this folder with CTranslate2's own converter." in card
    assert "export.py model --format ctranslate2 --output_dir FOLDER" in card
    ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed; an extra has it")
    from ctranslate2.converters import TransformersConverter

    with pytest.raises((ValueError, AttributeError), match="expected a vocabulary|normalize_before|No conversion is"):
        TransformersConverter(str(tmp_path / "out")).convert(str(tmp_path / "converted"))
        ctranslate2.Translator(str(tmp_path / "converted"))


@pytest.mark.parametrize(
    ("saved", "limit"),
    [({}, 9), ({"max_new_tokens": None}, 63), ({"max_length": 6}, 5), ({"max_new_tokens": None, "max_length": 6}, 5)],
)
def test_the_limit_of_the_search_is_the_lowest_that_was_saved_or_that_the_positions_allow(saved, limit):
    model = tiny_model("transformer")
    model.generation_config.update(**{"num_beams": 2, "max_new_tokens": 9, **saved})
    found = library_classes.to_library_class(model, "marian").generation_config
    assert (found.num_beams, found.max_new_tokens, found.max_length) == (2, limit, None)


def test_a_tokenizer_that_pads_on_the_left_pads_on_the_right_in_the_export(tmp_path, monkeypatch):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, path = save(tmp_path / "model"), tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))
    assert AutoTokenizer.from_pretrained(tmp_path / "model").padding_side == "left"
    arguments = [tmp_path / "model", "--format", "marian", "--output_dir", tmp_path / "out"]
    assert run(export, monkeypatch, *arguments) in (0, None)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    logits = []
    for name, each in (("model", model), ("out", loaded)):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        inputs = tokenizer(["word4 word9 word7", "word11"], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits.append(each(**inputs, decoder_input_ids=torch.tensor([[2, 5], [2, 8]])).logits)
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=1e-4)


def test_a_class_that_computes_something_else_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    save(tmp_path / "model")
    kept = [name for name in library_classes.SAME_SETTINGS if name != "activation_function"]
    monkeypatch.setattr(library_classes, "SAME_SETTINGS", kept)  # ReLU becomes the class' own GELU
    assert run(export, monkeypatch, tmp_path / "model", "--format", "marian", "--output_dir", tmp_path / "out") == 2
    assert "The export differs from the model: logits by up to" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("name", "options", "message", "others"),
    [
        ("marian", {"pre_norm": True}, "pre_norm is true, and Marian normalizes after each sum", "pegasus"),
        ("pegasus", {}, "pre_norm is false, and Pegasus normalizes before each sub-layer", "marian"),
        ("pegasus", LEARNED, "position_embedding_type is learned, and that of Pegasus is sinusoidal", "blenderbot"),
        ("marian", {"position_embedding_type": "learned"}, "position_embedding_type is learned", "ctranslate2"),
        ("marian", {"d_k": 3}, "d_k is 3, and Marian's heads have the width d_model / heads", ""),
        ("pegasus", SEPARATE | {"pre_norm": True}, "share_encoder_decoder_embeddings is false", "ctranslate2"),
    ],
)
def test_a_transformer_that_no_class_fits_is_told_which_setting_stands_in_the_way(
    tmp_path, monkeypatch, capsys, name, options, message, others
):
    save(tmp_path / "model", **options)
    assert run(export, monkeypatch, tmp_path / "model", "--format", name, "--output_dir", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and others in error.partition(message)[2]
    assert not (tmp_path / "out").exists()


def test_translate_runs_the_folder_like_any_translator_of_the_library(tmp_path, monkeypatch, capsys):
    save(tmp_path / "model")
    run(export, monkeypatch, tmp_path / "model", "--format", "marian", "--output_dir", tmp_path / "out")
    (tmp_path / "in.txt").write_text("word4 word5\nword9\n")
    shown = []
    for folder in ("model", "out"):
        capsys.readouterr()
        arguments = ["--model_name_or_path", tmp_path / folder, "--input_file", tmp_path / "in.txt"]
        assert run(translate, monkeypatch, *arguments, "--num_beams", 1, "--bf16", "false") in (0, None)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != ""
