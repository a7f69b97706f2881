"""Settings from a YAML preset and the command line, through one parser.

A preset's `key: value` pairs become `--key value` ahead of the command line, so that both get the same types, choices
and messages, and the command line wins. Everything wrong is reported at once, before any data loads.

The value `none` (or `null`, in any case) takes back what a preset or a default has set: the setting is None where its
type allows None, and empty where it is a list.
"""

import argparse
import dataclasses
import difflib
import itertools
import logging
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

# A preset writes a YAML null, or one of these words; the command line one of the words.
WORDS_FOR_NO_VALUE = ("none", "null")

COMMAND_LINE = "command line"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One `--key value...`, and where it was written."""

    key: str
    values: tuple[str, ...]
    origin: str


def read_settings(arguments: Sequence[str] | None = None) -> list[Setting]:
    """The settings of the preset, if the first argument names one, followed by those of the command line.

    Args:
        arguments: the command line without the program's name; `sys.argv[1:]` when left out.

    Raises:
        ValueError: for a preset that cannot be read and for a command line that is no list of `--key value`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    settings = []
    if arguments and not arguments[0].startswith("-"):
        settings += _read_preset(arguments.pop(0))
    # What follows a `--key`, up to the next one, are its values. A negative number is a value.
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            settings.append(Setting(key.replace("-", "_"), (value,) if equals else (), COMMAND_LINE))
        elif settings and settings[-1].origin == COMMAND_LINE:
            settings[-1] = dataclasses.replace(settings[-1], values=(*settings[-1].values, argument))
        else:
            raise ValueError(
                f"{argument!r} on the command line stands behind no --setting. "
                "Usage: SCRIPT.py [PRESET.yaml] [--setting value ...]; --help lists the settings."
            )
    return settings


def _read_preset(path: str) -> list[Setting]:
    if not Path(path).is_file():
        raise ValueError(f"The preset {path!r} is not a file. Presets that come with the recipes: recipes/presets/.")
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The preset {path} is not valid YAML: {error}") from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"The preset {path} must be a list of `setting: value` lines.")
    settings, lines = [], {}
    # Scalars are taken as they are written: the parser gives them their types, so `3e-4` is a number here too.
    for key_node, value_node in root.value:
        origin = f"{path}:{key_node.start_mark.line + 1}"
        key = key_node.value
        if key in lines:
            raise ValueError(f"{origin}: the setting {key!r} is written twice, first at {lines[key]}. Keep one.")
        lines[key] = origin
        if isinstance(value_node, yaml.ScalarNode):
            is_null = value_node.tag == "tag:yaml.org,2002:null"
            values = (WORDS_FOR_NO_VALUE[0] if is_null else value_node.value,)
        elif isinstance(value_node, yaml.SequenceNode) and all(
            isinstance(n, yaml.ScalarNode) for n in value_node.value
        ):
            values = tuple(node.value for node in value_node.value)
        else:
            raise ValueError(f"{origin}: the value of {key!r} must be one value or a list of values.")
        settings.append(Setting(key, values, origin))
    return settings


def value_of(settings: Sequence[Setting], key: str) -> str | None:
    """The last value given for a setting, before any parsing; None if there is none."""
    return next((setting.values[0] for setting in reversed(settings) if setting.key == key and setting.values), None)


