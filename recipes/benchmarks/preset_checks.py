"""Runs presets within a budget of minutes, and writes a table of what they expect and what came of them.

Each run is a command of the recipe in a process of its own, which compares itself with its preset's number and writes
the verdict to its `all_results.json`.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from papers_to_gpt.engine.child_processes import child_processes, last_line, start_logged
from papers_to_gpt.engine.durable_files import make_folder, write_durably
from papers_to_gpt.engine.expectations import AS_EXPECTED, BETTER, describe, expected_range
from papers_to_gpt.engine.reporting import read_results
from papers_to_gpt.settings.arguments import Setting, read_settings, value_of
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.expected import ExpectedNumber, read_numbers
from papers_to_gpt.settings.preset_checking import PresetCheckSettings
from papers_to_gpt.settings.preset_runs import recipe_of
from papers_to_gpt.settings.presets import EXPECTED, PRESETS, find_preset

TABLE_FILE, RECORD_FILE = "presets.md", "presets.json"
COLUMNS = ("preset", "score", "expected", "got", "verdict", "minutes", "commit", "date")
FAILED = "failed"

# The files in data_dir by the folder of a preset, with the setting that takes each.
DATA = {
    "multi30k": {
        "train_file": "multi30k/train.parquet",
        "validation_file": "multi30k/validation.parquet",
        "test_file": "multi30k/test_2016_flickr.parquet",
    },
    "novels": {"train_file": "novels/train.parquet", "validation_file": "novels/validation.parquet"},
    "glue": {"data_dir": "glue"},
}
# Those of settings that a number needs with any value.
FILES_OF_ARGUMENTS = {
    "vocabulary_file": "openai_gpt_bpe/encoder_bpe_40000.json",
    "merges_file": "openai_gpt_bpe/vocab_40000.bpe",
}


@dataclass(frozen=True)
class Check:
    """A run of a preset for one of its numbers.

    Attributes:
        name: the name in the table: the preset's, with the task if it has several, and with the number's arguments.
        path: the preset's file.
        settings: those of the preset.
        script: the recipe, such as `train_translation`.
        number: the number.
    """

    name: str
    path: str
    settings: tuple[Setting, ...]
    script: str
    number: ExpectedNumber

    @property
    def minutes(self) -> float:
        """The stated minutes; infinity if they were not measured."""
        return float("inf") if self.number.minutes is None else self.number.minutes

    def files(self) -> dict[str, str]:
        """Returns the files that the run needs below data_dir, by the settings that take them."""
        needed = [name for name, values in self.number.given_with().items() if not values]
        return DATA.get(Path(self.path).parent.name, {}) | {name: FILES_OF_ARGUMENTS[name] for name in needed}


def checks_of(name: str) -> list[Check]:
    """Returns the checks of a preset, one for each of its numbers that needs a run of its own.

    Raises:
        ValueError: if there is no such preset or its numbers are incomplete.
    """
    path = find_preset(name)
    settings = read_settings([path])
    numbers = [number for setting in settings if setting.key == EXPECTED for number in read_numbers(setting)]
    folder = Path(path).resolve().with_suffix("")
    base = "/".join(folder.parts[-2:]) if folder.is_relative_to(PRESETS) else folder.name
    tasks = {number.task for number in numbers}
    return [
        Check(
            " ".join(filter(None, [base, len(tasks) > 1 and each.task, each.arguments])),
            path,
            tuple(settings),
            recipe_of(settings),
            each,
        )
        for each in numbers
    ]


def run(settings: PresetCheckSettings) -> None:
    """Runs the presets that the settings name or that fit into the budget, and prints and writes the table.

    Raises:
        ValueError: if a preset that is named is unknown, has no number, or lacks its data, or none fits.
        SystemExit: with status 1 if one is not as expected, was not compared or failed.
    """
    output_dir = Path(settings.output_dir)
    chosen = choose(settings)
    make_folder(output_dir)
    commit, rows = current_commit(), _read_rows(output_dir)
    wrong = []
    for place, check in enumerate(chosen, start=1):
        run_folder = str(folder_of(check, settings, commit))
        row = rows.get((check.name, check.number.metric))
        if row is not None and row["folder"] == run_folder and row["verdict"] != FAILED:
            print(f"[{place}/{len(chosen)}] {check.name} was run at {commit} before.")
        else:
            about = "" if check.number.minutes is None else f", about {check.number.minutes:g} minutes"
            print(f"[{place}/{len(chosen)}] {check.name}{about}", flush=True)
            row = perform(check, settings, commit)
            rows[check.name, check.number.metric] = row
            write_table(output_dir, rows.values())
        print(row["text"], flush=True)
        if row["verdict"] not in (AS_EXPECTED, BETTER):
            wrong.append(check.name)
    print(f"\n{write_table(output_dir, rows.values())}\n\nThe table is in {output_dir / TABLE_FILE}.")
    if wrong:
        print(f"Not as expected: {', '.join(wrong)}.")
        raise SystemExit(1)


def choose(settings: PresetCheckSettings) -> list[Check]:
    """Returns what to run, in the order of the stated minutes, each after the preset whose model it starts from.

    Raises:
        ValueError: as `run`.
    """
    names = settings.names or [str(path) for path in sorted(PRESETS.glob("*/*.yaml"))]
    candidates, without_data, too_long = [], [], []
    for name in names:
        checks = checks_of(name)
        if settings.names and not checks:
            raise ValueError(f"The preset {name} has no expected number: add one (expected), or leave the preset out.")
        for check in checks:
            files = [file for each in (*_before(check), check) for file in each.files().values()]
            missing = [file for file in files if not _file(settings, file)]
            if not missing:
                candidates.append(check)
            elif settings.names:
                folder = settings.data_dir or "data_dir, which is not set"
                raise ValueError(
                    f"The preset {name} needs {', '.join(missing)} in {folder}. RESULTS.md says what it is."
                )
            else:
                without_data.append(check.name)
    chosen: list[Check] = []
    left = float("inf") if settings.minutes is None else settings.minutes
    for check in sorted(candidates, key=lambda each: each.minutes):
        needed = [each for each in (*_before(check), check) if each not in chosen]
        if settings.minutes is not None and not sum(each.minutes for each in needed) <= left:
            too_long.append(check.name)
            continue
        left -= sum(each.minutes for each in needed) if settings.minutes is not None else 0
        chosen += needed
    if not chosen:
        first = min(candidates, key=lambda each: each.minutes)
        raise ValueError(
            f"minutes is {settings.minutes:g}, in which no preset can be run. The shortest, {first.name}, takes "
            f"{first.minutes:g}."
        )
    if without_data:
        print(f"Left out, as data_dir does not have their data: {', '.join(without_data)}.")
    if too_long:
        print(f"Left out, as they take more minutes than are left: {', '.join(too_long)}.")
    return chosen


def _before(check: Check) -> list[Check]:
    """The run that makes the model that a check starts from."""
    if check.number.starts_from is None:
        return []
    beside = Path(check.path).parent / check.number.starts_from
    runs = checks_of(str(beside) if beside.is_file() else check.number.starts_from)
    ours = check.number.given_with().items()
    # The one with the same languages, if the preset has several.
    return [max(runs, key=lambda run: len(run.number.given_with().items() & ours))]


def _file(settings: PresetCheckSettings, file: str) -> Path | None:
    path = None if settings.data_dir is None else Path(settings.data_dir, file)
    return path if path is not None and path.exists() else None


def arguments_of(check: Check, settings: PresetCheckSettings, commit: str) -> list[str]:
    """Returns the arguments of the recipe for a check."""
    number, words = check.number, [check.path]
    for name, values in number.given_with().items():
        words += [f"--{name}", *values] if values else []
    for name, file in check.files().items():
        words += [f"--{name}", str(_file(settings, file))]
        if name == "train_file" and number.own_translations:
            words.append(str(translations_of(check, settings, commit)))
    if number.task is not None:
        words += ["--task", number.task]
    if number.statistic == "median":
        words += ["--seeds", *map(str, range(1, number.seeds + 1))]
    for before in _before(check):
        setting = "model_name_or_path" if check.script == "finetune_gpt1" else "init_from"
        words += [f"--{setting}", str(folder_of(before, settings, commit))]
    return [*words, "--output_dir", str(folder_of(check, settings, commit))]


def translation_arguments_of(check: Check, settings: PresetCheckSettings, commit: str) -> list[str]:
    """Returns the arguments of `back_translate` for the translations that a check reads besides its data."""
    (before,), measured = _before(check), check.number.given_with()
    words = [str(folder_of(before, settings, commit)), "--direction", "forward", "--resume", "true"]
    for name in ("source_language", "target_language"):
        (language,) = measured.get(name) or (value_of(check.settings, name),)
        words += [f"--{name}", language]
    words += ["--input_file", str(_file(settings, check.files()["train_file"]))]
    return [*words, "--output_file", str(translations_of(check, settings, commit))]


def translations_of(check: Check, settings: PresetCheckSettings, commit: str) -> Path:
    """Returns the file with the translations that a check reads besides its data."""
    folder = folder_of(check, settings, commit)
    return folder.with_name(f"{folder.name}_translations.parquet")


def folder_of(check: Check, settings: PresetCheckSettings, commit: str) -> Path:
    """Returns the output folder of a check.

    Every commit and every change of the preset has its own, so a check never resumes a run of other code and never
    reports its result.
    """
    digest = hashlib.sha256(Path(check.path).read_bytes()).hexdigest()[:6]
    return Path(settings.output_dir, commit, f"{re.sub(r'[^a-zA-Z0-9.]+', '_', check.name)}_{digest}")


def perform(check: Check, settings: PresetCheckSettings, commit: str) -> dict[str, Any]:
    """Runs a preset, or resumes an interrupted run of the same code, and returns its row of the table."""
    folder, number = folder_of(check, settings, commit), check.number
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    steps = [(check.script, arguments_of(check, settings, commit))]
    if number.own_translations:
        steps.insert(0, ("back_translate", translation_arguments_of(check, settings, commit)))
    for script, arguments in steps:
        words = [sys.executable, "-m", "papers_to_gpt", script.replace("_", "-"), *arguments]
        with child_processes() as active:
            process = start_logged(words, log)
            active[process] = check
            status = process.wait()
            del active[process]
        if status:
            break
    low, high = expected_range(number)
    row = {
        "preset": check.name,
        **({} if number.task is None else {"task": number.task}),
        **{"metric": number.metric, "lowest": round(low, 6), "highest": round(high, 6), "got": None, "minutes": None},
        **{"commit": commit, "date": date.today().isoformat(), "folder": str(folder)},
        "command": " && ".join(command(script, *arguments) for script, arguments in steps),
    }
    if status:
        return {
            **row,
            "verdict": FAILED,
            "text": f"Failed with status {status}: {last_line(log)} Its output is in {log}.",
        }
    results = read_results(folder)
    comparisons = results.get(EXPECTED, {}).get("comparisons", [])
    ours = [each for each in comparisons if number.task in (None, each.get("task"))]
    found = next((each for each in ours if each.get("metric") == number.metric), None)
    if found is None:  # killed between its last model and its results
        text = f"The run in {folder} has ended without a comparison. Remove the folder, and run the command again."
        return {**row, "verdict": FAILED, "text": text}
    minutes = round(results["wall_seconds"] / 60, 1)
    return {**row, "got": found["got"], "minutes": minutes, "verdict": found["verdict"], "text": describe(found)}


def write_table(output_dir: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Writes all rows as JSON and as a table in Markdown, and returns the table."""
    ordered = sorted(rows, key=lambda row: (row["preset"], row["metric"]))
    write_durably(output_dir / RECORD_FILE, json.dumps(ordered, indent=2, ensure_ascii=False) + "\n")
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    for row in ordered:
        score = " ".join(filter(None, [row.get("task"), row["metric"]]))
        got = "" if row["got"] is None else f"{row['got']:.4g}"
        minutes = "" if row["minutes"] is None else f"{row['minutes']:g}"
        expected = f"{row['lowest']:.4g} to {row['highest']:.4g}"
        lines.append((row["preset"], score, expected, got, row["verdict"], minutes, f"`{row['commit']}`", row["date"]))
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    write_durably(output_dir / TABLE_FILE, table + "\n")
    return table


