"""A saved folder is complete: it loads, computes and runs the card's code where our packages cannot be imported."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)
from transformers.utils import logging as transformers_logging

import gpt1_scratch as gpt1
import seq2seq_scratch as seq2seq
from gpt1_scratch.finetuning.models import make_task_model
from gpt1_scratch.finetuning.tasks import TASKS
from gpt1_scratch.tokenization import add_task_template
from gpt1_scratch.tokenization import train_tokenizer as train_gpt1_tokenizer
from papers_to_gpt import classify, finetune_gpt1, generate_text
from papers_to_gpt import translate as translate_script
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.settings import wording
from papers_to_gpt.settings.arguments import run_script
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer
from seq2seq_scratch.translation import load_translator, translate

ROOT = Path(__file__).parents[2]
SOURCES = ["one two three four five", "six seven, eight nine ten"]
TARGETS = ["Eins zwei drei vier fünf", "sechs sieben, acht neun zehn"]
TEXT = "once there were two friends , and they had a red kite ."
PAIR = {"text": "a red kite", "text_pair": "two friends"}
# A dot in a folder's name is nothing that a module's name may hold.
TRANSLATORS = ["bahdanau.v1", "rnn_seq2seq", "transformer"]
GPTS = ["gpt1", "sentiment", "similarity", "cloze"]

KEY = "1.mlp.expand.weight"  # of GPT-1's blocks

# Run where nothing of ours can be imported; prints nothing, for whatever comes out is a complaint.
STRANGER = """
import contextlib, io, json, os, sys
from pathlib import Path
sys.modules["seq2seq_scratch"] = sys.modules["gpt1_scratch"] = None  # as where they are not installed
import torch
import transformers
from transformers import AutoTokenizer, pipeline
transformers.utils.logging.disable_progress_bar()
models, found, trust = Path(sys.argv[1]), {}, {"trust_remote_code": True}

def load(auto_class, name, **settings):
    return getattr(transformers, auto_class).from_pretrained(models / name, **trust, **settings)

def reload(model, auto_class, name):
    model.save_pretrained(models / "again" / name)
    return load(auto_class, f"again/{name}").eval()

jobs = json.loads((models / "jobs.json").read_text())
for name, job in jobs.items():
    model = load(job["auto_class"], name)
    if "stays" in job:
        model = reload(model, job["auto_class"], name)
    inputs = {key: torch.tensor(value) for key, value in job["inputs"].items()}
    found[name] = {"logits": model(**inputs).logits.tolist(), "module": type(model).__module__}
    tokenizer = AutoTokenizer.from_pretrained(models / name, **trust)
    found[name]["tokens"] = tokenizer(str(job["text"])).input_ids
    if job["generates"]:
        prompt = {key: value for key, value in inputs.items() if not key.startswith("decoder")}
        found[name]["generated"] = model.generate(**prompt, max_new_tokens=6, do_sample=False).tolist()
    if "translation" in job["tasks"]:
        translator = pipeline("translation", model=str(models / name), **trust)
        found[name]["translations"] = [
            translator(job["text"]),
            translator(job["sentences"], batch_size=2, num_beams=1, max_new_tokens=7),
            translator(job["sentences"], num_beams=3, num_return_sequences=2, with_scores=True),
        ]
    for task in job["tasks"]:
        if task != "translation":
            arguments = {"do_sample": False, "max_new_tokens": 6} if task == "text-generation" else {}
            found[name][task] = pipeline(task, model=str(models / name), **trust)(job["text"], **arguments)
    with contextlib.chdir(models), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(job["code"], {})
    found[name]["printed"] = printed.getvalue()

transformers.utils.logging.set_verbosity_error()  # every head that is not in the checkpoint is reported
key = jobs["gpt1"]["key"]
for auto_class in ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification",
                   "AutoModelForMultipleChoice"):
    for name in ("gpt1", "sentiment", "cloze"):
        model = load(auto_class, name)
        body = model if auto_class == "AutoModel" else model.model
        found[f"{auto_class} of {name}"] = body.blocks.state_dict()[key].sum().item()
found["AutoModel of transformer"] = load("AutoModel", "transformer").decoder.embed_tokens.weight.sum().item()
back = load("AutoModel", "transformer")
back.save_pretrained(models / "backbone")
found["back"] = load("AutoModelForSeq2SeqLM", "backbone").lm_head.weight.sum().item()
for name in jobs:
    if jobs[name]["auto_class"] == "AutoModelForSeq2SeqLM":
        found[f"AutoModel is {name}"] = type(load("AutoModel", name)).__name__