def parse_settings(settings: Sequence[Setting], *dataclass_types: type, description: str) -> tuple[Any, ...]:
    """Turns settings into one instance of each dataclass.

    Raises:
        ValueError: lists every unknown setting with the nearest known one, every value of a wrong type, and every
            `none` for a setting that must have a value.
        SystemExit: after printing the settings, if `--help` is among them.
    """
    # The parser takes None out of the types in the fields, so they are read from the annotations.
    annotations = {name: kind for part in dataclass_types for name, kind in get_type_hints(part).items()}
    parser = HfArgumentParser(
        dataclass_types,
        description=description,
        epilog=f"The value {WORDS_FOR_NO_VALUE[0]} unsets a setting that may be None, and empties a list.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    known = {option[2:].replace("-", "_") for option in parser._option_string_actions if option.startswith("--")}
    if any(setting.key == "help" for setting in settings):
        parser.print_help()
        raise SystemExit(0)
    problems, pairs, unset = [], {}, {}
    for setting in settings:
        if setting.key not in known:
            nearest = difflib.get_close_matches(setting.key, known, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else " --help lists the settings."
            problems.append(f"{setting.origin}: unknown setting {setting.key!r}.{hint}")
            continue
        # The last of several values wins, so a setting has one pair of arguments, or none if it is unset.
        pairs.pop(setting.key, None)
        unset.pop(setting.key, None)
        annotation = annotations.get(setting.key, bool)  # --no_NAME, which the parser adds to switches, has no field
        if _has_no_value(setting, annotation):
            try:
                unset[setting.key] = _value_when_unset(setting, annotation)
            except ValueError as error:
                problems.append(str(error))
            continue
        # `--key=value` for single values, so that a value may start with a dash.
        pair = [f"--{setting.key}={setting.values[0]}"] if len(setting.values) == 1 else [f"--{setting.key}"]
        pair += setting.values if len(setting.values) > 1 else ()
        try:
            _, unused = parser.parse_known_args(pair)
        except argparse.ArgumentError as error:
            problems.append(f"{setting.origin}: {setting.key}: {error.message.rstrip('.')}.")
        else:
            if unused:
                problems.append(f"{setting.origin}: {setting.key} takes one value, got {list(setting.values)}.")
        pairs[setting.key] = pair
    if problems:
        raise ValueError("\n".join(problems))
    parser.set_defaults(**unset)
    return parser.parse_args_into_dataclasses(list(itertools.chain(*pairs.values())), look_for_args_file=False)


def _has_no_value(setting: Setting, annotation: Any) -> bool:
    """Whether the setting is `none`, or a list without entries. A switch on the command line needs no value."""
    if not setting.values:
        return _allows(annotation, list) or setting.origin != COMMAND_LINE
    return (
        len(setting.values) == 1
        and setting.values[0].lower() in WORDS_FOR_NO_VALUE
        and setting.values[0] not in _choices(annotation)
    )


def _value_when_unset(setting: Setting, annotation: Any) -> Any:
    """None or an empty list, whichever the setting's type allows.

    Raises:
        ValueError: if it allows neither; the message says what it does allow.
    """
    if setting.values and _allows(annotation, types.NoneType):
        return None
    if _allows(annotation, list):
        return []
    if not setting.values:
        raise ValueError(f"{setting.origin}: {setting.key} takes one value, got [].")
    choices = ", ".join(map(repr, _choices(annotation)))
    allowed = f"one of {choices}" if choices else f"a value of type {annotation.__name__}"
    raise ValueError(
        f"{setting.origin}: {setting.key} is {setting.values[0]}, but it cannot be unset. It must be {allowed}; leave "
        "it out for the default."
    )


def _allows(annotation: Any, kind: type) -> bool:
    """Whether a type is of a kind, list or NoneType, or a union such as `list[int] | None` with it as a member."""
    return any(kind in (member, get_origin(member)) for member in _members(annotation))


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, alone or with None; nothing for any other type."""
    literals = [member for member in _members(annotation) if get_origin(member) is Literal]
    return tuple(choice for literal in literals for choice in get_args(literal))


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def settings_of_config(config_class: type, excluded: Sequence[str], **defaults: Any) -> type:
    """A dataclass with the fields that a model's configuration class declares itself, for the parser.

    Args:
        config_class: a `PreTrainedConfig` with annotated fields.
        excluded: fields that follow from the data, such as the vocabulary's size.
        **defaults: replaces the class's own defaults.
    """
    fields = []
    for name, annotation in config_class.__annotations__.items():
        if name not in excluded and name != "model_type" and not name.startswith("_"):
            default = defaults.get(name, getattr(config_class, name))
            fields.append((name, _parsable(annotation), dataclasses.field(default=default)))
    return dataclasses.make_dataclass(f"{config_class.__name__.removesuffix('Config')}Settings", fields)


def _parsable(annotation: Any) -> Any:
    """`float | int` as `float`: the parser converts to one type, and every whole number is a float's value too."""
    members = _members(annotation)
    alternatives = [member for member in members if member is not types.NoneType]
    chosen = float if float in alternatives else alternatives[0]
    return chosen | None if types.NoneType in members else chosen


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's main function; what is wrong with the user's input ends it with a message and status 2.

    The traceback is printed when the environment variable LOGLEVEL is DEBUG.
    """
    logging.basicConfig(level=os.environ.get("LOGLEVEL", "WARNING").upper(), format="%(levelname)s %(message)s")
    try:
        main()
    except (ValueError, OSError) as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        _stop(error)


def _stop(error: Exception) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
