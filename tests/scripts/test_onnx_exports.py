"""ONNX exports in onnxruntime: they compute what the model computes, and are run by the same commands."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from exported_models import SOURCES, run, save_gpt1, save_translator, scored_translations
from tiny_models import PAD, TRANSLATORS, tiny_batch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from papers_to_gpt import classify, export, generate_text, score_text, translate
from papers_to_gpt.engine.model_folder import EXPORT_FILE
from papers_to_gpt.exporting.cards import export_card
from seq2seq_scratch.data.forced_scores import score_translations
from seq2seq_scratch.translation import load_translator
from seq2seq_scratch.translation import translate as translate_here

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1}
MODELS = {
    "lstm": ("rnn_seq2seq", {}),
    "lstm, not reversed": ("rnn_seq2seq", {"reverse_source": False, "num_hidden_layers": 1}),
    "attention": ("bahdanau", {}),
    "fixed vector": ("bahdanau", {"use_attention": False}),
    "transformer": ("transformer", {}),
    "pre-norm": (
        "transformer",
        {"pre_norm": True, "position_embedding_type": "learned", "d_k": 3, "d_v": 5, "activation_function": "silu"}
        | {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, **ONE_LAYER},
    ),
    "no positions": ("transformer", {"position_embedding_type": "absent", **ONE_LAYER}),
    "gpt1": ("causal_lm", {}),
    "gpt1, untied": ("causal_lm", {"tie_word_embeddings": False, "eos_token_id": None, "num_hidden_layers": 1}),
    "gpt1 of lstms": ("causal_lm", {"lstm_size": 6}),
}
SEPARATE = "pre-norm"  # has two tokenizers
TRANSLATORS_HERE = [name for name, (kind, _) in MODELS.items() if kind in TRANSLATORS]
GPTS_HERE = [name for name in MODELS if name.startswith("gpt1")]


@pytest.fixture(scope="module")
def export_to_onnx(tmp_path_factory):
    """Returns a function from the name of a model to its folder and that of its export, made once for all tests."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed; the extra `onnx` has it")
    made = {}

    def make(name):
        if name not in made:
            kind, options = MODELS[name]
            folder = tmp_path_factory.mktemp("model")
            if kind in TRANSLATORS:
                save_translator(folder / "model", kind, separate=name == SEPARATE, **options)
            else:
                save_gpt1(folder / "model", kind, **options)
            arguments = [folder / "model", "--format", "onnx", "--output_dir", folder / "exported"]
            with pytest.MonkeyPatch.context() as monkeypatch:
                assert run(export, monkeypatch, *arguments) in (0, None)
            made[name] = folder / "model", folder / "exported"
        return made[name]

    return make


