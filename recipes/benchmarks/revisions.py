"""Trains a preset from two git revisions in turns, and compares what came of it."""

import contextlib
import hashlib
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from papers_to_gpt.engine.child_processes import child_processes, last_line, start_logged
from papers_to_gpt.engine.durable_files import write_durably
from papers_to_gpt.engine.reporting import LOG_FILE, read_log
from papers_to_gpt.settings.arguments import read_settings
from papers_to_gpt.settings.comparing import ComparisonSettings
from papers_to_gpt.settings.preset_runs import recipe_of

WEIGHTS_FILE = "model.safetensors"
ROWS_OF_CURVE = 20

# What keeps the end of each run short: its evaluation, and the model that it leaves. An older revision may lack some.
SHORT_END = {
    "train_translation": {"average_last_checkpoints": 0, "max_eval_samples": 20, "max_new_tokens": 4},
    "pretrain_gpt1": {"average_last_checkpoints": 0, "max_eval_blocks": 2, "num_samples": 0},
    "finetune_gpt1": {"average_last_checkpoints": 0, "max_eval_samples": 20},
}
# Settings that name a vocabulary; without one, the runs share the vocabulary that the first one trains.
VOCABULARIES = ("tokenizer_name", "vocabulary_file", "init_from", "model_name_or_path")


@dataclass(frozen=True)
class Checkout:
    """A revision in a folder.

    Attributes:
        label: A or B.
        revision: its name, as it was asked for.
        commit: the commit, in short.
        folder: the worktree.
        preset: the preset's file.
        script: the recipe, such as `train_translation`.
    """

    label: str
    revision: str
    commit: str
    folder: Path
    preset: Path
    script: str

    @property
    def name(self) -> str:
        return f"{self.label} ({self.revision}, {self.commit})"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipes" / f"{self.script}.py"


@dataclass(frozen=True)
class Measurement:
    """What came of one run.

    Attributes:
        curve: loss and norm of the gradient of each update, to six digits.
        weights: a hash of each of the final weights.
        rate: what the log counts per second, the median over the updates after the warm-up.
        memory_gb: the largest memory of the process in GB.
    """

    curve: list[tuple[float, float]]
    weights: dict[str, str]
    rate: float
    memory_gb: float


def run(settings: ComparisonSettings) -> None:
    """Trains in turns, and prints the losses side by side, where they differ first, speed and memory.

    Raises:
        ValueError: if there is no such repository, revision or preset, or a run fails.
    """
    repository = Path(settings.repository or Path(__file__).parent)
    _git(repository, "rev-parse", "--show-toplevel")
    with tempfile.TemporaryDirectory() as name, worktrees(repository, settings, Path(name)) as checkouts:
        measured = _run_rounds(settings, checkouts, Path(name))
    first, second = (measured[checkout.label] for checkout in checkouts)
    names = [checkout.name for checkout in checkouts]
    print("\n" + format_curves(names, first[0].curve, second[0].curve))
    print("\n" + compare_bits(names, first, second))
    print("\n" + format_speed(names, first, second, settings))
    if settings.output_file:
        record = {name: [asdict(each) for each in runs] for name, runs in zip(names, (first, second), strict=True)}
        write_durably(settings.output_file, json.dumps(asdict(settings) | {"runs": record}, indent=2) + "\n")


def _git(repository: Path, *arguments: str) -> str:
    """Runs git and returns its output.

    Raises:
        ValueError: if git is not installed, the folder is in no repository, or git fails.
    """
    command = ["git", "-C", str(repository), *arguments]
    try:
        process = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise ValueError("git cannot be run, which checks the revisions out. Install it.") from error
    if process.returncode == 0:
        return process.stdout.strip()
    if "not a git repository" in process.stderr or not repository.is_dir():
        raise ValueError(f"repository {repository} is no git checkout. Name the folder of one (--repository ...).")
    raise ValueError(f"git {arguments[0]} failed: {' '.join(process.stderr.split())}")


@contextlib.contextmanager
def worktrees(repository: Path, settings: ComparisonSettings, folder: Path) -> Iterator[list[Checkout]]:
    """Checks both revisions out, each into a worktree in a folder, and removes the worktrees at the end of the block.

    Raises:
        ValueError: if there is no such revision, or one of them has no such preset or recipe.
    """
    commits = [_commit_of(repository, revision) for revision in settings.revisions]
    if _git(repository, "status", "--porcelain", "--untracked-files=no"):
        print("Note: the checkout has changes that are not committed. They are in neither revision.")
    checkouts: list[Checkout] = []
    added: list[Path] = []
    try:
        for label, revision, commit in zip("AB", settings.revisions, commits, strict=True):
            place = folder / label
            added.append(place)
            _git(repository, "worktree", "add", "--detach", str(place), commit)
            preset, script = _preset_in(place, settings.preset, revision)
            short = _git(repository, "rev-parse", "--short", commit)
            checkouts.append(Checkout(label, revision, short, place, preset, script))
        a, b = (checkout.preset.read_text(encoding="utf-8") for checkout in checkouts)
        if a != b:
            print(f"Note: the preset {settings.preset} is not the same text in both. Each trains its own.")
        yield checkouts
    finally:
        for place in added:
            with contextlib.suppress(ValueError):  # it was not added, and what ended the block counts
                _git(repository, "worktree", "remove", "--force", str(place))


