"""Settings from a YAML preset and the command line, through one parser.

The `key: value` pairs of a preset are parsed like `--key value` before those of the command line. Both have the same
types, choices and error messages, and the command line takes precedence. All errors are reported at once, before any
data loads.

The value `none` (or `null`, in upper or lower case) unsets what a preset or a default has set: the setting becomes
None if its type allows None, and empty if it is a list.
"""

import argparse
import collections
import contextlib
import dataclasses
import difflib
import itertools
import logging
import math
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from papers_to_gpt.settings.presets import COMMAND_LINE, WORDS_FOR_NO_VALUE, Setting, read_preset

# Exit statuses of programs that SIGINT, SIGPIPE and SIGTERM end, by the convention of shells: 128 plus the number.
INTERRUPTED_STATUS, BROKEN_PIPE_STATUS, TERMINATED_STATUS = 130, 141, 143

# What Python makes of bytes of the command line that are not UTF-8. Files that are read and written here may have such
# names; other settings become part of models and records.
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
FILES_OF_ANY_NAME = (
    *("input_file", "output_file", "prompt_file"),
    *("forbidden_words", "terminology", "terminology_report"),
)

OUR_PACKAGES = ("papers_to_gpt", "gpt1_scratch", "seq2seq_scratch")

# Of more unknown settings than this in one file, the message names the first.
MAX_UNKNOWN_SETTINGS = 4

TRUE_WORDS, FALSE_WORDS = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of a numeric setting; a bound that is None does not limit it."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def holds(self, number: float) -> bool:
        """Returns True if a number is finite and within the bounds."""
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"from {self.at_least} to {self.at_most}"
        words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
        bounds = [f"{words[name]} {value}" for name, value in vars(self).items() if value is not None]
        return " and ".join(bounds)


def option(default: Any, help: str, group: str | None = None, **bounds: float) -> Any:
    """Returns a field for a dataclass of settings.

    Args:
        default: a list is copied for every instance.
        help: a sentence for `--help`, which adds the default unless it is None or an empty list.
        group: the heading in `--help`; None takes the attribute `group` of the dataclass.
        bounds: the arguments of `Range`, for a number or every number of a list; `CheckedSettings` checks them.
    """
    metadata: dict[str, Any] = {"help": help, "range": Range(**bounds)} | ({} if group is None else {"group": group})
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass
class CheckedSettings:
    """A dataclass of settings that checks its numbers: they must be finite and within the bounds given to `option`.

    A subclass that defines `__post_init__` must call this one first.
    """

    def __post_init__(self):
        problems = []
        for each in dataclasses.fields(self):
            value, allowed = getattr(self, each.name), each.metadata.get("range", Range())
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str) and each.name not in FILES_OF_ANY_NAME and HALF_CHARACTER.search(item):
                    problems.append(f"{each.name} is {item!r}, which is not UTF-8. Rename it, or write it in UTF-8.")
                if isinstance(item, int | float) and not isinstance(item, bool) and not allowed.holds(item):
                    must = allowed if math.isfinite(item) else "a finite number"
                    problems.append(f"{each.name} is {item}; it must be {must}.")
        if problems:
            raise ValueError("\n".join(problems))


