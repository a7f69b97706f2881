"""The rules of the code base: imports, style, presets that parse, and documents whose commands parse."""

import ast
import configparser
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import tiny_models

from gpt1_scratch.finetuning.tasks import TASKS
from gpt1_scratch.pretraining.corpora import load_texts
from gpt1_scratch.pretraining.embedded import EMBEDDED_TEXTS
from papers_to_gpt import (
    back_translate,
    benchmark,
    check_presets,
    classify,
    convert_openai_gpt,
    demo,
    export,
    finetune_gpt1,
    generate_text,
    illustrate,
    pretrain_gpt1,
    reproduce,
    score_text,
    score_translation,
    share,
    train_translation,
    translate,
    visualize,
)
from papers_to_gpt.engine.reporting import flatten_settings
from papers_to_gpt.publishing.cards import TRANSLATORS, write_card
from papers_to_gpt.publishing.data_sources import HUB_SOURCES, source_of_dataset, source_of_task
from papers_to_gpt.settings.arguments import read_settings, value_of
from seq2seq_scratch import TRANSLATION_CONFIGS
from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.data.embedded import EMBEDDED_PAIRS

ROOT = Path(__file__).parents[1]
PRESETS_DIR = ROOT / "recipes" / "presets"
PRESETS = sorted(PRESETS_DIR.rglob("*.yaml"))
DOCUMENTS = [
    str(path.relative_to(ROOT))
    for folder in (".", "recipes", "recipes/presets", "seq2seq_scratch", "gpt1_scratch")
    for path in sorted((ROOT / folder).glob("*.md"))
]

# What a user would add to a preset that brings no data.
FILES = ["--train_file", "train.txt", "--validation_file", "validation.txt"]

# Settings that change neither the model nor its training, and words that count lines in a preset's comments.
BOOKKEEPING = """
    eval_steps logging_steps save_steps save_total_limit max_eval_blocks max_new_tokens dataloader_num_workers
""".split()
COUNTS = {word: count for count, word in enumerate("one two three four five six seven eight nine".split(), 1)}


def parse_preset(path):
    """Parses a preset with its recipe: presets of translators name a model_type, those of fine-tuning a model."""
    settings = read_settings([str(path)])
    if value_of(settings, "model_name_or_path") is not None:
        return finetune_gpt1.parse([str(path)])
    parse = pretrain_gpt1.parse if value_of(settings, "model_type") is None else train_translation.parse
    return parse([str(path), *([] if value_of(settings, "dataset_name") else FILES)])


def imports_of(path):
    """Returns the top-level names of absolute imports, and relative imports as (level, module)."""
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
    """Returns the modules that a file imports, with relative names resolved."""
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

# Scripts are what a user runs, and no room imports one.
ROOMS = {
    *("settings", "engine", "exporting", "plots", "publishing", "translation", "gpt1", "benchmarks", "papers"),
    *("visualization", "illustrations", "demonstration"),
}
HEAVY = {"accelerate", "datasets", "evaluate", "numpy", "torch", "transformers"}


def rooms_above(*below):
    return {f"papers_to_gpt.{room}" for room in ROOMS.difference(below)} | SCRIPTS


# Rooms from the lowest floor up, with what they must not import.
FORBIDDEN = {
    "gpt1_scratch": {"seq2seq_scratch", "papers_to_gpt", "accelerate"},
    "seq2seq_scratch": {"gpt1_scratch", "papers_to_gpt", "accelerate"},
    "recipes/settings": {*PACKAGES, *HEAVY, *rooms_above("settings")},
    "recipes/engine": {*PACKAGES, *rooms_above("settings", "engine")},
    "recipes/plots": {*PACKAGES, "torch", "transformers", *rooms_above("settings", "plots")},
    "recipes/exporting": rooms_above("settings", "engine", "exporting"),
    "recipes/publishing": rooms_above("settings", "engine", "exporting", "plots", "publishing"),
    "recipes/translation": rooms_above("settings", "engine", "exporting", "plots", "publishing", "translation"),
    "recipes/gpt1": rooms_above("settings", "engine", "exporting", "plots", "publishing", "gpt1"),
    "recipes/visualization": {
        *(
            "papers_to_gpt.publishing",
            "papers_to_gpt.benchmarks",
            "papers_to_gpt.demonstration",
            "papers_to_gpt.illustrations",
            "papers_to_gpt.papers",
        ),
        *SCRIPTS,
    },
    "recipes/illustrations": rooms_above(
        "settings", "engine", "plots", "translation", "gpt1", "visualization", "illustrations"
    ),
    "recipes/demonstration": {
        *("papers_to_gpt.benchmarks", "papers_to_gpt.illustrations", "papers_to_gpt.papers"),
        *SCRIPTS,
    },
    # Experiments run the recipes as commands.
    "recipes/papers": rooms_above("settings", "engine", "plots", "papers"),
    "recipes/benchmarks": SCRIPTS,
}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_down(room):
    for path in (ROOT / room).rglob("*.py"):
        for module in module_names(path):
            above = [name for name in FORBIDDEN[room] if module == name or module.startswith(f"{name}.")]
            assert not above, f"{path.relative_to(ROOT)} imports {module}"