(models / "found.json").write_text(json.dumps(found))
"""


def save_translator(folder, model, source_tokenizer, target_tokenizer):
    model.generation_config.update(max_new_tokens=12, num_beams=3, length_penalty=1.0, early_stopping="never")
    model.eval().save_pretrained(folder)
    save_tokenizers(folder, source_tokenizer, target_tokenizer)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Saves tiny models as recipes do: every translator, and GPT-1 with every head."""
    root = tmp_path_factory.mktemp("models")
    source = train_tokenizer(SOURCES * 3, kind="word", vocab_size=30)
    target = train_tokenizer(TARGETS * 3, kind="word", vocab_size=40, lowercase=True)
    both = train_tokenizer((SOURCES + TARGETS) * 3, kind="word", vocab_size=60)
    torch.manual_seed(1)
    sizes = {"embedding_size": 8, "hidden_size": 8}
    config = seq2seq.BahdanauConfig(
        vocab_size=len(source),
        decoder_vocab_size=len(target),
        attention_size=8,
        maxout_size=8,
        initializer_std=1.0,
        **sizes,
    )
    save_translator(root / "bahdanau.v1", seq2seq.BahdanauForConditionalGeneration(config), source, target)
    shared = {"vocab_size": len(both), "decoder_vocab_size": len(both)}
    config = seq2seq.RNNSeq2SeqConfig(num_hidden_layers=2, initializer_range=1.0, **shared, **sizes)
    save_translator(root / "rnn_seq2seq", seq2seq.RNNSeq2SeqForConditionalGeneration(config), both, both)
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = seq2seq.TransformerConfig(d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **shared, **sizes)
    save_translator(root / "transformer", seq2seq.TransformerForConditionalGeneration(config), both, both)

    tokenizer = train_gpt1_tokenizer([TEXT] * 3, merges=50)
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    config = gpt1.configuration_gpt1.GPT1Config(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **special
    )
    language_model = gpt1.GPT1ForCausalLM(config)
    language_model.save_pretrained(root / "gpt1")
    tokenizer.save_pretrained(root / "gpt1")
    tokenizer = add_task_template(tokenizer)
    for name in GPTS[1:]:
        make_task_model(TASKS[f"stories_{name}"], language_model.model, tokenizer).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    for name in TRANSLATORS + GPTS:
        write_card(root / name)
    return root


def job_of(models, name):
    """Returns the job of a process without our packages: what to load and compute."""
    ids = [[4, 5, 6, 7, 8, 9], [9, 8, 7, 6, 5, 4]]
    inputs = {"input_ids": ids, "attention_mask": [[1] * 6] * 2}
    job = {
        "key": KEY,
        "text": "one two three",
        "sentences": [*SOURCES, ""],
        "generates": name in TRANSLATORS or name == "gpt1",
    }
    if name in TRANSLATORS:
        inputs["decoder_input_ids"] = [[2, 4, 5], [2, 6, 7]]
        job |= {"auto_class": "AutoModelForSeq2SeqLM", "tasks": ["translation"], "stays": True}
    elif name == "gpt1":
        job |= {"auto_class": "AutoModelForCausalLM", "tasks": ["text-generation", "feature-extraction"], "text": TEXT}
    elif name == "cloze":
        inputs = {key: [value] for key, value in inputs.items()}
        job |= {"auto_class": "AutoModelForMultipleChoice", "tasks": ["feature-extraction"], "text": TEXT}
    else:
        text = PAIR if name == "similarity" else TEXT
        job |= {"auto_class": "AutoModelForSequenceClassification", "tasks": ["text-classification"], "text": text}
    (code,) = re.findall(r"```python\n(.*?)```", (models / name / "README.md").read_text(), re.DOTALL)
    return job | {"inputs": inputs, "code": code}


@pytest.fixture(scope="module")
def found(models, tmp_path_factory):
    """Returns the results of a process that has only the folders."""
    jobs = {name: job_of(models, name) for name in TRANSLATORS + GPTS}
    (models / "jobs.json").write_text(json.dumps(jobs))
    empty = tmp_path_factory.mktemp("empty")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(empty / "modules")}
    result = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(models)],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads((models / "found.json").read_text())
    return found | {"log": result.stderr + result.stdout}


def live(models, name):
    """Loads the model with the installed package."""
    classes = [
        AutoModelForSeq2SeqLM,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoModelForMultipleChoice,
    ]
    (auto_class,) = [each for each in classes if each.__name__ == job_of(models, name)["auto_class"]]
    return auto_class.from_pretrained(models / name, trust_remote_code=False).eval()