def read_settings(arguments: Sequence[str] | None = None) -> list[Setting]:
    """Reads the settings of the preset, if the first argument names one, followed by those of the command line.

    Args:
        arguments: the command line without the program's name; `sys.argv[1:]` when left out.

    Raises:
        ValueError: if the preset cannot be read, or the command line is not a list of `--key value`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    arguments = ["--help" if argument == "-h" else argument for argument in arguments]
    settings = []
    if arguments and not arguments[0].startswith("-"):
        settings += read_preset(arguments.pop(0))
    # The words after a `--key`, up to the next key, are its values. A negative number is a value, not a key.
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            settings.append(Setting(key.replace("-", "_"), (value,) if equals else (), COMMAND_LINE))
        elif settings and settings[-1].origin == COMMAND_LINE:
            settings[-1] = dataclasses.replace(settings[-1], values=(*settings[-1].values, argument))
        else:
            raise ValueError(
                f"{argument!r} on the command line follows no --setting. "
                "Usage: SCRIPT.py [PRESET] [--setting value ...]; --help lists the settings."
            )
    return settings


def value_of(settings: Sequence[Setting], key: str) -> str | None:
    """Returns the last value of a setting as text; None if it is not set."""
    return next((setting.values[0] for setting in reversed(settings) if setting.key == key and setting.values), None)


def parse_settings(settings: Sequence[Setting], *dataclass_types: type, description: str = "") -> tuple[Any, ...]:
    """Turns settings into one instance of each dataclass.

    Raises:
        ValueError: if there are unknown settings, values of a wrong type, or `none` for a setting that must have a
            value. The message lists them all. If there are none, the message lists the values that the dataclasses
            refuse.
        SystemExit: after printing the settings, if `--help` is among them.
    """
    annotations = {name: kind for part in dataclass_types for name, kind in get_type_hints(part).items()}
    parser = make_parser(dataclass_types, description)
    if any(setting.key == "help" for setting in settings):
        parser.print_help()
        raise SystemExit(0)
    known = {name.removeprefix("--") for name in parser._option_string_actions}
    problems = _unknown_settings([setting for setting in settings if setting.key not in known], known)
    pairs, unset = {}, {}
    for setting in settings:
        if setting.key not in known:
            continue
        # Of several values for one setting the last counts. A setting that is unset is not passed to the parser.
        pairs.pop(setting.key, None)
        unset.pop(setting.key, None)
        annotation = annotations.get(setting.key, bool)  # the parser adds --no_NAME to switches; it has no field
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
    given = unset | vars(parser.parse_args(list(itertools.chain(*pairs.values()))))
    parsed = []
    for part in dataclass_types:
        try:
            parsed.append(
                part(**{each.name: given[each.name] for each in dataclasses.fields(part) if each.name in given})
            )
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    for part in parsed:
        for name, value in vars(part).items():
            texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
            _texts_given.update({name: texts} if texts else {})
    return tuple(parsed)


def _unknown_settings(settings: Sequence[Setting], known: Iterable[str]) -> list[str]:
    """Returns a message for each unknown setting, and one for all those of a file that has many of them."""
    files = collections.defaultdict(list)
    for setting in settings:
        files[setting.origin.rpartition(":")[0]].append(setting)
    messages = []
    for file, unknown in files.items():
        if file and len(unknown) > MAX_UNKNOWN_SETTINGS:
            first = ", ".join(setting.key for setting in unknown[:MAX_UNKNOWN_SETTINGS])
            messages.append(
                f"{file}: {len(unknown)} unknown settings: {first} and others. It may be a preset of another script; "
                "--help lists the settings of this one."
            )
            continue
        for setting in unknown:
            nearest = difflib.get_close_matches(setting.key, known, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else " --help lists the settings."
            messages.append(f"{setting.origin}: unknown setting {setting.key!r}.{hint}")
    return messages


# The settings of this process that are text, such as paths. System errors name a path but not its setting.
_texts_given: dict[str, list[str]] = {}


def make_parser(dataclass_types: Sequence[type], description: str = "") -> argparse.ArgumentParser:
    """Returns a parser with an option for every field of the dataclasses, under the headings that their `group` names.

    Options that are not given are absent from the result, so the defaults of the dataclasses apply.
    """
    parser = argparse.ArgumentParser(
        usage="%(prog)s [PRESET] [--setting value ...]",
        description=description,
        epilog="PRESET is a YAML file of settings, or the name of a packaged one such as numbers/bahdanau. The value "
        f"{WORDS_FOR_NO_VALUE[0]} unsets a setting that may be None, and empties a list. A setting that is true or "
        "false needs no value to be true.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        exit_on_error=False,
        add_help=False,
    )
    groups: dict[str, Any] = {}
    for part in dataclass_types:
        annotations = get_type_hints(part)
        for each in dataclasses.fields(part):
            title = each.metadata.get("group", getattr(part, "group", "settings"))
            if title not in groups:
                groups[title] = parser.add_argument_group(title)
            _add_option(groups[title], each, annotations[each.name])
    return parser


def _add_option(group: Any, each: dataclasses.Field, annotation: Any) -> None:
    """Adds `--name`, and `--no_name` for a setting that is true by default."""
    default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
    help = each.metadata.get("help", "")
    if default is not None and default != []:
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        help += f" (default: {shown.lower() if isinstance(default, bool) else shown})"
    (kind, *_) = (member for member in _members(annotation) if member is not types.NoneType)
    arguments: dict[str, Any] = {"type": READERS.get(kind, kind), "metavar": getattr(kind, "__name__", None)}
    if get_origin(kind) is Literal:
        arguments = {"type": str, "choices": get_args(kind)}
    elif get_origin(kind) is list:
        (kind,) = get_args(kind)
        arguments = {"type": READERS.get(kind, kind), "metavar": kind.__name__, "nargs": "+"}
    elif kind is bool:
        arguments = {"type": READERS[bool], "metavar": "true/false", "nargs": "?", "const": True}
    group.add_argument(f"--{each.name}", help=help.replace("%", "%%"), **arguments)
    if kind is bool and default is True:
        group.add_argument(f"--no_{each.name}", dest=each.name, action="store_false", help=argparse.SUPPRESS)


def _read_bool(word: str) -> bool:
    if word.lower() not in TRUE_WORDS + FALSE_WORDS:
        raise argparse.ArgumentTypeError(f"invalid bool value: {word!r} (choose from 'true', 'false')")
    return word.lower() in TRUE_WORDS


def _read_int(word: str) -> int:
    """Reads a whole number, which may be written as 1e3 or 1000.0."""
    try:
        return int(word)
    except ValueError:
        with contextlib.suppress(ValueError, OverflowError):  # no number, or an infinite one
            number = float(word)
            if number == int(number):
                return int(number)
    raise argparse.ArgumentTypeError(f"invalid int value: {word!r} (it must be a whole number, such as 1000 or 1e3)")


# What reads a value from text, for types that do not do it themselves.
READERS: dict[type, Callable[[str], Any]] = {bool: _read_bool, int: _read_int}


def _has_no_value(setting: Setting, annotation: Any) -> bool:
    """Returns True if the setting is `none` or an empty list. A switch on the command line needs no value."""
    if not setting.values:
        return _allows(annotation, list) or setting.origin != COMMAND_LINE
    return (
        len(setting.values) == 1
        and setting.values[0].lower() in WORDS_FOR_NO_VALUE
        and setting.values[0] not in _choices(annotation)
    )


def _value_when_unset(setting: Setting, annotation: Any) -> Any:
    """Returns None or an empty list, whichever the setting's type allows.

    Raises:
        ValueError: if it allows neither; the message says what it allows.
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
    """Returns True if a type, or a member of a union such as `list[int] | None`, is of a kind: list or NoneType."""
    return any(kind in (member, get_origin(member)) for member in _members(annotation))


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Returns the values of a `Literal`, alone or in a union with None; an empty tuple for any other type."""
    literals = [member for member in _members(annotation) if get_origin(member) is Literal]
    return tuple(choice for literal in literals for choice in get_args(literal))


def _members(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union; a type that is not a union is its only member."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, and handled like Ctrl-C, with another status."""