def _read_rows(output_dir: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows that earlier calls wrote, by the names of their checks and their scores.

    Raises:
        ValueError: if the file is damaged.
    """
    path = output_dir / RECORD_FILE
    if not path.is_file():
        return {}
    try:
        return {(row["preset"], row["metric"]): row for row in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged: it is no list of rows. Remove it, or name another output_dir."
        ) from error


def current_commit() -> str:
    """Returns the commit of the code, with a hash if the code has changed since; without git, version and hash."""

    def git(*arguments: str) -> str:
        process = subprocess.run(["git", *arguments], cwd=PRESETS, capture_output=True, text=True, check=True)
        return process.stdout

    try:
        git("ls-files", "--error-unmatch", "--", "..")  # or the repository around an installed package answers
        commit = git("rev-parse", "--short", "HEAD").strip()
        if not git("status", "--porcelain", "--", *map(str, _code())):
            return commit
        commit += "-changed"
    except (OSError, subprocess.CalledProcessError):
        try:
            commit = f"version-{version('papers-to-gpt')}"
        except PackageNotFoundError:
            commit = "unknown"
    digest = hashlib.sha256()
    for folder in _code():
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder.parent).as_posix().encode() + path.read_bytes())
    return f"{commit}-{digest.hexdigest()[:6]}"


def _code() -> list[Path]:
    """The folders of the packages whose code a run executes."""
    return [PRESETS.parent, *(Path(find_spec(name).origin).parent for name in ("seq2seq_scratch", "gpt1_scratch"))]