def carried_files(package):
    """Returns the configurations, models, tokenizers and pipelines of a package, and the files that they import."""
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


def test_an_installation_has_every_package():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    folders = {"gpt1_scratch": "gpt1_scratch", "seq2seq_scratch": "seq2seq_scratch", "recipes": "papers_to_gpt"}
    expected = set()
    for folder, package in folders.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            expected.add(".".join([package, *path.parent.relative_to(ROOT / folder).parts]))
    assert set(settings["options"]["packages"].split()) == expected


def test_a_source_archive_has_every_folder():
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    assert {line.split()[1] for line in lines if line.startswith("graft ")} == {*PACKAGES, "recipes", "tests"}


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
        *_, training, _ = parse_preset(path)
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
    """Returns the arguments of every `python recipes/...` command of a document, with continued lines joined."""
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(
        r"^(?:\w+=\S+ )*(?:python|accelerate launch[^\n]*?|torchrun[^\n]*?) (recipes/\w+\.py[^\n|<>#&]*)", text, re.M
    )
    return [shlex.split(command) for command in commands]


def test_every_preset_stands_in_a_command_of_the_presets_readme_and_in_its_table():
    text = (PRESETS_DIR / "README.md").read_text(encoding="utf-8")
    commands = documented_commands("recipes/presets/README.md")
    for path in PRESETS:
        assert any(str(path.relative_to(ROOT)) in command for command in commands), path
    named = re.findall(r"^\| `([\w/]+\.yaml)` \|", text, re.M)
    assert sorted(named) == [path.relative_to(PRESETS_DIR).as_posix() for path in PRESETS]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for name in re.findall(r"(?:recipes|tests|seq2seq_scratch|gpt1_scratch)/[a-z\d_./-]+\.(?:py|yaml|md)\b", text):
        assert (ROOT / name).is_file(), name
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (ROOT / document).parent.joinpath(link).exists(), link


def test_every_row_of_the_results_names_a_command_that_is_there():
    text = (ROOT / "recipes" / "RESULTS.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| ([A-Z]\d+) \|", text, re.M))
    headings = re.findall(r"^# ([A-Z]\d+.*)", text, re.M)
    labels = {label for heading in headings for label in re.findall(r"\b[A-Z]\d+\b", heading)}
    assert rows and rows <= labels


def examples_that_would_ask(text):
    """Returns the calls in Python blocks that load a model but neither trust its code nor import our packages."""
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


PARSERS = {
    "recipes/train_translation.py": train_translation.parse,
    "recipes/pretrain_gpt1.py": pretrain_gpt1.parse,
    "recipes/finetune_gpt1.py": finetune_gpt1.parse,
    "recipes/benchmark.py": benchmark.parse,
    "recipes/check_presets.py": check_presets.parse,
    "recipes/share.py": share.parse,
    "recipes/convert_openai_gpt.py": convert_openai_gpt.parse,
    "recipes/export.py": export.parse,
    "recipes/classify.py": classify.parse,
    "recipes/translate.py": translate.parse,
    "recipes/back_translate.py": back_translate.parse,
    "recipes/score_translation.py": score_translation.parse,
    "recipes/generate_text.py": generate_text.parse,
    "recipes/score_text.py": score_text.parse,
    "recipes/visualize.py": visualize.parse,
    "recipes/illustrate.py": illustrate.parse,
    "recipes/demo.py": demo.parse,
    "recipes/reproduce.py": reproduce.parse,
}

