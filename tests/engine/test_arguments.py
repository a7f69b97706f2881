"""Settings from presets and the command line."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest

from papers_to_gpt.settings.arguments import CheckedSettings, parse_settings, read_settings, run_script, value_of


@dataclass
class Settings:
    learning_rate: float = 1.0
    max_steps: int | None = None
    lowercase: bool = True
    optim: Literal["adam", "sgd"] = "adam"
    report_to: list[str] = field(default_factory=list)
    layers: list[int] | None = None
    bf16: bool | None = True
    title: str = "untitled"
    normalization: Literal["none", "layer"] = "layer"


def parse(*arguments):
    (settings,) = parse_settings(read_settings(list(arguments)), Settings, description="test")
    return settings


@pytest.fixture
def preset(tmp_path):
    def write(text):
        path = tmp_path / "preset.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_preset_values_get_their_types_and_the_command_line_wins(preset):
    path = preset("learning_rate: 3e-4  # paper\nlowercase: false\nreport_to: [a, b]\nmax_steps: 10\n")
    assert parse(path, "--max_steps", "20") == Settings(3e-4, 20, False, "adam", ["a", "b"])


def test_negative_numbers_and_equals_signs_are_values():
    assert parse("--learning_rate", "-1e-3").learning_rate == -1e-3
    assert parse("--learning-rate=2").learning_rate == 2


@pytest.mark.parametrize("word", ["1000", "1e3", "1E+3", "1000.0", "0.01e5"])
def test_a_whole_number_may_be_written_as_one_with_an_exponent(preset, word):
    in_preset = parse(preset(f"max_steps: {word}\nlayers: [{word}]\n"))
    assert (in_preset.max_steps, in_preset.layers) == (1000, [1000])
    assert type(parse("--max_steps", word).max_steps) is int


@pytest.mark.parametrize("word", ["1.5", "1e-3", "inf", "nan", "many"])
def test_a_number_that_is_not_whole_is_refused(word):
    with pytest.raises(ValueError, match=rf"max_steps: invalid int value: '{word}' \(it must be a whole number, such"):
        parse("--max_steps", word)


def test_all_mistakes_are_reported_together_with_place_and_nearest_name(preset):
    path = preset("lerning_rate: 1\nmax_steps: many\n")
    with pytest.raises(ValueError) as error:
        parse(path, "--optim", "lion", "--lowercase", "perhaps")
    message = str(error.value)
    assert f"{path}:1: unknown setting 'lerning_rate'. Did you mean 'learning_rate'?" in message
    assert f"{path}:2: max_steps: invalid int value: 'many'" in message
    assert "command line: optim: invalid choice: 'lion'" in message and "'adam', 'sgd'" in message
    assert "command line: lowercase" in message


def test_a_file_of_unknown_settings_is_one_mistake(preset):
    path = preset("model_type: a\nd_model: 1\ndropout: 0\nbeams: 2\nvocab_size: 9\nlearning_rate: 1\n")
    with pytest.raises(ValueError) as error:
        parse(path, "--vocab", "1")
    first, second = str(error.value).split("\n")
    assert first.startswith(f"{path}: 5 unknown settings: model_type, d_model, dropout, beams and others. It may be ")
    assert second.startswith("command line: unknown setting 'vocab'.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: 1\nlearning_rate: 2\n", "written twice"),
        ("learning_rate:\n", ":1: learning_rate is none, but it cannot be unset. It must be a value of type float"),
        ("lowercase: []\n", ":1: lowercase takes one value, got \\[\\]"),
        ("max_steps: []\n", ":1: max_steps takes one value, got \\[\\]"),
        ("learning_rate: {a: 1}\n", "one value or a list"),
        ("bf16: true\n{{ rate }}: 1\n", ":2: brackets and braces cannot be the name of a setting"),
        ("- learning_rate\n", "must be a list of `setting: value` lines"),
        ("learning_rate: [1\n", "not valid YAML"),
    ],
)
def test_a_malformed_preset_is_refused(preset, text, expected):
    with pytest.raises(ValueError, match=expected):
        parse(preset(text))


def test_a_missing_preset_is_named():
    with pytest.raises(ValueError, match="'nowhere.yaml' is not a file"):
        parse("nowhere.yaml")


def test_a_value_without_a_setting_is_refused():
    with pytest.raises(ValueError, match="'-x' on the command line follows no --setting"):
        read_settings(["-x", "20"])


def test_one_value_settings_refuse_several():
    with pytest.raises(ValueError, match="max_steps takes one value"):
        parse("--max_steps", "1", "2")


@pytest.mark.parametrize("word", ["none", "None", "null", "NULL"])
def test_none_on_the_command_line_takes_back_what_a_preset_sets(preset, word):
    path = preset("max_steps: 3\nreport_to: [a, b]\nlayers: [1, 2]\nbf16: false\n")
    unset = parse(path, *(f"--{name}={word}" for name in ("max_steps", "report_to", "layers", "bf16")))
    assert (unset.max_steps, unset.report_to, unset.layers, unset.bf16) == (None, [], None, None)


@pytest.mark.parametrize("null", ["null", "~", "", "none"])
def test_null_in_a_preset_unsets_a_default(preset, null):
    assert parse(preset(f"bf16: {null}\n")).bf16 is None


def test_an_empty_list_is_not_the_same_as_an_unset_one(preset):
    assert parse(preset("layers: []\nreport_to: []\n")) == Settings(layers=[])
    assert parse(preset("layers: [3]\n"), "--layers").layers == []
    assert parse(preset("layers: [3]\n"), "--layers", "none").layers is None


def test_the_last_of_a_value_and_none_wins(preset):
    path = preset("max_steps: none\nreport_to: none\nlowercase: true\n")
    assert parse(path, "--max_steps", "4", "--report_to", "a") == Settings(max_steps=4, report_to=["a"])
    assert parse("--max_steps", "4", "--max_steps", "none", "--max_steps", "5").max_steps == 5
    assert parse(path, "--no_lowercase", "--lowercase", "true").lowercase is True
    assert parse(path, "--lowercase", "true", "--no_lowercase").lowercase is False


def test_none_is_a_value_where_it_is_one_of_the_choices():
    assert parse("--normalization", "none").normalization == "none"
    with pytest.raises(
        ValueError, match="normalization is null, but it cannot be unset. It must be one of 'none', 'l"
    ):
        parse("--normalization", "null")


def test_all_settings_that_cannot_be_unset_are_reported_together():
    with pytest.raises(ValueError) as error:
        parse("--learning_rate", "none", "--optim", "None", "--title", "none", "--lowercase", "null")
    assert str(error.value).splitlines() == [
        f"command line: {name} is {word}, but it cannot be unset. It must be {allowed}; leave it out for the default."
        for name, word, allowed in (
            ("learning_rate", "none", "a value of type float"),
            ("optim", "None", "one of 'adam', 'sgd'"),
            ("title", "none", "a value of type str"),
            ("lowercase", "null", "a value of type bool"),
        )
    ]


def test_value_of_gives_the_last_one_before_parsing(preset):
    settings = read_settings([preset("optim: adam\n"), "--optim", "sgd"])
    assert value_of(settings, "optim") == "sgd"
    assert value_of(settings, "learning_rate") is None


def test_user_errors_end_a_script_with_a_message_and_status_2(capsys):
    def main():
        raise ValueError("max_steps is -1; it must be positive.")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: max_steps is -1; it must be positive.\n"


ENDINGS = {
    "a_fault": (
        "raise KeyError('no_such_column')",
        1,
        "error: KeyError: 'no_such_column'. This is a fault of the program; LOGLEVEL=DEBUG shows the traceback.\n",
    ),
    "ctrl_c": ("import os, signal; os.kill(os.getpid(), signal.SIGINT); signal.pause()", 130, "Interrupted.\n"),
    "ctrl_c_with_advice": ("raise KeyboardInterrupt('Interrupted at update 3.')", 130, "Interrupted at update 3.\n"),
}
SCRIPT = """
import sys
from papers_to_gpt.settings.arguments import run_script