@pytest.mark.parametrize("name", TRANSLATORS + GPTS)
def test_a_folder_computes_the_same_without_our_packages(models, found, name):
    model, job = live(models, name), job_of(models, name)
    assert type(model).__module__.startswith(("seq2seq_scratch.", "gpt1_scratch."))
    assert found[name]["module"].startswith("transformers_modules.")
    inputs = {key: torch.tensor(value) for key, value in job["inputs"].items()}
    torch.testing.assert_close(torch.tensor(found[name]["logits"]), model(**inputs).logits)
    if job["generates"]:
        prompt = {key: value for key, value in inputs.items() if not key.startswith("decoder")}
        assert found[name]["generated"] == model.generate(**prompt, max_new_tokens=6, do_sample=False).tolist()


@pytest.mark.parametrize("name", TRANSLATORS)
def test_the_pipeline_that_comes_with_a_folder_translates_as_the_package_does(models, found, name):
    translator = load_translator(str(models / name))
    single, several, best = found[name]["translations"]
    assert single == [{"translation_text": translate(*translator, ["one two three"])[0][0].text}]
    sentences = [*SOURCES, ""]
    greedy = translate(*translator, sentences, num_beams=1, max_new_tokens=7)
    assert several == [{"translation_text": only.text} for (only,) in greedy]
    assert several[2] == {"translation_text": ""} and any(each["translation_text"] for each in several)
    wanted = translate(*translator, sentences, num_beams=3, num_return_sequences=2, with_scores=True)
    assert [[each["translation_text"] for each in pair] for pair in best] == [
        [h.text for h in pair] for pair in wanted
    ]
    scores = [[each["score"] for each in pair] for pair in best]
    assert scores == [pytest.approx([h.score for h in pair], abs=1e-4) for pair in wanted]


def test_generated_text_is_the_whole_sequence_decoded_where_our_packages_are_not(models, found):
    tokenizer, model = AutoTokenizer.from_pretrained(models / "gpt1", trust_remote_code=False), live(models, "gpt1")
    (result,) = found["gpt1"]["text-generation"]
    sequence = model.generate(**tokenizer(TEXT, return_tensors="pt"), max_new_tokens=6, do_sample=False)[0]
    added = tokenizer.decode(sequence, skip_special_tokens=True)[len(TEXT.replace(" ,", ",").replace(" .", ".")) :]
    assert result["generated_text"] == TEXT + added and added[1:].strip()


def test_only_a_language_model_names_a_pipeline_for_text_generation(models):
    named = {name: "custom_pipelines" in json.loads((models / name / "config.json").read_text()) for name in GPTS}
    assert named == {"gpt1": True, "sentiment": False, "similarity": False, "cloze": False}


def test_nothing_complains_and_installed_pipelines_agree(models, found):
    assert found["log"] == ""
    complaints = []

    class Collect(transformers_logging.logging.Handler):
        def emit(self, record):
            complaints.append(record.getMessage())

    handler = Collect(level="WARNING")
    transformers_logging.add_handler(handler)
    try:
        for name in GPTS:
            for task in job_of(models, name)["tasks"]:
                arguments = {"do_sample": False, "max_new_tokens": 6} if task == "text-generation" else {}
                text = job_of(models, name)["text"]
                installed = pipeline(task, model=str(models / name), trust_remote_code=False)(text, **arguments)
                if task == "text-generation":
                    assert installed == found[name][task]
                elif task == "feature-extraction":
                    torch.testing.assert_close(torch.tensor(installed), torch.tensor(found[name][task]))
                else:
                    (one,) = found[name][task] if isinstance(found[name][task], list) else [found[name][task]]
                    (other,) = installed if isinstance(installed, list) else [installed]
                    assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=1e-5)
    finally:
        transformers_logging.remove_handler(handler)
    assert complaints == []


@pytest.mark.parametrize("name", TRANSLATORS + GPTS)
def test_the_code_of_a_card_runs_beside_the_folder_and_prints_a_result(models, found, name):
    code = job_of(models, name)["code"]
    lines = [line for line in code.splitlines() if line]
    assert f'"{name}"' in code and len(lines) == (7 if name == "cloze" else 3)
    # An untrained model may translate into nothing, but then prints an empty line.
    assert found[name]["printed"].endswith("\n")


def test_every_head_loads_from_every_checkpoint_of_its_family(models, found):
    weight = gpt1.GPT1Model.from_pretrained(models / "gpt1").blocks.state_dict()[KEY]
    sums = [value for name, value in found.items() if " of " in name and not name.endswith("transformer")]
    assert len(sums) == 12 and sums == pytest.approx([weight.sum().item()] * 12)
    table = live(models, "transformer").lm_head.weight.sum().item()
    assert found["AutoModel of transformer"] == found["back"] == pytest.approx(table)