# The fewest arguments that each script takes, for every family of models that has settings of its own.
LEAST_ARGUMENTS = [
    *(
        ("recipes/train_translation.py", [f"{ROOT}/recipes/presets/numbers/{family}.yaml"])
        for family in ("bahdanau", "rnn_seq2seq", "transformer")
    ),
    ("recipes/pretrain_gpt1.py", [f"{ROOT}/recipes/presets/stories/gpt1_mini.yaml"]),
    ("recipes/finetune_gpt1.py", [f"{ROOT}/recipes/presets/stories/sentiment.yaml"]),
    ("recipes/benchmark.py", []),
    ("recipes/check_presets.py", ["numbers/bahdanau"]),
    ("recipes/illustrate.py", []),
    ("recipes/demo.py", []),
    ("recipes/reproduce.py", ["list"]),
    ("recipes/share.py", ["runs/mine"]),
    ("recipes/convert_openai_gpt.py", ["openai-community/openai-gpt", "runs/mine"]),
    ("recipes/export.py", ["runs/mine", "--format", "ctranslate2", "--output_dir", "runs/exported"]),
    ("recipes/visualize.py", ["runs/mine", "A sentence."]),
    ("recipes/back_translate.py", ["runs/mine", "--input_file", "mono.de", "--output_file", "pairs.tsv"]),
    *(
        (f"recipes/{script}.py", ["--model_name_or_path", "runs/mine"])
        for script in ("classify", "translate", "score_translation", "generate_text", "score_text")
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
    data = train_translation.parse([numbers, "--train_file", "mine.jsonl", "--dataset_name", "none"])[4]
    assert (data.dataset_name, data.train_file) == (None, ["mine.jsonl"])
    stories = str(ROOT / "recipes" / "presets" / "stories" / "gpt1_mini.yaml")
    with pytest.raises(ValueError, match="--dataset_name none"):
        pretrain_gpt1.parse([stories, *FILES])
    assert pretrain_gpt1.parse([stories, *FILES, "--dataset_name", "none"])[3].train_file == ["train.txt"]
    with pytest.raises(ValueError, match="--task none"):
        finetune_gpt1.parse([glue, "--train_file", "mine.csv"])
    assert finetune_gpt1.parse([glue, "--train_file", "mine.csv", "--task", "none"])[1].names() == [None]


def parse_command(script, *arguments):
    """Parses a documented command with its recipe."""
    return PARSERS[script]([argument.replace("recipes/", f"{ROOT / 'recipes'}/") for argument in arguments])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_parses(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    presets = {}
    for script, *arguments in documented_commands(document):
        values = dict(zip(arguments, arguments[1:], strict=False))
        start = Path(values.get("--init_from", tmp_path))
        if not start.exists():
            write_small_files_of_model(start, presets.get(str(start), start.name.replace("_", "/", 1)))
        parse_command(script, *arguments)
        presets[values.get("--output_dir")] = arguments[0] if arguments else None
        if "--init_from" in values:  # a later command may start from what this one trains
            shutil.copytree(start, values["--output_dir"])


def write_small_files_of_model(folder, preset):
    """Writes what a command reads of the model of a preset before it loads it, into the folder of its output."""
    path = ROOT / (preset if preset.startswith("recipes/") else f"recipes/presets/{preset}")
    settings = flatten_settings(parse_preset(path.with_suffix(".yaml")))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt1", **settings}))
    merges = [["a", "b"]] * settings.get("num_merges", 1)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "merges": merges}}))


def test_the_documents_show_a_command_of_every_script():
    shown = {command[0] for document in DOCUMENTS for command in documented_commands(document)}
    assert shown == set(PARSERS)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_translator_has_an_entry_for_its_card():
    assert set(TRANSLATORS) == set(TRANSLATION_CONFIGS)


def test_every_data_set_and_task_has_a_source_and_terms_for_its_card():
    """Tasks that come only as files (story_cloze) have none: the person who has the files must state their terms."""
    names = {value_of(read_settings([str(path)]), "dataset_name") for path in PRESETS} - {None}
    sources = {name: source_of_dataset(name) for name in (*names, *EMBEDDED_PAIRS, *EMBEDDED_TEXTS, *HUB_SOURCES)}
    assert [name for name, source in sources.items() if source is None] == []
    assert [name for name in TASKS if source_of_task(name) is None] == ["story_cloze"]
    for source in (*sources.values(), *filter(None, map(source_of_task, TASKS))):
        assert source.description.endswith(".") and source.terms.endswith((".", ")."))


def test_every_embedded_data_set_loads_by_the_name_it_is_registered_under():
    for name, entry in EMBEDDED_PAIRS.items():
        pairs = load_parallel_data(dataset_name=name, source_language="en", target_language="de")
        assert {"train", "validation", "test"} <= set(pairs)
        assert set(entry.examples) >= {"en", "de", "fr"}
    for name, entry in EMBEDDED_TEXTS.items():
        for split in ("train", "validation"):
            assert load_texts(name, split)[0]["text"] and entry.opening
    for name, task in TASKS.items():
        assert [task.hub, task.embedded].count(None) == (2 if name == "story_cloze" else 1)


def test_every_translator_is_tested_in_small():
    assert {config for _, config, _ in tiny_models.TRANSLATORS.values()} == set(TRANSLATION_CONFIGS.values())
