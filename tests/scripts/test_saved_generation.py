"""Generation settings that a model was saved with act in its exports as in the model, or are refused."""

import json

import pytest
import torch
from exported_models import SOURCES, run, save_gpt1, save_translator
from transformers import GenerationConfig

from papers_to_gpt import export, translate
from papers_to_gpt.engine.model_folder import EXPORT_FILE
from papers_to_gpt.exporting import onnx_export
from papers_to_gpt.exporting.loading import open_export
from papers_to_gpt.exporting.onnx_export import export_graph
from papers_to_gpt.exporting.saved_generation import LACKING, PASSED
from papers_to_gpt.publishing.shared_exports import outputs_of
from seq2seq_scratch.translation import load_translator
from seq2seq_scratch.translation import translate as translate_here

PROMPT = [4, 9, 7, 15, 6, 9, 7]

COMMON = [
    {"repetition_penalty": 1.8},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 0.6},
]

# Without settings, the models repeat the token 9, and the token 15.
OF_GPT1 = [
    {"suppress_tokens": [9], "bad_words_ids": [[8, 8], [1]]},
    {"eos_token_id": 9, "min_length": 12},
    {"eos_token_id": 9, "min_new_tokens": 8},
]
OF_TRANSLATORS = [
    {"suppress_tokens": [15], "bad_words_ids": [[9, 9], [1]]},
    {"eos_token_id": 15, "min_length": 9},
    {"eos_token_id": [3, 15], "min_new_tokens": 8},
]

# Settings that the runners read themselves, and those that do not change the text of the scripts.
READ = """
    max_length max_new_tokens num_beams length_penalty early_stopping do_sample temperature top_k top_p
    eos_token_id pad_token_id bos_token_id decoder_start_token_id
""".split()
WITHOUT_EFFECT = """
    renormalize_logits remove_invalid_values num_return_sequences use_cache cache_implementation cache_config
    max_cache_len output_attentions output_hidden_states output_scores output_logits return_dict_in_generate use_mtp
    is_assistant num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit assistant_lookbehind target_lookbehind
    assistant_ensemble_weight speculation_type compile_config disable_compile low_memory prefill_chunk_size
    continuous_batching_config transformers_version
""".split()


@pytest.fixture(scope="module")
def graphs():
    """The ONNX files that tests of this module have written, by their names and weights."""
    return {}


