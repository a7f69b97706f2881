"""What experiments work with: their seeds and scale, and runs of the recipes, which are made once and kept."""

import hashlib
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from joblib import cpu_count
from safetensors import safe_open

from papers_to_gpt.engine.child_processes import child_processes, last_line, start_logged
from papers_to_gpt.engine.durable_files import write_durably
from papers_to_gpt.engine.reporting import LOG_FILE, read_log, read_results
from papers_to_gpt.engine.skipped_updates import TOO_MANY
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.presets import EXPECTED, read_preset
from papers_to_gpt.settings.reproduction import ReproductionSettings

# The settings of a trial, in which nothing is learned.
TRIAL: dict[str, dict[str, Any]] = {
    "train_translation": {
        **{"max_steps": 2, "eval_steps": 2, "logging_steps": 1, "warmup_steps": 0},
        **{"max_eval_samples": 20, "max_new_tokens": 4, "average_last_checkpoints": 0},
    },
    "pretrain_gpt1": {
        **{"max_steps": 2, "eval_steps": 2, "logging_steps": 1, "warmup_steps": 0, "save_steps": 1},
        **{"num_merges": 200, "tokenizer_samples": 500, "max_eval_blocks": 2},
    },
    "finetune_gpt1": {"max_steps": 2, "eval_steps": 2, "warmup_steps": 0, "max_eval_samples": 20},
}

POLLING_SECONDS = 0.2