@pytest.mark.parametrize("name", TRANSLATORS_HERE)
def test_a_translator_in_onnx_computes_searches_and_scores_as_here(export_to_onnx, name):
    from papers_to_gpt.exporting.onnx_models import OnnxTranslator

    folder, target = export_to_onnx(name)
    model, *tokenizers = load_translator(str(folder))
    exported = OnnxTranslator(target).eval()
    batch = tiny_batch(MODELS[name][0])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert 0 < mask.sum() < mask.numel()
    read = batch["labels"].masked_fill(batch["labels"] == -100, PAD)
    with torch.inference_mode():
        # Other numbers of rows and tokens than at the export, one of each, and padding on either side.
        for rows, columns in ((slice(None), read.shape[1]), (slice(0, 1), 1)):
            for side in ((), (1,)):
                inputs = {"input_ids": ids[rows].flip(side), "attention_mask": mask[rows].flip(side)}
                inputs["decoder_input_ids"] = read[rows, :columns]
                torch.testing.assert_close(exported(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
    for search in ({"num_beams": 1}, {"num_beams": 4, "length_penalty": 0.6, "num_return_sequences": 2}):
        search |= {"with_scores": True, "max_new_tokens": 8}
        found = [translate_here(each, *tokenizers, [*SOURCES, ""], **search) for each in (model, exported)]
        assert [[each.text for each in row] for row in found[0]] == [[each.text for each in row] for row in found[1]]
        for mine, other in zip(*found, strict=True):
            assert [each.score for each in mine] == pytest.approx([each.score for each in other], abs=1e-5)
    found = [score_translations(each, *tokenizers, SOURCES, SOURCES[::-1]) for each in (model, exported)]
    for mine, other in zip(*found, strict=True):
        assert list(mine.log_probabilities) == pytest.approx(list(other.log_probabilities), abs=1e-5)


@pytest.mark.parametrize("name", GPTS_HERE)
def test_gpt1_in_onnx_computes_and_continues_as_here(export_to_onnx, name):
    from papers_to_gpt.exporting.onnx_models import OnnxGPT1

    folder, target = export_to_onnx(name)
    model, exported = AutoModelForCausalLM.from_pretrained(folder).eval(), OnnxGPT1(target).eval()
    ids = torch.tensor([[4, 9, 7, 15, 6], [PAD, PAD, 8, 5, 4], [PAD, 12, 6, 9, 11]])
    if MODELS[name][1].get("lstm_size"):  # which would read padding on the left
        ids = ids.masked_fill(ids == PAD, 10)
    mask = (ids != PAD).long()
    for rows in (slice(None), slice(0, 1)):
        prompt = {"input_ids": ids[rows], "attention_mask": mask[rows]}
        with torch.inference_mode():
            ours, theirs = (each(**prompt).logits[mask[rows].bool()] for each in (model, exported))
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
        for search in ({}, {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}):
            search = {**prompt, "max_new_tokens": 20, "do_sample": False, "pad_token_id": PAD, **search}
            ours, theirs = (each.generate(**search).tolist() for each in (model, exported))
            assert ours == theirs


def test_positions_that_are_computed_end_nowhere_and_learned_ones_do(export_to_onnx, caplog):
    from papers_to_gpt.exporting.onnx_models import OnnxTranslator

    long = ["word4 word9 " * 60]  # more than the 64 rows of either table
    for name, is_cut in (("transformer", False), ("pre-norm", True)):
        folder, target = export_to_onnx(name)
        model, *tokenizers = load_translator(str(folder))
        found = []
        for each in (model, OnnxTranslator(target).eval()):
            caplog.clear()
            found.append(translate_here(each, *tokenizers, long, max_new_tokens=70)[0][0].text)
            assert ("1 of 1 sources have more than 64 tokens" in caplog.text) == is_cut
            if is_cut:
                ids = torch.full((1, 65), 5)
                with pytest.raises(ValueError, match=r"65.* 64"):
                    each(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=ids[:, :1])
        assert found[0] == found[1] and (found[0] or is_cut)


def test_the_commands_run_an_export_as_they_run_its_model(export_to_onnx, tmp_path, monkeypatch, capsys):
    folder, target = export_to_onnx("transformer")
    (tmp_path / "in.txt").write_text("\n".join([*SOURCES, ""]) + "\n")
    (tmp_path / "forbidden.txt").write_text("word6\n")
    options = ["--num_beams", "3", "--num_return_sequences", "2", "--max_new_tokens", "6", "--input_file"]
    options += [tmp_path / "in.txt", "--forbidden_words", tmp_path / "forbidden.txt"]
    written = []
    for model, bf16 in ((folder, ["--bf16", "false"]), (target, [])):
        output = tmp_path / "out.txt"
        arguments = ["--model_name_or_path", model, *options, "--output_file", output, *bf16]
        assert run(translate, monkeypatch, *arguments) in (0, None)
        written.append(output.read_text())
        output.unlink()
    assert written[0] == written[1] and written[0].count("\n") == 2 * (len(SOURCES) + 1)
    scored = scored_translations(monkeypatch, tmp_path, folder, "--bf16", "false")
    assert scored == scored_translations(monkeypatch, tmp_path, target) and len(scored) == 2
    capsys.readouterr()
    for setting in ("--with_alignments", "--bf16"):
        assert run(translate, monkeypatch, "--model_name_or_path", target, setting, "true") == 2
        assert f"for onnxruntime, which does not have {setting[2:]}" in capsys.readouterr().err
    assert run(translate, monkeypatch, "--model_name_or_path", target, folder) == 2
    assert "no ensembles" in capsys.readouterr().err
    for script in (generate_text, classify, score_text):
        assert run(script, monkeypatch, "--model_name_or_path", target) == 2
        assert "for onnxruntime, which this script cannot run; it runs in" in capsys.readouterr().err


def test_generate_text_prints_what_it_prints_with_the_model(export_to_onnx, monkeypatch, capsys):
    folder, target = export_to_onnx("gpt1")
    for extra in (["--do_sample", "false"], ["--do_sample", "false", "--num_beams", "2"], ["--seed", "3"]):
        shown = []
        for model, bf16 in ((folder, ["--bf16", "false"]), (target, [])):
            capsys.readouterr()
            arguments = ["--model_name_or_path", model, "--prompt", "word4 word9", "--max_new_tokens", "9"]
            assert run(generate_text, monkeypatch, *arguments, *extra, *bf16) in (0, None)
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1] != ""
    assert run(translate, monkeypatch, "--model_name_or_path", target) == 2
    assert "generate_text" in capsys.readouterr().err


def test_the_python_code_of_cards_runs_where_our_packages_are_not(export_to_onnx, tmp_path):
    names = ["lstm", "attention", SEPARATE, "gpt1"]
    codes = []
    for name in names:
        _, target = export_to_onnx(name)
        card = (target / "README.md").read_text()
        record = json.loads((target / EXPORT_FILE).read_text())
        assert record["compared"] in card and "differ by" in record["compared"]
        # A text that ends at once would print nothing.
        codes.append(re.search(r"```python\n(.*?)```", card, re.S)[1].replace("Once upon a time", "word4 word9"))
    (tmp_path / "codes.json").write_text(json.dumps(codes))
    program = (
        "import sys, json; packages = ('seq2seq_scratch', 'gpt1_scratch', 'papers_to_gpt', 'torch');"
        "sys.modules.update(dict.fromkeys(packages));"
        "[exec(code, {}) for code in json.load(open('codes.json'))]"
    )
    result = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    printed = result.stdout.splitlines()
    assert len(printed) == len(names) and all(printed)


@pytest.mark.parametrize(("kind", "ends"), [("causal_lm", 9), ("transformer", [3, 14])])
def test_the_python_code_of_cards_ends_where_the_model_does(tmp_path, monkeypatch, capsys, export_to_onnx, kind, ends):
    if kind in TRANSLATORS:
        save_translator(tmp_path / "model")
        model, tokenizer, _ = load_translator(str(tmp_path / "model"))
    else:
        model, _ = save_gpt1(tmp_path / "model", scale=2.0)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model.generation_config.update(eos_token_id=ends)
    model.generation_config.save_pretrained(tmp_path / "model")
    arguments = [tmp_path / "model", "--format", "onnx", "--output_dir", tmp_path / "out"]
    assert run(export, monkeypatch, *arguments) in (0, None)
    text = "word4 word9 word7 word15"
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)[1]
    capsys.readouterr()
    exec(re.sub("A sentence.|Once upon a time", text, code), {})
    ids = model.generate(**tokenizer(text, return_tensors="pt"), max_length=50, do_sample=False)[0]
    assert 1 < len(ids) < 30
    assert capsys.readouterr().out.strip() == tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("saved", "named"),
    [
        ({"num_beams": 5, "length_penalty": 1.4}, ["`num_beams`"]),
        ({"do_sample": True, "repetition_penalty": 1.3, "num_beams": 1}, ["`do_sample`", "`repetition_penalty`"]),
        ({"num_beams": 1, "max_new_tokens": 30}, []),
    ],
)
def test_a_card_names_the_saved_settings_that_its_python_code_leaves_out(tmp_path, saved, named):
    GenerationConfig(**saved).save_pretrained(tmp_path)
    record = {"engine": "onnx", "kind": "translator", "positions": None, "compared": "", "source": "m"}
    card = export_card(tmp_path, record | {"model_type": "bahdanau", "quantization": "float32"}, "out")
    found = re.search(r"It leaves out settings .*?: (.*?)\. So its output may differ", card)
    assert (found[1].split(", ") if found else []) == named