@pytest.fixture(params=["ctranslate2", "onnx"])
def engine(request, monkeypatch, graphs):
    """The engine to export to. Saved settings are no part of a graph, so that of the same weights is made once."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(request.param, request.param))

    def export_once(graph, path):
        weights = (tensor.numpy().tobytes() for tensor in graph.module.state_dict().values())
        if (key := (path.name, *weights)) not in graphs:
            export_graph(graph, path)
            graphs[key] = path.read_bytes()
        path.write_bytes(graphs[key])

    monkeypatch.setattr(onnx_export, "export_graph", export_once)
    return request.param


def save_generation(model, folder, **settings):
    """Writes settings as a user does, who edits the file beside a model."""
    model.generation_config.update(**settings)
    model.generation_config.save_pretrained(folder)


def test_every_setting_of_the_library_is_passed_or_refused_or_has_no_effect():
    known = {*LACKING, *PASSED, *READ, *WITHOUT_EFFECT}
    assert {name for name in vars(GenerationConfig()) if not name.startswith("_")} - known == set()


@pytest.mark.parametrize("settings", [*COMMON, *OF_GPT1], ids="-".join)
def test_settings_saved_with_a_gpt1_act_in_its_export(tmp_path, monkeypatch, engine, settings):
    model, folder = save_gpt1(tmp_path / "model", scale=2.0, eos_token_id=5)
    search = {"max_new_tokens": 20, "do_sample": False}
    plain = model.generate(torch.tensor([PROMPT]), **search).tolist()
    save_generation(model, folder, **settings)
    expected = model.generate(torch.tensor([PROMPT]), **search).tolist()
    assert expected != plain
    assert run(export, monkeypatch, folder, "--format", engine, "--output_dir", tmp_path / "out") in (0, None)
    exported, _ = open_export(tmp_path / "out")
    if engine == "onnx":
        assert exported.generate(torch.tensor([PROMPT]), **search).tolist() == expected
        return
    streamed = []
    assert exported.generate(PROMPT, 20, on_token=streamed.append) == expected
    assert streamed == expected[0][len(PROMPT) :]


@pytest.mark.parametrize("settings", [*COMMON, *OF_TRANSLATORS], ids="-".join)
def test_settings_saved_with_a_translator_act_in_its_export(tmp_path, monkeypatch, engine, settings):
    folder = save_translator(tmp_path / "model")
    model, *tokenizers = load_translator(folder)
    search = {"num_beams": 1, "max_new_tokens": 12}
    plain = translate_here(model, *tokenizers, SOURCES, **search)
    save_generation(model, folder, **settings)
    expected = translate_here(model, *tokenizers, SOURCES, **search)
    assert expected != plain
    assert run(export, monkeypatch, folder, "--format", engine, "--output_dir", tmp_path / "out") in (0, None)
    (tmp_path / "in.txt").write_text("\n".join(SOURCES) + "\n")
    arguments = ["--model_name_or_path", tmp_path / "out", "--input_file", tmp_path / "in.txt", "--output_file"]
    options = [f"--{name}={value}" for name, value in search.items()]
    assert run(translate, monkeypatch, *arguments, tmp_path / "out.txt", *options) in (0, None)
    assert (tmp_path / "out.txt").read_text().splitlines() == [best.text for best, *_ in expected]


def test_sampling_saved_with_a_translator_acts_in_its_export(tmp_path, monkeypatch, engine):
    folder = save_translator(tmp_path / "model")
    model, *tokenizers = load_translator(folder)
    save_generation(model, folder, do_sample=True, temperature=1e-3)
    assert run(export, monkeypatch, folder, "--format", engine, "--output_dir", tmp_path / "cold") in (0, None)
    save_generation(model, folder, temperature=100.0)
    assert run(export, monkeypatch, folder, "--format", engine, "--output_dir", tmp_path / "hot") in (0, None)
    greedy = translate_here(model, *tokenizers, SOURCES, do_sample=False, max_new_tokens=12)
    for name in ("cold", "hot"):
        exported, _ = open_export(tmp_path / name)
        if engine == "onnx":
            found = translate_here(exported, *tokenizers, SOURCES, max_new_tokens=12)
        else:
            found = exported.translate(SOURCES, max_new_tokens=12)
        assert (found == greedy) is (name == "cold")


def test_a_saved_number_of_sequences_is_no_difference(tmp_path, monkeypatch, engine):
    model, folder = save_gpt1(tmp_path / "model", scale=2.0, eos_token_id=5)
    save_generation(model, folder, num_beams=2, num_return_sequences=2)
    assert run(export, monkeypatch, folder, "--format", engine, "--output_dir", tmp_path / "out") in (0, None)
    assert len(outputs_of(tmp_path / "out")) == len(set(outputs_of(tmp_path / "out"))) > 1


def test_what_is_compared_after_sharing_is_a_search_whatever_was_saved(tmp_path, monkeypatch, engine):
    model, *_ = load_translator(folder := save_translator(tmp_path / "model"))
    save_generation(model, folder, do_sample=True, temperature=100.0)
    assert run(export, monkeypatch, folder, "--format", engine, "--output_dir", tmp_path / "out") in (0, None)
    found = []
    for seed in (1, 2):
        if engine == "ctranslate2":
            pytest.importorskip(engine).set_random_seed(seed)
        found.append(outputs_of(tmp_path / "out"))
    assert found[0] == found[1]


def test_a_setting_that_an_engine_lacks_is_refused_at_export_and_when_the_export_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ctranslate2")
    folder = save_translator(tmp_path / "model")
    to_ctranslate2 = ["--format", "ctranslate2", "--output_dir"]
    assert run(export, monkeypatch, folder, *to_ctranslate2, tmp_path / "plain") in (0, None)
    model, *_ = load_translator(folder)
    save_generation(model, folder, exponential_decay_length_penalty=(3, 1.5), encoder_repetition_penalty=1.0)
    assert run(export, monkeypatch, folder, *to_ctranslate2, tmp_path / "out") == 2
    message = "sets exponential_decay_length_penalty, which CTranslate2 does not have"
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    save_generation(model, tmp_path / "plain")
    assert run(translate, monkeypatch, "--model_name_or_path", tmp_path / "plain") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["translator", "language_model"])
def test_the_export_says_that_beams_are_scored_in_another_way(tmp_path, monkeypatch, kind, capsys):
    pytest.importorskip("ctranslate2")
    if kind == "translator":
        model, *_ = load_translator(folder := save_translator(tmp_path / "model"))
    else:
        model, folder = save_gpt1(tmp_path / "model")
    save_generation(model, folder, no_repeat_ngram_size=2, repetition_penalty=1.3)
    assert run(export, monkeypatch, folder, "--format", "ctranslate2", "--output_dir", tmp_path / "out") in (0, None)
    note = "saved with no_repeat_ngram_size and repetition_penalty. The scripts of this project apply this"
    assert note in capsys.readouterr().out and note in (tmp_path / "out" / "README.md").read_text()
    assert note in json.loads((tmp_path / "out" / EXPORT_FILE).read_text())["compared"]