def main():
    {body}

run_script(main)
"""


@pytest.mark.parametrize(("body", "status", "message"), ENDINGS.values(), ids=ENDINGS)
def test_a_script_ends_with_one_line_and_its_status(body, status, message):
    environment = {name: value for name, value in os.environ.items() if name != "LOGLEVEL"}
    command = [sys.executable, "-c", SCRIPT.format(body=body)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout, result.stderr) == (status, "", message)
    result = subprocess.run(command, capture_output=True, text=True, env=environment | {"LOGLEVEL": "DEBUG"})
    assert result.returncode == status and "Traceback (most recent call last)" in result.stderr


@pytest.mark.parametrize("level", ["", "trace", "2", "warn"])
def test_a_level_of_the_log_that_is_meant_for_another_program_ends_nothing(level):
    command = [sys.executable, "-c", SCRIPT.format(body="print('done')")]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LOGLEVEL": level})
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    "body",
    [
        "for _ in range(100_000): print('a line', flush=True)",
        "print('buffered until the end')",
        "print('help'); raise SystemExit(0)",
    ],
)
def test_a_closed_pipe_ends_a_script_without_a_message(body):
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    command = [sys.executable, "-c", SCRIPT.format(body=body)]
    result = subprocess.run(command, stdout=writing_end, stderr=subprocess.PIPE, text=True)
    os.close(writing_end)
    assert (result.returncode, result.stderr) == (141, "")


def test_an_error_of_the_system_names_the_setting_and_a_missing_package_what_to_install(tmp_path):
    (tmp_path / "file").write_text("")
    for body, status, message in (
        (
            "os.makedirs(settings.output_dir)",
            2,
            f"error: output_dir {tmp_path}/file/run: Not a directory. Name",
        ),
        (
            "import nowhere_to_be_found.part",
            2,
            "error: the package nowhere_to_be_found is not installed. Install",
        ),
        ("open('/nowhere/else')", 2, "error: /nowhere/else: No such file or directory."),
    ):
        code = f"""
import dataclasses, os
from papers_to_gpt.settings.arguments import Setting, option, parse_settings, run_script
@dataclasses.dataclass
class Settings:
    output_dir: str = option("", "A folder.")
def main():
    given = [Setting("output_dir", ({str(tmp_path / "file" / "run")!r},), "command line")]
    (settings,) = parse_settings(given, Settings)
    {body}
run_script(main)
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (result.returncode, result.stderr[: len(message)]) == (status, message)


def test_bytes_that_are_not_utf_8_are_refused_before_they_reach_records():
    with pytest.raises(ValueError, match="output_dir is 'x.udcff', which is not UTF-8"):
        OptionsWithText(output_dir="x\udcff")
    assert OptionsWithText(input_file="x\udcff").input_file


@dataclass
class OptionsWithText(CheckedSettings):
    output_dir: str = ""
    input_file: str = ""