def test_no_path_of_the_machine_is_in_an_export(export_to_onnx):
    for name in ("lstm", "gpt1"):
        folder, target = export_to_onnx(name)
        for path in target.rglob("*.*"):
            if path.name != "README.md":  # which names the folder, until it is shared
                assert str(folder.parent).encode() not in path.read_bytes()
                assert b"onnx_graphs.py" not in path.read_bytes()


@pytest.mark.parametrize("kind", ["rnn_seq2seq", "causal_lm"])
def test_int8_is_a_third_of_the_size_and_nearly_as_probable(export_to_onnx, tmp_path, monkeypatch, capsys, kind):
    if kind in TRANSLATORS:
        sizes = {"embedding_size": 64, "hidden_size": 64, "num_hidden_layers": 1}
        save_translator(tmp_path / "model", kind, scale=0.5, **sizes)
    else:
        sizes = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 256}
        save_gpt1(tmp_path / "model", kind, scale=0.5, **sizes)
    bytes_of = []
    for number in ("float32", "int8"):
        target = tmp_path / number
        arguments = [tmp_path / "model", "--format", "onnx", "--output_dir", target, "--quantization", number]
        assert run(export, monkeypatch, *arguments) in (0, None)
        bytes_of.append(sum(path.stat().st_size for path in target.glob("*.onnx")))
        shown = capsys.readouterr().out
    assert bytes_of[1] < 0.4 * bytes_of[0]
    (mean,) = re.findall(r"differ by (\S+) on average", shown)
    assert 1e-4 < float(mean) < 0.5  # it is not fp32 under another name