# The signal that was to end the program and has not yet done so.
_pending_signal: int | None = None


def _interrupt(number: int, frame: types.FrameType | None) -> NoReturn:
    global _pending_signal
    _pending_signal = number
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _report_unraisable(lost: Any) -> None:
    if not issubclass(lost.exc_type, KeyboardInterrupt):  # raised again later
        sys.__unraisablehook__(lost)


def raise_lost_interruption() -> None:
    """Raises the exception of an earlier signal again, if it was lost.

    Python drops an exception that a signal raises within a finalizer of a library, and an import may turn it into an
    error of its own. A program calls this where a long piece of work begins, and where it meets an error.

    Raises:
        KeyboardInterrupt: if SIGTERM or Ctrl-C has come since `run_script` began.
    """
    if _pending_signal is not None:
        _interrupt(_pending_signal, None)


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's main function. An error ends it with one message and without a traceback.

    The exit status is 2 for wrong input of the user, 1 for a fault of the program, 130 for Ctrl-C, 143 for SIGTERM,
    and 141, without a message, if the reader of standard output has closed it (`| head`). The traceback is printed if
    the environment variable LOGLEVEL is DEBUG.
    """
    global _pending_signal
    # Other programs read LOGLEVEL too, and may have other levels.
    level = logging.getLevelNamesMapping().get(os.environ.get("LOGLEVEL", "").upper(), logging.WARNING)
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    _pending_signal = None
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _report_unraisable
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a shell script starts its background jobs
            signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            main()
        except Exception:
            raise_lost_interruption()
            raise
        finally:
            _flush_output()
    except BrokenPipeError:
        _give_up_output()
        raise SystemExit(BROKEN_PIPE_STATUS) from None
    except KeyboardInterrupt as interrupt:
        was_terminated = isinstance(interrupt, Terminated)
        message = str(interrupt) or ("Terminated." if was_terminated else "Interrupted.")
        _stop(message, TERMINATED_STATUS if was_terminated else INTERRUPTED_STATUS)
    except (ValueError, OSError) as error:
        _stop(f"error: {_describe(error)}", 2)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package and package not in OUR_PACKAGES:
            _stop(f"error: the package {package} is not installed. Install it: pip install {package}.", 2)
        _stop(f"error: {error}", 2)
    except Exception as error:
        what = " ".join(str(error).split()).rstrip(".")
        fault = "This is a fault of the program; LOGLEVEL=DEBUG shows the traceback."
        _stop(f"error: {type(error).__name__}: {what}. {fault}", 1)


def _flush_output() -> None:
    """Flushes standard output, which is None if it is closed.

    Raises:
        ValueError: if it cannot be written.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_output()
        raise ValueError(f"Standard output cannot be written: {error.strerror}.") from error


def _give_up_output() -> None:
    """Redirects standard output to nothing, because Python flushes it again at exit, which must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe(error: Exception) -> str:
    """Returns the message of an error. That of a system error names the setting that the path comes from."""
    if not isinstance(error, OSError) or error.strerror is None or not isinstance(error.filename, str | os.PathLike):
        return str(error)
    path = Path(os.path.abspath(error.filename))
    for name, value in ((name, text) for name, texts in _texts_given.items() for text in texts):
        given = Path(os.path.abspath(value)) if value else None
        if given is not None and (given == path or given in path.parents or path in given.parents):
            where = f"{name} {value}" if given == path else f"{name} {value}: {error.filename}"
            return f"{where}: {error.strerror}. Name a place that can be read and written."
    return f"{error.filename}: {error.strerror}."


def _stop(message: str, status: int) -> NoReturn:
    logging.getLogger(__name__).debug("traceback", exc_info=True)
    print(message, file=sys.stderr)
    raise SystemExit(status) from None
