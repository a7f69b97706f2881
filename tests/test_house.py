"""The rules of the house: who imports whom, style, presets that parse, a README whose commands exist."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest

from papers_to_gpt import (
    ablate_gpt1,
    benchmark,
    classify,
    finetune_gpt1,
    generate_text,
    pretrain_gpt1,
    score_translation,
    share,
    train_translation,
    translate,
)
from papers_to_gpt.engine.arguments import parse_settings, read_settings, value_of
from papers_to_gpt.publishing.cards import write_card
from seq2seq_scratch import TRANSLATION_CONFIGS

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "recipes" / "presets").rglob("*.yaml"))

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


def module_names(path):
    """The modules that a file imports, whatever it takes from them: absolute names, relative ones resolved."""
    parts = path.relative_to(ROOT).parts
    package = [*parts[:-1]]
    if package[0] == "recipes":
        package[0] = "papers_to_gpt"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


SCRIPTS = {f"papers_to_gpt.{path.stem}" for path in (ROOT / "recipes").glob("*.py") if path.stem[0] != "_"}
PACKAGES = {"gpt1_scratch", "seq2seq_scratch"}

# Rooms from the lowest floor up, with what they must not import.
FORBIDDEN = {
    "gpt1_scratch": {"seq2seq_scratch", "papers_to_gpt", "accelerate"},
    "seq2seq_scratch": {"gpt1_scratch", "papers_to_gpt", "accelerate"},
    "recipes/engine": {*PACKAGES, "papers_to_gpt.publishing", "papers_to_gpt.benchmarks", *SCRIPTS},
    "recipes/publishing": {"papers_to_gpt.benchmarks", *SCRIPTS},
}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_down(room):
    for path in (ROOT / room).rglob("*.py"):
        for module in module_names(path):
            above = [name for name in FORBIDDEN[room] if module == name or module.startswith(f"{name}.")]
            assert not above, f"{path.relative_to(ROOT)} imports {module}"


def carried_files(package):
    """Configurations, models, tokenizers and pipelines of a package, and the files that these import."""
    folder = ROOT / package
    todo = [
        path
        for kind in ("configuration", "modeling", "tokenization", "pipeline")
        for path in folder.glob(f"{kind}*.py")
    ]
    carried = set()
    while todo:
        path = todo.pop()
        if path not in carried:
            carried.add(path)
            for level, module in imports_of(path)[1]:
                # The library copies siblings alone, by this form of import alone.
                assert level == 1 and module and "." not in module, path.name
                todo.append(folder / f"{module}.py")
    return carried


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_holds_flat_what_a_checkpoint_carries(package):
    flat = {path for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"}
    assert flat == carried_files(package)


def test_style():
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed; the extra `test` has it")
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run([ruff, *command, "."], cwd=ROOT, capture_output=True, text=True)
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


def readme_commands():
    """Every `python recipes/...` command of the README, with continued lines joined."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(
        r"^(?:\w+=\S+ )*(?:python|accelerate launch|torchrun[^\n]*?) (recipes/\w+\.py[^\n|<>#&]*)", readme, re.M
    )


def examples_that_would_ask(text):
    """Calls of a text's Python blocks that load a model or a tokenizer, but neither trust its code nor import ours."""
    asking = []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for call in re.findall(r"\b(?:Auto\w+\.from_pretrained|pipeline)\([^()]*\)", block):
            if "trust_remote_code=True" not in call and not re.search(r"^(?:import|from) \w+_scratch", block, re.M):
                asking.append(call)
    return asking