def count_weights(folder: Path) -> int:
    """Returns the number of weights that a folder's safetensors file holds."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


@dataclass(frozen=True)
class Run:
    """A run of a recipe with an output folder.

    Attributes:
        script: the recipe's file without its extension, such as `train_translation`.
        preset: the name of a preset, such as `numbers/bahdanau`, or a file; None for a script without one.
        settings: settings beyond the preset. Their order does not matter; lists are allowed.
    """

    script: str
    preset: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """Returns the command line without program and output folder."""
        words = [] if self.preset is None else [self.preset]
        for name, values in sorted(self._own().items()):
            words += [f"--{name}", *values]
        return words

    @cached_property
    def name(self) -> str:
        """The name of the folder: the preset's name, and a hash of the recipe and of all settings of preset and run.

        So a run is the same whether it repeats a value of its preset or leaves it out, and another one after the
        preset has changed.
        """
        written = [] if self.preset is None else read_preset(self.preset)
        settings = {each.key: each.values for each in written if each.key not in ("output_dir", EXPECTED)}
        words = [self.script]
        for name, values in sorted((settings | self._own()).items()):
            words += [f"--{name}", *values]
        digest = hashlib.sha256(shlex.join(words).encode()).hexdigest()[:10]
        preset = self.preset or self.script
        return f"{Path(preset).stem if Path(preset).is_file() else preset.replace('/', '_')}_{digest}"

    def _own(self) -> dict[str, tuple[str, ...]]:
        """Returns the settings beyond the preset as words of the command line."""
        given = {name: value if isinstance(value, list | tuple) else [value] for name, value in self.settings.items()}
        return {
            name: tuple(str(each).lower() if isinstance(each, bool) else str(each) for each in values)
            for name, values in given.items()
        }


class Workbench:
    """The seeds, the scale and the folders of an experiment, and the runs that it asks for.

    Attributes:
        settings: what the user asked for.
        seeds, scale, is_trial: taken from there.
        folder: the folder of the experiment's report, where it may write files of its own.
        data_folder: the folder for data that experiments make and share.
        runs: the runs that the experiment has used, in their order.
    """

    def __init__(self, settings: ReproductionSettings, name: str):
        self.settings = settings
        self.seeds, self.scale, self.is_trial = settings.seeds, settings.scale, settings.trial
        self.folder = Path(settings.output_dir) / name
        self.runs: list[Run] = []
        self.data_folder = Path(settings.output_dir) / ("trial_data" if self.is_trial else "data")
        self._runs_folder = Path(settings.output_dir) / "runs"

    def path(self, run: Run) -> Path:
        """Returns the output folder of a run."""
        return self._runs_folder / self.as_made(run).name

    def as_made(self, run: Run) -> Run:
        """Returns the run itself, or what a trial makes of it."""
        return replace(run, settings={**run.settings, **TRIAL[run.script]}) if self.is_trial else run

    def make(self, *runs: Run, may_diverge: bool = False) -> list[Path]:
        """Makes those runs that no experiment has made yet, several at a time, and returns all output folders.

        A run that was interrupted continues.

        Args:
            runs: the runs.
            may_diverge: whether a run that ends because its updates are not finite is a result, which `losses` and
                `has_diverged` tell. It has no model.

        Raises:
            ValueError: a run failed; the message has its last line and its log file.
        """
        unique = {run.name: run for run in map(self.as_made, runs)}
        used = {run.name for run in self.runs}
        self.runs += [run for name, run in unique.items() if name not in used]
        missing = [
            run
            for run in unique.values()
            if not (self._record(run).exists() and self.path(run).is_dir())
            or (self.has_diverged(run) and not may_diverge)
        ]
        if missing:
            self._runs_folder.mkdir(parents=True, exist_ok=True)
            jobs = min(self.settings.jobs or cpu_count(), len(missing))
            with child_processes() as active:
                self._make(missing, jobs, active, may_diverge)
        return [self.path(run) for run in runs]

    def _record(self, run: Run) -> Path:
        """The file that says that a run has ended well."""
        return self._runs_folder / f"{self.as_made(run).name}.json"

    def has_diverged(self, run: Run) -> bool:
        """Returns whether a run that has been made ended because its updates were not finite."""
        return self._record(run).exists() and json.loads(self._record(run).read_text("utf-8")).get("diverged", False)

    def _make(
        self,
        waiting: list[Run],
        jobs: int,
        active: dict[subprocess.Popen, tuple[Run, float]],
        may_diverge: bool,
    ) -> None:
        total, waiting = len(waiting), list(waiting)
        # Few runs get no more threads than many, because the times of runs are compared.
        threads = max(1, cpu_count() // (self.settings.jobs or cpu_count()))
        while waiting or active:
            while waiting and len(active) < jobs:
                run = waiting.pop(0)
                print(f"Run {total - len(waiting)} of {total}: {self.command(run)}")
                active[self._start(run, threads)] = (run, time.monotonic())
            time.sleep(POLLING_SECONDS)
            for process in [process for process in active if process.poll() is not None]:
                run, started = active.pop(process)
                record = {"command": self.command(run), "seconds": round(time.monotonic() - started, 1)}
                if process.returncode != 0:
                    if not (may_diverge and TOO_MANY in last_line(self._log(run))):
                        raise ValueError(self._failure(run, process.returncode))
                    record["diverged"] = True
                write_durably(self._record(run), json.dumps(record, indent=2) + "\n")

    def _start(self, run: Run, threads: int) -> subprocess.Popen:
        words = [sys.executable, "-m", "papers_to_gpt", run.script.replace("_", "-"), *run.arguments()]
        # A number of threads that the user has set stays.
        environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"} | os.environ
        return start_logged([*words, "--output_dir", str(self.path(run))], self._log(run), env=environment)

    def _log(self, run: Run) -> Path:
        return self._runs_folder / f"{run.name}.log"

    def _failure(self, run: Run, status: int) -> str:
        log = self._log(run)
        return f"{self.command(run)} ended with status {status}: {last_line(log)} Its output is in {log}."

    def command(self, run: Run) -> str:
        """Returns the command line of a run, as the user would write it."""
        return command(run.script, *run.arguments(), "--output_dir", self.path(run))

    def results(self, run: Run) -> dict[str, Any]:
        """Returns the final scores of a run that has been made, from its `all_results.json`."""
        return read_results(self.path(run))

    def losses(self, runs: Sequence[Run], name: str = "eval_loss") -> list[float]:
        """Returns the final loss, or perplexity, of runs that have been made; it is infinite for one that diverged."""
        found = [math.inf if self.has_diverged(run) else self.results(run)[name] for run in runs]
        return [math.inf if math.isnan(each) else each for each in found]

    def log(self, run: Run) -> list[dict[str, Any]]:
        """Returns the lines of the log of a run that has been made."""
        return read_log(self.path(run) / LOG_FILE)

    def parallel_data(self) -> dict[str, Any]:
        """Returns the settings by which a translation recipe takes the data of the scale; none for embedded data."""
        if self.scale != "multi30k":
            return {}
        names = ("train_file", "validation_file", "test_file", "source_language", "target_language")
        return {name: getattr(self.settings, name) for name in names}