def test_auto_model_loads_the_whole_translator_if_it_has_no_backbone(models, found):
    for name in TRANSLATORS:
        expected = "TransformerModel" if name == "transformer" else type(live(models, name)).__name__
        assert found[f"AutoModel is {name}"] == expected


def test_tokenizers_are_the_ones_saved(models, found):
    for name in TRANSLATORS + GPTS:
        tokenizer = AutoTokenizer.from_pretrained(models / name, trust_remote_code=False)
        assert found[name]["tokens"] == tokenizer(str(job_of(models, name)["text"])).input_ids, name


def test_code_saved_again_by_a_stranger_is_whole_and_points_to_itself(models, found):
    for name in TRANSLATORS:
        again, first = models / "again" / name, models / name
        code = {path.name for path in first.glob("*.py")}
        assert code == {path.name for path in again.glob("*.py")} and "pipeline_translation.py" in code
        assert (again / "config.json").read_text() == (first / "config.json").read_text()


def test_a_model_from_the_hub_is_saved_with_its_own_code_in_the_auto_map(models, tmp_path):
    """When a model is loaded from the Hub, the names in its auto_map start with its repository."""
    for name, package in (("transformer", seq2seq), ("gpt1", gpt1)):
        model = live(models, name)
        assert type(model).__module__.startswith(package.__name__)
        before = json.loads((models / name / "config.json").read_text())
        model.config.auto_map = {key: f"user/name--{value}" for key, value in before["auto_map"].items()}
        model.save_pretrained(tmp_path / name)
        assert json.loads((tmp_path / name / "config.json").read_text()) == before


# Folders from which nothing loads


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text("{")


def unknown_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "perceptron"}))


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def truncated(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def other_tokenizer(folder):
    train_tokenizer([f"word{number}" for number in range(300)] * 2, kind="word", vocab_size=300).save_pretrained(
        folder
    )


SPOILT = [
    (no_config, "{folder} holds no model: config.json is not there"),
    (broken_config, "{folder}/config.json is not JSON"),
    (unknown_type, "{folder}/config.json: model_type is 'perceptron', which is not known here. Correct it"),
    (no_weights, "{folder} holds no weights: model.safetensors is not there. Copy"),
    (pickled, "pytorch_model.bin is not read: loading a pickle runs the code in it"),
    (truncated, "{folder}/model.safetensors is cut off"),
    (other_tokenizer, "tokenizer of {folder} has 300 entries, but its model has only"),
]


@pytest.fixture
def fresh_accelerate_state():
    """Resets accelerate's state: its precision cannot change within a process, and other tests set another one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerate_state")
@pytest.mark.parametrize(("spoil", "message"), SPOILT)
def test_a_spoilt_folder_is_refused_with_the_file_and_what_to_do(
    models, spoil, message, tmp_path, monkeypatch, capsys
):
    task = ["--task", "stories_cloze", "--output_dir", str(tmp_path / "run"), "--bf16", "false"]
    for name, main, further in (
        ("transformer", translate_script.main, []),
        ("gpt1", finetune_gpt1.main, task),
        ("gpt1", generate_text.main, []),
        ("sentiment", classify.main, []),
    ):
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(models / name, folder)
            spoil(folder)
        monkeypatch.setattr("sys.argv", ["script", "--model_name_or_path", str(folder), *further])
        with pytest.raises(SystemExit) as stopped:
            run_script(main)
        assert stopped.value.code == 2 and message.format(folder=folder) in capsys.readouterr().err


TWIN_FILES = "file_modes.py library_arguments.py library_version.py old_keys.py plain_forms.py".split()
TWIN_FILES += "data/readers.py data/streamed_tables.py data/table_builder.py data/text_lines.py".split()
TWIN_FILES += ["data/hub_data.py", "data/word_cache.py", "data/wording.py"]


# A translator's checkpoint carries it, and a GPT-1's does not.
ALSO_TWINS = [("visible_text.py", "data/visible_text.py")]


@pytest.mark.parametrize(("first", "second"), [*((name, name) for name in TWIN_FILES), *ALSO_TWINS])
def test_both_packages_hold_the_same_file(first, second):
    """They do not import each other."""
    assert (ROOT / "seq2seq_scratch" / first).read_text() == (ROOT / "gpt1_scratch" / second).read_text()


def test_messages_of_the_recipes_and_of_the_packages_count_alike():
    """The recipes read settings before a package, which imports torch, is imported."""
    assert (ROOT / "recipes/settings/wording.py").read_text() == (ROOT / "gpt1_scratch/data/wording.py").read_text()
    assert [wording.counted(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
