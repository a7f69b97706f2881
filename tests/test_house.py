"""The rules of the house: who imports whom, style, presets that parse, a README whose commands exist."""

import ast
import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ablate_gpt1
import benchmark
import cards
import classify
import finetune_gpt1
import generate_text
import pretrain_gpt1
import score_translation
import share
import tiny_models
import train_translation
import translate
from engine.arguments import parse_settings, read_settings, value_of
from seq2seq_scratch import TRANSLATION_CONFIGS

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "recipes" / "presets").rglob("*.yaml"))
PACKAGES = [name for name in ("seq2seq_scratch", "gpt1_scratch") if (ROOT / name).is_dir()]

# What a user would add to a preset that brings no data.
FILES = ["--train_file", "train.txt", "--validation_file", "validation.txt"]


def parse_preset(path):
    """A preset read by its recipe: those of translators name a model_type, those of fine-tuning a model."""
    settings = read_settings([str(path)])
    if value_of(settings, "model_name_or_path") is not None:
        return finetune_gpt1.parse([str(path)])
    parse = pretrain_gpt1.parse if value_of(settings, "model_type") is None else train_translation.parse
    return parse([str(path), *([] if value_of(settings, "dataset_name") else FILES)])


def imports_of(path):
    """Top-level names of absolute imports, and the relative ones as (level, module)."""
    absolute, relative = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            absolute |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            relative.add((node.level, node.module))
        elif isinstance(node, ast.ImportFrom):
            absolute.add(node.module.split(".")[0])
    return absolute, relative


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_neither_each_other_nor_anything_above(package):
    forbidden = {"seq2seq_scratch", "gpt1_scratch", "engine", "recipes", "accelerate"}
    for path in (ROOT / package).glob("*.py"):
        assert not imports_of(path)[0] & forbidden, path.name


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_flat_so_that_a_checkpoint_carries_its_code(package):
    assert not [path for path in (ROOT / package).iterdir() if path.is_dir() and path.name != "__pycache__"]
    for path in (ROOT / package).glob("*.py"):
        for level, module in imports_of(path)[1]:
            assert level == 1 and module and "." not in module, path.name


def test_the_engine_knows_no_model_and_no_data_set():
    for path in (ROOT / "recipes" / "engine").glob("*.py"):
        absolute, _ = imports_of(path)
        recipes = {recipe.stem for recipe in (ROOT / "recipes").glob("*.py")}
        assert not absolute & ({"seq2seq_scratch", "gpt1_scratch"} | recipes), path.name


def test_style():
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed; the extra `test` has it")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    options = [f"--config={key}={value}" for key, value in settings["tool:ruff"].items()]
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run([ruff, *command, *options, "."], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_preset_parses_and_names_its_output():
    assert PRESETS
    for path in PRESETS:
        *_, training = parse_preset(path)
        assert training.output_dir == f"runs/{path.parent.name}_{path.stem}", path


def test_every_number_of_a_preset_has_its_source():
    """Each line of a preset that holds a number of training or model size stands under a comment or carries one."""
    for path in PRESETS:
        assert re.search(r"^# .*(20\d\d|embedded)", path.read_text(), flags=re.MULTILINE), path


def test_readme_names_every_preset_and_only_files_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in PRESETS:
        assert str(path.relative_to(ROOT / "recipes")) in readme, path
    named = re.findall(r"(?:recipes|tests|seq2seq_scratch|gpt1_scratch)/[\w./-]+\.(?:py|yaml)", readme)
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name


def parser_of(settings_class):
    return lambda arguments: parse_settings(read_settings(arguments), settings_class, description="")


PARSERS = {
    "recipes/train_translation.py": train_translation.parse,
    "recipes/pretrain_gpt1.py": pretrain_gpt1.parse,
    "recipes/finetune_gpt1.py": finetune_gpt1.parse,
    "recipes/ablate_gpt1.py": ablate_gpt1.parse,
    "recipes/benchmark.py": benchmark.parse,
    "recipes/share.py": share.parse,
    "recipes/classify.py": parser_of(classify.ClassificationSettings),
    "recipes/translate.py": parser_of(translate.TranslationSettings),
    "recipes/score_translation.py": parser_of(score_translation.ScoringSettings),
    "recipes/generate_text.py": parser_of(generate_text.GenerationSettings),
}


def commands_of(path):
    """Every `python recipes/...` command of a document as a list of words, with continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    command = r"^(?:\w+=\S+ )*(?:python|accelerate launch|torchrun[^\n]*?) (recipes/\w+\.py[^\n|<>#&]*)"
    return [shlex.split(found) for found in re.findall(command, text, re.M)]


def parse_command(script, *arguments):
    """What the recipe reads from a documented command."""
    return PARSERS[script]([argument.replace("recipes/", f"{ROOT / 'recipes'}/") for argument in arguments])


def test_every_command_of_the_readme_parses():
    commands = commands_of(ROOT / "README.md")
    assert {command[0] for command in commands} == set(PARSERS)
    for command in commands:
        parse_command(*command)


def test_every_translator_has_an_entry_for_its_card():
    assert set(cards.TRANSLATORS) == set(TRANSLATION_CONFIGS)


def test_every_translator_is_tested_in_small():
    assert {config for _, config, _ in tiny_models.TRANSLATORS.values()} == set(TRANSLATION_CONFIGS.values())
