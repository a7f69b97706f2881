"""The rules of the house: who imports whom, style, presets that parse, documents whose commands parse."""

import ast
import configparser
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ablate_gpt1
import benchmark
import classify
import finetune_gpt1
import generate_text
import pretrain_gpt1
import score_translation
import share
import train_translation
import translate
from engine.arguments import parse_settings, read_settings, value_of

ROOT = Path(__file__).parents[1]
PRESETS_DIR = ROOT / "recipes" / "presets"
PRESETS = sorted(PRESETS_DIR.rglob("*.yaml"))
DOCUMENTS = [
    str(path.relative_to(ROOT))
    for folder in (".", "recipes", "recipes/presets", "seq2seq_scratch", "gpt1_scratch")
    for path in sorted((ROOT / folder).glob("*.md"))
]
PACKAGES = [name for name in ("seq2seq_scratch", "gpt1_scratch") if (ROOT / name).is_dir()]

# What a user would add to a preset that brings no data.
FILES = ["--train_file", "train.txt", "--validation_file", "validation.txt"]

# Settings that change neither the model nor its training, and words that count lines in a preset's comments.
BOOKKEEPING = """
    eval_steps logging_steps save_steps save_total_limit max_eval_blocks max_new_tokens dataloader_num_workers
""".split()
COUNTS = {word: count for count, word in enumerate("one two three four five six seven eight nine".split(), 1)}


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


def lines_without_a_source(preset):
    """The `setting: number` lines of a preset's text about which no comment says anything.

    A comment at the end of a line speaks of that line, and with "as (for) the next two" of two more; "as everything
    below" speaks of the rest of its paragraph. A comment on a line of its own speaks of what follows in its paragraph.
    """
    lines = []
    for paragraph in preset.split("\n\n"):
        commented = 0
        for line in paragraph.strip().splitlines():
            setting, _, comment = line.partition("#")
            if comment.strip():
                following = re.search(r"as (?:for )?the next (\w+)|(as everything below)", comment)
                more = COUNTS[following[1]] if following and following[1] else 0
                commented = math.inf if not setting or commented == math.inf or (following and following[2]) else more
            elif commented:
                commented -= 1
            elif re.search(r": +[\d.]", setting) and setting.partition(":")[0] not in BOOKKEEPING:
                lines.append(line)
    return lines


def test_every_number_of_training_and_model_size_in_a_preset_has_a_comment_with_its_source_or_reason():
    unexplained = {str(path.relative_to(PRESETS_DIR)): lines_without_a_source(path.read_text()) for path in PRESETS}
    assert not {name: lines for name, lines in unexplained.items() if lines}


def test_a_number_without_a_comment_is_found():
    preset = "a: 1  # PAPER\nb: 2\n\n# section 3\nc: 3\n\nd: 4  # PAPER, as the next one\ne: 5\nf: 6\neval_steps: 7"
    assert lines_without_a_source(preset) == ["b: 2", "f: 6"]


def test_every_preset_names_the_publication_that_it_follows():
    for path in PRESETS:
        comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert re.search(r"\b20\d\d\b", " ".join(comments)), path


def documented_commands(document):
    """The arguments of every `python recipes/...` command of a document, continued lines joined."""
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(
        r"^(?:\w+=\S+ )*(?:python|accelerate launch|torchrun[^\n]*?) (recipes/\w+\.py[^\n|<>#&]*)", text, re.M
    )
    return [shlex.split(command) for command in commands]


def test_every_preset_stands_in_a_command_of_the_presets_readme_and_in_its_table():
    text = (PRESETS_DIR / "README.md").read_text(encoding="utf-8")
    commands = documented_commands("recipes/presets/README.md")
    for path in PRESETS:
        assert any(str(path.relative_to(ROOT)) in command for command in commands), path
        assert re.search(rf"^\| `{path.relative_to(PRESETS_DIR)}` \|", text, re.M), path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for name in re.findall(r"(?:recipes|tests|seq2seq_scratch|gpt1_scratch)/[\w./-]+\.(?:py|yaml|md)", text):
        assert (ROOT / name).is_file(), name
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / document).parent.joinpath(link).exists(), link


def test_every_row_of_the_results_names_a_command_that_is_there():
    text = (ROOT / "recipes" / "RESULTS.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| ([A-Z]\d+) \|", text, re.M))
    headings = re.findall(r"^# ([A-Z]\d+.*)", text, re.M)
    labels = {label for heading in headings for label in re.findall(r"\b[A-Z]\d+\b", heading)}
    assert rows and rows <= labels


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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_parses(document):
    for script, *arguments in documented_commands(document):
        PARSERS[script]([argument.replace("recipes/", f"{ROOT / 'recipes'}/") for argument in arguments])


def test_the_documents_show_a_command_of_every_script():
    shown = {command[0] for document in DOCUMENTS for command in documented_commands(document)}
    assert shown == set(PARSERS)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
