"""The console command papers-to-gpt, and the names of presets."""

import configparser
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from papers_to_gpt import __main__ as command_line
from papers_to_gpt.settings.arguments import read_settings, value_of
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.presets import PRESETS, find_preset

ROOT = Path(__file__).parents[2]


# Commands that make a folder for what they write, but for those of training, which hold it as well.
WRITES_A_FOLDER = [
    ("visualize", "--runs", "runs/none"),
    ("reproduce", "run", "layer_cost"),
    ("check-presets", "numbers/bahdanau"),
    ("score-translation", "--model_name_or_path", "m", "--rescore", "l.txt", "--source_file", "s.txt"),
]


@pytest.fixture
def call(monkeypatch, capsys):
    """Returns a function that runs the command and returns its exit status, output and errors."""

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["papers-to-gpt", *arguments])
        status = 0
        try:
            command_line.main()
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return start


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_alone_it_lists_every_script_with_what_it_does(call, arguments):
    status, output, _ = call(*arguments)
    assert status == 0
    for path in (ROOT / "recipes").glob("[a-z]*.py"):
        does = path.read_text().removeprefix('"""').splitlines()[0]
        assert any(line.split() == [path.stem.replace("_", "-"), *does.split()] for line in output.splitlines()), path


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_command_is_its_script(call, monkeypatch, capsys, path):
    status, by_command, _ = call(path.stem.replace("_", "-"), "--help")
    assert status == 0
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(path), run_name="__main__")
    by_script = capsys.readouterr().out
    assert by_command.replace(f"papers-to-gpt {path.stem.replace('_', '-')}", path.name) == by_script


def test_an_unknown_command_is_answered_with_the_nearest_and_all(call):
    status, _, errors = call("train-translations", "numbers/bahdanau")
    assert status == 2
    assert "There is no command 'train-translations'. Did you mean 'train-translation'?" in errors
    assert "back-translate, benchmark, check-presets, " in errors


def test_wrong_settings_end_a_command_with_a_message(call):
    status, _, errors = call("train-translation", "numbers/bahdanau", "--max_step", "2")
    assert (status, errors) == (2, "error: command line: unknown setting 'max_step'. Did you mean 'max_steps'?\n")


@pytest.mark.parametrize(
    ("started", "follows"),
    [
        ("papers-to-gpt finetune-gpt1", "papers-to-gpt generate-text"),
        ("recipes/finetune_gpt1.py", "python recipes/generate_text.py"),
        (str(ROOT / "recipes" / "finetune_gpt1.py"), f"python {ROOT}/recipes/generate_text.py"),
        ("another_program.py", "python recipes/generate_text.py"),
    ],
)
def test_a_message_names_the_next_command_as_the_user_started_this_one(started, follows, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [started])
    assert command("generate_text", "--prompt", "Once upon") == f"{follows} --prompt 'Once upon'"


def test_it_runs_from_any_folder(tmp_path):
    command = [sys.executable, "-m", "papers_to_gpt", "pretrain-gpt1", "stories/gpt1_mini", "--hidden_size", "none"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert "hidden_size is none, but it cannot be unset" in result.stderr


@pytest.mark.parametrize(
    "name",
    ["numbers/bahdanau", "numbers/bahdanau.yaml", "recipes/presets/numbers/bahdanau.yaml", "presets/numbers/bahdanau"],
)
def test_a_preset_has_a_name_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_preset(name) == str(PRESETS / "numbers" / "bahdanau.yaml")
    assert value_of(read_settings([name]), "model_type") == "bahdanau"


def test_a_file_goes_before_a_packaged_preset_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "bahdanau.yaml").write_text("model_type: mine\n")
    assert value_of(read_settings(["numbers/bahdanau.yaml"]), "model_type") == "mine"


def test_a_preset_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="'numbers/bahdanu' is not a file and .* Did you mean 'numbers/bahdanau'?"):
        find_preset("numbers/bahdanu")


def test_the_installation_has_every_package_the_command_and_the_presets():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    names = {"gpt1_scratch": "gpt1_scratch", "recipes": "papers_to_gpt", "seq2seq_scratch": "seq2seq_scratch"}
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for folder, name in names.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == found
    assert "papers-to-gpt = papers_to_gpt.__main__:main" in setup["options.entry_points"]["console_scripts"]
    patterns = setup["options.package_data"]["papers_to_gpt"].split()
    packed = {path for pattern in patterns for path in (ROOT / "recipes").glob(pattern)}
    others = {path for path in (ROOT / "recipes").rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert packed == others


@pytest.mark.parametrize("arguments", WRITES_A_FOLDER, ids=lambda arguments: arguments[0])
def test_a_file_in_place_of_the_folder_to_write_is_said(call, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    for name in ("taken", "s.txt", "l.txt"):
        Path(name).write_text("0\n")
    more = ["--target_language", "de"] if arguments[0] == "score-translation" else []
    status, _, errors = call(*arguments, *more, "--output_dir", "taken/scores")
    assert status == 2 and "output_dir is taken/scores, which is a file or would be in one. Name a folder." in errors