def _commit_of(repository: Path, revision: str) -> str:
    try:
        return _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except ValueError as error:
        raise ValueError(
            f"There is no revision {revision!r} in {repository}. Name a commit, a branch or a tag; git log --oneline "
            "lists the commits."
        ) from error


def _preset_in(checkout: Path, name: str, revision: str) -> tuple[Path, str]:
    """Returns the preset's file for a checkout, and its recipe."""
    short = name.removeprefix("recipes/").removeprefix("presets/").removesuffix(".yaml")
    own = checkout / "recipes" / "presets" / f"{short}.yaml"
    path = own if own.is_file() or not Path(name).is_file() else Path(name).resolve()
    if not path.is_file():
        raise ValueError(
            f"The revision {revision!r} has no preset {name!r}: there is no recipes/presets/{short}.yaml."
        )
    script = recipe_of(read_settings([str(path)]))
    if not (checkout / "recipes" / f"{script}.py").is_file():
        raise ValueError(f"The revision {revision!r} has no recipes/{script}.py, which the preset {name!r} needs.")
    return path, script


def _run_rounds(
    settings: ComparisonSettings, checkouts: Sequence[Checkout], folder: Path
) -> dict[str, list[Measurement]]:
    further = [*_short_end(checkouts), *shlex.split(settings.arguments or "")]
    given = {each.key for checkout in checkouts for each in read_settings([str(checkout.preset), *further])}
    if not given.intersection(VOCABULARIES):
        # The training of a vocabulary breaks ties at random, so two would differ.
        print("Training the vocabulary that all runs share.", flush=True)
        _train(settings, checkouts[0], [*further, "--max_steps", "1", "--eval_steps", "1"], folder / "vocabulary")
        further += ["--tokenizer_name", str(folder / "vocabulary")]
    updates = str(settings.updates)
    further += ["--max_steps", updates, "--eval_steps", updates]
    measured: dict[str, list[Measurement]] = {checkout.label: [] for checkout in checkouts}
    for number in range(settings.rounds):
        # The order changes from round to round, as the second run finds a machine that the first one has warmed up.
        for checkout in checkouts if number % 2 == 0 else reversed(checkouts):
            print(f"round {number + 1} of {settings.rounds}: {checkout.name}", flush=True)
            output_dir = folder / f"{checkout.label}_{number}"
            memory = _train(settings, checkout, further, output_dir)
            measured[checkout.label].append(_read_run(settings, output_dir, memory))
    return measured


def _short_end(checkouts: Sequence[Checkout]) -> list[str]:
    """Returns the arguments of `SHORT_END` that both revisions know, and names those that one of them lacks.

    Raises:
        ValueError: if the recipe of a revision cannot list its settings.
    """
    wanted = {name: value for checkout in checkouts for name, value in SHORT_END[checkout.script].items()}
    for checkout in checkouts:
        command = [sys.executable, str(checkout.recipe), "--help"]
        process = subprocess.run(command, capture_output=True, text=True, env=_environment(checkout))
        if process.returncode:
            last = process.stderr.strip().rpartition("\n")[2]
            raise ValueError(f"recipes/{checkout.script}.py --help of {checkout.name} failed: {last}")
        lacking = sorted(wanted.keys() - set(re.findall(r"--(\w+)", process.stdout)))
        if lacking:
            print(f"Note: {checkout.name} has no setting {', '.join(lacking)}. Both run without it.")
        wanted = {name: value for name, value in wanted.items() if name not in lacking}
    return [word for name, value in wanted.items() for word in (f"--{name}", str(value))]


def _environment(checkout: Checkout) -> dict[str, str]:
    """Returns the environment in which a checkout's recipes import the checkout's packages."""
    packages = checkout.folder / ".packages"
    if not packages.exists():
        packages.mkdir()
        (packages / "papers_to_gpt").symlink_to(checkout.folder / "recipes", target_is_directory=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(packages), str(checkout.folder)])}


