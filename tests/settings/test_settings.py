"""Settings of every script: what --help says of them, and that they agree with what they set."""

import dataclasses
import importlib
import json
import re
import subprocess
import sys
import types
from typing import get_args, get_origin, get_type_hints

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from gpt1_scratch import GPT1Config
from gpt1_scratch.finetuning.tasks import TASKS
from gpt1_scratch.pretraining.corpora import STORIES
from papers_to_gpt.__main__ import COMMANDS
from papers_to_gpt.settings import decoding, finetuning, pretraining, training, translation
from seq2seq_scratch import TRANSLATION_CONFIGS
from seq2seq_scratch.translation import TOKENS_PER_BATCH

# Follow from the tokenizer, are fixed by what the model is, or concern the heads for tasks alone.
NOT_SET_BY_HAND = """
    vocab_size decoder_vocab_size pad_token_id bos_token_id eos_token_id decoder_start_token_id is_encoder_decoder
    use_cache classifier_dropout auxiliary_loss_weight both_orders delimiter_token_id
    share_vocabulary
""".split()
CONFIGS = [(translation.MODEL_SETTINGS[name], config) for name, config in TRANSLATION_CONFIGS.items()]
CONFIGS.append((pretraining.ModelSettings, GPT1Config))
HEADINGS = {"model", "tokenizer", "data", "decoding", "optimization", "training", "output", "Hub"}
HEADINGS |= {"ablation", "measurement"}  # of one script each
# What chooses among the settings of a script.
CHOICES = {"train-translation": [["--model_type", name] for name in TRANSLATION_CONFIGS]}
INVOCATIONS = [(name, more) for name in COMMANDS for more in CHOICES.get(name, [[]])]


def as_parsed(annotation):
    """`float | int` as `float`: the parser converts to one type, and every whole number is a float's value too."""
    members = get_args(annotation) if get_origin(annotation) is types.UnionType else (annotation,)
    return float if set(members) == {float, int} else annotation


@pytest.mark.parametrize(("settings", "config"), CONFIGS)
def test_settings_of_a_model_have_the_names_types_and_defaults_of_its_configuration(settings, config):
    expected = {
        name: (as_parsed(annotation), getattr(config, name))
        for name, annotation in config.__annotations__.items()
        if name not in (*NOT_SET_BY_HAND, "model_type") and not name.startswith("_")
    }
    kinds = get_type_hints(settings)
    assert {each.name: (kinds[each.name], each.default) for each in dataclasses.fields(settings)} == expected


def test_names_and_numbers_that_are_copied_to_keep_help_fast_are_those_of_the_packages():
    assert tuple(TASKS) == finetuning.TASK_NAMES
    assert tuple(name for name, task in TASKS.items() if task.submissions) == finetuning.GLUE_TASKS
    assert tuple(name for name in TASKS if name.startswith("stories_")) == finetuning.EMBEDDED_TASKS
    assert list(translation.MODEL_SETTINGS) == list(TRANSLATION_CONFIGS)
    assert get_args(get_type_hints(translation.ModelChoice)["model_type"]) == tuple(TRANSLATION_CONFIGS)
    assert decoding.TOKENS_PER_BATCH == TOKENS_PER_BATCH
    assert pretraining.STORIES == STORIES
    assert training.TRACKERS == sorted(LOGGER_TYPE_TO_CLASS)


def help_of(command, arguments, capsys):
    script = importlib.import_module(f"papers_to_gpt.{COMMANDS[command].stem}")
    with pytest.raises(SystemExit) as stop:
        script.parse([*arguments, "--help"], description=script.__doc__.splitlines()[0])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("command", "arguments"), INVOCATIONS)
def test_every_option_has_a_sentence_under_a_heading_and_one_spelling(command, arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # one line an option
    text = re.sub(r"\n {9,}", "  ", help_of(command, arguments, capsys))
    headings = re.findall(r"^(.+):$", text, re.M)
    assert headings and set(headings) <= HEADINGS and len(set(headings)) == len(headings)
    options = [line for line in text.splitlines() if line.startswith("  --")]
    assert len(options) >= 3
    for line in options:
        name, sentence = re.split(r" {2,}", line.strip())
        assert re.fullmatch(r"[A-Z][^ ]*[ ,][^\n]+\.( \(default: .+\))?", sentence), line
        assert not sentence.startswith("Of ") and len(sentence.split(". ")[0]) > 10, line
        assert "-" not in name.split()[0].removeprefix("--"), line


def test_settings_are_accepted_with_dashes():
    (settings,) = decoding.parse_translation(["--model-name-or-path", "x", "--num-beams=3"])
    assert (settings.model_name_or_path, settings.num_beams) == ("x", 3)


def test_help_and_wrong_settings_import_nothing_heavy():
    program = """
import contextlib, importlib, io, json, sys
found = {}
for name in json.loads(sys.argv[1]):
    script = importlib.import_module(f"papers_to_gpt.{name}")
    for arguments in (["--help"], ["--no_such_setting", "1"]):
        sys.argv = [name, *arguments]
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                script.main()
            except (SystemExit, ValueError):
                pass
    heavy = "numpy torch transformers datasets evaluate accelerate".split()
    found[name] = [package for package in heavy if package in sys.modules]
print(json.dumps(found))
"""
    names = [path.stem for path in COMMANDS.values()]
    result = subprocess.run([sys.executable, "-c", program, json.dumps(names)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {name: [] for name in names}