@pytest.mark.parametrize("kind", ["bahdanau", "transformer"])
def test_what_an_encoder_computes_in_int8_does_not_depend_on_the_batch(export_to_onnx, tmp_path, monkeypatch, kind):
    from papers_to_gpt.exporting.onnx_models import OnnxEncoder

    save_translator(tmp_path / "model", kind)
    arguments = [tmp_path / "model", "--format", "onnx", "--output_dir", tmp_path / "out", "--quantization", "int8"]
    assert run(export, monkeypatch, *arguments) in (0, None)
    encoder = OnnxEncoder(tmp_path / "out")
    ids = torch.tensor([[4, 9, 7, 15, 6], [12, 6, 9, 11, 5], [8, 8, 5, 4, 10]])
    together, alone = (encoder(each, torch.ones_like(each)) for each in (ids, ids[:1]))
    for name, expected in alone.items():
        torch.testing.assert_close(together[name][:1], expected, atol=1e-5, rtol=1e-5)


def test_an_export_that_differs_is_an_error_and_leaves_nothing(export_to_onnx, tmp_path, monkeypatch, capsys):
    from papers_to_gpt.exporting import onnx_graphs

    save_gpt1(tmp_path / "model", num_hidden_layers=1)
    monkeypatch.setattr(onnx_graphs, "causal_mask", lambda length, attended: torch.ones(length, attended).bool())
    assert run(export, monkeypatch, tmp_path / "model", "--format", "onnx", "--output_dir", tmp_path / "out") == 2
    assert "differs from the model" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_graph_that_is_too_large_for_a_file_is_refused(export_to_onnx, tmp_path, monkeypatch, capsys):
    from papers_to_gpt.exporting import onnx_export

    export_to_onnx("gpt1")  # skips without the packages
    save_gpt1(tmp_path / "model", num_hidden_layers=1)
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 1000)
    assert run(export, monkeypatch, tmp_path / "model", "--format", "onnx", "--output_dir", tmp_path / "out") == 2
    assert "an ONNX file holds 1,000" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_spoilt_export_is_named(export_to_onnx, tmp_path, monkeypatch, capsys):
    _, exported = export_to_onnx("gpt1")
    faults = {
        "has no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
        "has no model.onnx": lambda folder: (folder / "model.onnx").unlink(),
        "onnxruntime cannot load": lambda folder: (folder / "model.onnx").write_bytes(b"no graph"),
        "is not what export.py writes": lambda folder: (folder / EXPORT_FILE).write_text("{}"),
        f"{EXPORT_FILE} is not what": lambda folder: (folder / EXPORT_FILE).write_text(
            '{"engine": "onnx", "kind": "language_model"}'
        ),
    }
    for number, (message, spoil) in enumerate(faults.items()):
        folder = tmp_path / str(number)
        shutil.copytree(exported, folder)
        spoil(folder)
        assert run(generate_text, monkeypatch, "--model_name_or_path", folder, "--prompt", "word4") == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("number", "message"), [("int16", "the format onnx has float32 and int8"), (None, "")])
def test_only_int8_and_float32_are_numbers_of_onnx(tmp_path, monkeypatch, capsys, number, message):
    save_gpt1(tmp_path / "model", "classification")
    arguments = [tmp_path / "model", "--format", "onnx", "--output_dir", tmp_path / "out"]
    arguments += [] if number is None else ["--quantization", number]
    assert run(export, monkeypatch, *arguments) == 2
    assert (message or "does not continue text") in capsys.readouterr().err