def test_examples_do_not_ask_on_the_terminal_whether_to_trust_the_code(tmp_path):
    asks = '```python\ntokenizer = AutoTokenizer.from_pretrained("runs/mine")\n```'
    assert examples_that_would_ask(asks) and not examples_that_would_ask(
        asks.replace("\n", "\nimport gpt1_scratch\n", 1)
    )
    texts = [(ROOT / "README.md").read_text(encoding="utf-8")]
    tasks = {"classification": ["text"], "similarity": ["text", "other"], "multiple_choice": ["text", "answers"]}
    configs = [{"model_type": name} for name in (*TRANSLATION_CONFIGS, "gpt1")]
    configs += [
        {
            **{"model_type": "gpt1", "problem_type": "single_label_classification", "id2label": {"0": "a", "1": "b"}},
            "finetuning_task": {"name": "mine", "kind": kind, "columns": columns},
        }
        for kind, columns in tasks.items()
    ]
    for config in configs:
        (tmp_path / "config.json").write_text(json.dumps({"transformers_version": "5.23.0", **config}))
        texts.append(write_card(tmp_path).read_text(encoding="utf-8"))
    assert all("trust_remote_code=True" in text for text in texts)
    assert [call for text in texts for call in examples_that_would_ask(text)] == []


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

# The fewest arguments that each script takes, for every family of models that has settings of its own.
LEAST_ARGUMENTS = [
    *(
        ("recipes/train_translation.py", [f"{ROOT}/recipes/presets/numbers/{family}.yaml"])
        for family in ("bahdanau", "rnn_seq2seq", "transformer")
    ),
    ("recipes/pretrain_gpt1.py", [f"{ROOT}/recipes/presets/stories/gpt1_mini.yaml"]),
    ("recipes/finetune_gpt1.py", [f"{ROOT}/recipes/presets/stories/sentiment.yaml"]),
    ("recipes/ablate_gpt1.py", [f"{ROOT}/recipes/presets/stories/sentiment.yaml"]),
    ("recipes/benchmark.py", []),
    ("recipes/share.py", ["runs/mine"]),
    *(
        (f"recipes/{script}.py", ["--model_name_or_path", "runs/mine"])
        for script in ("classify", "translate", "score_translation", "generate_text")
    ),
]


def test_every_setting_of_every_recipe_can_be_unset_or_says_why_not():
    """`none` gives None or an empty list by the setting's type; where it cannot, the message names the setting."""
    assert {script for script, _ in LEAST_ARGUMENTS} == set(PARSERS)
    for script, arguments in LEAST_ARGUMENTS:
        for part in PARSERS[script](arguments):
            for name, kind in get_type_hints(type(part)).items():
                label = f"{script} --{name}"
                allows_none, is_list = type(None) in get_args(kind), list in (kind, get_origin(kind))
                if name == "model_type":  # decides which settings there are, before they are parsed
                    continue
                try:
                    parsed = PARSERS[script]([*arguments, f"--{name}", "none"])
                except ValueError as error:
                    assert name in str(error), label
                    assert ("cannot be unset" in str(error)) is not (allows_none or is_list), label
                else:
                    assert allows_none or is_list, label
                    (value,) = (vars(settings)[name] for settings in parsed if name in vars(settings))
                    assert value == (None if allows_none else []), label


def test_files_of_ones_own_take_the_place_of_a_presets_data():
    numbers, glue = (
        str(ROOT / "recipes" / "presets" / name) for name in ("numbers/bahdanau.yaml", "glue/gpt1_small.yaml")
    )
    with pytest.raises(ValueError, match="--dataset_name none"):
        train_translation.parse([numbers, "--train_file", "mine.jsonl"])
    data = train_translation.parse([numbers, "--train_file", "mine.jsonl", "--dataset_name", "none"])[3]
    assert (data.dataset_name, data.train_file) == (None, "mine.jsonl")
    stories = str(ROOT / "recipes" / "presets" / "stories" / "gpt1_mini.yaml")
    with pytest.raises(ValueError, match="--dataset_name none"):
        pretrain_gpt1.parse([stories, *FILES])
    assert pretrain_gpt1.parse([stories, *FILES, "--dataset_name", "none"])[2].train_file == "train.txt"
    with pytest.raises(ValueError, match="--task none"):
        finetune_gpt1.parse([glue, "--train_file", "mine.csv"])
    assert finetune_gpt1.parse([glue, "--train_file", "mine.csv", "--task", "none"])[1].names() == [None]


def test_every_command_of_the_readme_parses():
    commands = [shlex.split(command) for command in readme_commands()]
    assert {command[0] for command in commands} == set(PARSERS)
    for script, *arguments in commands:
        PARSERS[script]([argument.replace("recipes/", f"{ROOT / 'recipes'}/") for argument in arguments])