def _train(settings: ComparisonSettings, checkout: Checkout, further: Sequence[str], output_dir: Path) -> float:
    """Runs a recipe of a checkout, and returns its largest memory in GB.

    Raises:
        ValueError: if it fails; the message has its last line.
    """
    words = [sys.executable, str(checkout.recipe), str(checkout.preset), "--logging_steps", "1"]
    environment = _environment(checkout)
    if settings.threads is not None:
        environment["OMP_NUM_THREADS"] = str(settings.threads)
    log = output_dir.with_name(f"{output_dir.name}.log")
    with child_processes() as active:
        process = start_logged([*words, *further, "--output_dir", str(output_dir)], log, env=environment)
        active[process] = checkout
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        del active[process]
    if process.returncode:
        raise ValueError(f"The run of {checkout.name} ended with status {process.returncode}: {last_line(log)}")
    return usage.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def _read_run(settings: ComparisonSettings, output_dir: Path, memory_gb: float) -> Measurement:
    lines = [line for line in read_log(output_dir / LOG_FILE) if line["kind"] == "train"]
    (counted,) = (name for name in lines[0] if name.endswith("_per_second"))
    return Measurement(
        curve=[(line["loss"], line["gradient_norm"]) for line in lines],
        weights=hash_weights(output_dir / WEIGHTS_FILE),
        rate=statistics.median(line[counted] for line in lines[settings.warm_up_updates :]),
        memory_gb=memory_gb,
    )


def hash_weights(path: Path) -> dict[str, str]:
    """Returns a hash of the bytes of each tensor of a safetensors file, by name."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header: Mapping[str, Any] = json.loads(content[8:start])
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {
        name: hashlib.sha256(content[start + begin : start + end]).hexdigest()
        for name, (begin, end) in sorted(spans.items())
    }


def is_same(one: float, other: float) -> bool:
    """Returns whether two numbers are equal, or both are NaN."""
    return one == other or (math.isnan(one) and math.isnan(other))


def first_difference(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> int | None:
    """Returns the first update, counted from 1, in which two curves differ; None if they are equal."""
    for place, (left, right) in enumerate(zip(one, other, strict=True), start=1):
        if not all(map(is_same, left, right)):
            return place
    return None


def format_curves(
    names: Sequence[str], first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]
) -> str:
    """Returns a table of the losses: about twenty updates, and the first one that differs."""
    step = max(1, len(first) // ROWS_OF_CURVE)
    shown = {1, len(first), *range(step, len(first) + 1, step), first_difference(first, second) or 1}
    lines = [f"{'update':>6}  {'loss of A':>12}  {'loss of B':>12}  {'difference':>12}"]
    for update in sorted(shown):
        a, b = first[update - 1][0], second[update - 1][0]
        lines.append(f"{update:>6}  {a:>12g}  {b:>12g}  {'' if is_same(a, b) else f'{b - a:.3g}':>12}".rstrip())
    return "\n".join([*(f"{name}" for name in names), *lines])


def compare_bits(names: Sequence[str], first: Sequence[Measurement], second: Sequence[Measurement]) -> str:
    """Says whether the runs of two revisions are equal, bit by bit, or from which update on they differ."""
    for name, runs in zip(names, (first, second), strict=True):
        for other in runs[1:]:
            place = first_difference(runs[0].curve, other.curve)
            if place is not None or runs[0].weights != other.weights:
                where = f"from update {place} on" if place is not None else "in the weights"
                return (
                    f"Two runs of {name} differ from each other {where}: runs are not reproducible on this machine, "
                    "so A and B cannot be compared bit by bit."
                )
    a, b = first[0], second[0]
    place = first_difference(a.curve, b.curve)
    if place is not None:
        at = int(is_same(a.curve[place - 1][0], b.curve[place - 1][0]))
        kind = ("loss", "norm of the gradient")[at]
        values = f"{a.curve[place - 1][at]:g} and {b.curve[place - 1][at]:g}"
        return f"The first update that differs is update {place}: its {kind} is {values}."
    updates = f"losses and norms of the gradient of all {len(a.curve)} updates"
    if a.weights == b.weights:
        return f"Equal bits: {updates}, and the weights after them."
    if a.weights.keys() != b.weights.keys():
        return f"Equal {updates}, to six digits; the weights have other names, so their bits were not compared."
    differ = sum(a.weights[name] != b.weights[name] for name in a.weights)
    return f"Equal {updates}, to six digits, but {differ} of {len(a.weights)} weights differ in bits after them."


def format_speed(
    names: Sequence[str], first: Sequence[Measurement], second: Sequence[Measurement], settings: ComparisonSettings
) -> str:
    """Returns the medians of speed and memory over the rounds, with the lowest and the highest."""
    lines = [f"{'median (lowest to highest)':<30}  {'A':>28}  {'B':>28}  {'B / A':>6}"]
    for title, attribute, digits in (("targets or examples per second", "rate", 1), ("memory, GB", "memory_gb", 2)):
        values = [[getattr(each, attribute) for each in runs] for runs in (first, second)]
        cells = [
            f"{statistics.median(each):,.{digits}f} ({min(each):,.{digits}f} to {max(each):,.{digits}f})"
            for each in values
        ]
        # The two runs of a round met the same machine.
        ratio = statistics.median(b / a for a, b in zip(*values, strict=True))
        lines.append(f"{title:<30}  {cells[0]:>28}  {cells[1]:>28}  {ratio:>6.3f}")
    rounds = f"Rounds: {settings.rounds}; speed after {settings.warm_up_updates} updates of {settings.updates}."
    return "\n".join([*lines, rounds])
