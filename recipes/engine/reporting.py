"""Reports a run: log lines, a JSON-lines log, trackers, a progress bar, and files with its settings and results."""

import dataclasses
import json
import logging
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from tqdm import tqdm

from papers_to_gpt.engine.durable_files import append_line, flush_file, write_durably
from papers_to_gpt.settings.presets import EXPECTED

logger = logging.getLogger(__name__)

LOG_FILE = "train_log.jsonl"
RESULTS_FILE = "all_results.json"
RUN_FILE = "run.yaml"
TRACKERS_OF_SAMPLES = ("tensorboard", "trackio", "wandb")  # which take texts and pictures
TRACKERS_OF_THE_EXTRA = ("tensorboard", "trackio")  # what `tracking` in setup.cfg installs
SAMPLES_HEADING = re.compile(r"^==== (?:update (?P<update>\d+)|final model) ====$", re.MULTILINE)
LIBRARIES = "torch transformers datasets tokenizers accelerate evaluate sacrebleu scikit-learn scipy".split()


def describe_machine(accelerator: Accelerator) -> dict[str, Any]:
    """Returns the properties of the machine that a measured speed depends on."""
    return {
        "device": _device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "mixed_precision": accelerator.mixed_precision,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return _processor_name()
    # Not every kind of accelerator says its name, such as that of Apple's processors.
    name_of = getattr(torch.get_device_module(device), "get_device_name", None)
    return f"{device.type} of {_processor_name()}" if name_of is None else name_of(device)


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def measure_matrix_peak(accelerator: Accelerator, size: int | None = None) -> float:
    """Measures the FLOP/s of a large matrix product in the run's precision, the best of four products.

    The utilization in logs and benchmarks is relative to this number.

    Args:
        accelerator: gives the device and the precision.
        size: rows and columns of the matrix. Default: 2048 on CPU, which takes a second and gives the rate of larger
            ones, and 4096 on other devices.
    """
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    size = size or (2048 if accelerator.device.type == "cpu" else 4096)
    matrix = torch.randn(size, size, device=accelerator.device).to(dtype)  # zeros would be multiplied faster
    best = 0.0
    for _ in range(4):
        _synchronize(accelerator)
        started = time.perf_counter()
        matrix @ matrix
        _synchronize(accelerator)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def _synchronize(accelerator: Accelerator) -> None:
    if accelerator.device.type != "cpu":
        torch.accelerator.synchronize(accelerator.device)


def write_run_record(output_dir: Path, accelerator: Accelerator, settings: tuple[Any, ...], **extra: Any) -> None:
    """Writes all settings, the versions of the libraries and the machine to `run.yaml`.

    Args:
        output_dir: the folder of the run.
        accelerator: describes the machine.
        settings: all settings of the run.
        extra: further entries, such as the number of parameters.
    """
    record = {
        "settings": flatten_settings(settings),
        **extra,
        "versions": {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}},
        "machine": describe_machine(accelerator),
    }
    write_durably(output_dir / RUN_FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


def flatten_settings(settings: tuple[Any, ...]) -> dict[str, Any]:
    """Returns the settings of several dataclasses by their names on the command line.

    What a preset expects is left out: a run is compared with it, and does not follow it.
    """
    return {name: value for part in settings for name, value in dataclasses.asdict(part).items() if name != EXPECTED}


def read_run_record(output_dir: Path) -> dict[str, Any] | None:
    """Reads what `write_run_record` wrote; None if the folder holds no run.

    Raises:
        ValueError: if the file is damaged.
    """
    path = output_dir / RUN_FILE
    if not path.is_file():
        return None
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _damaged_record(path, " ".join(str(error).split())) from error
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise _damaged_record(path, "it has no mapping named settings")
    return record


def _damaged_record(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is damaged ({reason}), so the settings of the run are not known. Copy it again from a backup, or "
        "replace the run (--overwrite_output_dir true)."
    )


def write_results(output_dir: Path, results: dict[str, Any]) -> None:
    """Adds results to `all_results.json` and replaces those of the same name.

    Earlier results that are damaged are kept as `all_results.json.damaged`, and a warning names them.
    """
    path = output_dir / RESULTS_FILE
    try:
        earlier = read_results(output_dir)
    except ValueError as error:
        earlier, aside = {}, path.with_name(path.name + ".damaged")
        os.replace(path, aside)
        logger.warning("%s It is kept as %s, and new results are written.", error, aside)
    write_durably(path, json.dumps(earlier | results, indent=2, ensure_ascii=False) + "\n")


def read_results(output_dir: Path) -> dict[str, Any]:
    """Reads what `write_results` wrote; nothing if the folder holds no results.

    Raises:
        ValueError: if the file is damaged.
    """
    path = output_dir / RESULTS_FILE
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    if not isinstance(results, dict):
        raise ValueError(f"{path} is damaged (it holds no JSON object).")
    return results


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads the lines of a run's log. A last line that a full disk or a loss of power has cut is left out.

    Raises:
        ValueError: if a line before the last one is damaged.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            complete = isinstance(entry, dict) and type(entry.get("update")) is int
        except (ValueError, RecursionError):
            complete = False
        if complete:
            entries.append(entry)
        elif any(rest.strip() for rest in lines[number:]):
            raise ValueError(
                f"{path}, line {number} is damaged: it is no JSON object with an update. Correct or remove the line."
            )
    return entries


def replace_log_entry(output_dir: Path, update: int, kind: str, values: dict[str, Any]) -> None:
    """Writes a line to a run's log in place of those of its kind, so that a resumed run has it once."""
    path = output_dir / LOG_FILE
    entries = [entry for entry in read_log(path) if entry.get("kind") != kind]
    entries.append({"update": update, "kind": kind, **values})
    write_durably(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def add_samples(path: Path, update: int | None, text: str) -> None:
    """Adds an entry to a file of samples; entries of this update and of later ones are replaced.

    So a run that is resumed, and evaluates some updates again, has each entry once.

    Args:
        path: the file, such as `samples.txt`.
        update: the update that the samples are from; None for those of the final model.
        text: the samples.
    """
    content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for heading in SAMPLES_HEADING.finditer(content):
        if heading["update"] is None or (update is not None and int(heading["update"]) >= update):
            content = content[: heading.start()]
            break
    heading = "final model" if update is None else f"update {update}"
    write_durably(path, f"{content}==== {heading} ====\n\n{text}\n\n----\n\n")


def check_trackers(names: Sequence[str]) -> None:
    """Checks that all trackers are installed. Without this check accelerate would skip a missing one.

    Raises:
        ValueError: if one is not installed; the message says how to install it.
    """
    installed = set(map(str, get_available_trackers()))
    for name in names:
        if name not in installed:
            install = '-e ".[tracking]"' if name in TRACKERS_OF_THE_EXTRA else name
            raise ValueError(
                f"report_to is {name!r}, which is not installed. Install it (pip install {install}), or leave it out."
            )


def tracker_arguments(output_dir: Path, run_name: str) -> dict[str, dict[str, Any]]:
    """Returns each tracker's own arguments: the run's name and, if accelerate does not pass it, the folder."""
    return {
        "wandb": {"name": run_name, "dir": str(output_dir.resolve())},
        "trackio": {"name": run_name},
        "mlflow": {"run_name": run_name},
    }


def tracked_config(output_dir: Path) -> dict[str, str | int | float | bool]:
    """Returns the run's record in the form that every tracker accepts: without nesting, lists and None.

    Settings keep their names; the other entries become `versions/torch`, `machine/device` and so on. Settings without
    a value are left out. No setting holds a token, so no token reaches a tracker.
    """
    record = dict(read_run_record(output_dir) or {})
    flat = dict(record.pop("settings", {}))
    for name, value in record.items():
        flat |= {f"{name}/{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in flat.items()
        if value is not None
    }


def takes_pictures(accelerator: Accelerator) -> bool:
    """Returns True if this process has a tracker that takes texts and pictures."""
    return accelerator.is_main_process and any(each.name in TRACKERS_OF_SAMPLES for each in accelerator.trackers)


def track_samples(
    accelerator: Accelerator,
    update: int,
    samples: Sequence[str],
    pictures: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Sends texts that a model wrote at an evaluation to the trackers that take text, as `eval/samples` in Markdown.

    Without a tracker, as before a run starts and after its end, nothing is sent.

    Args:
        accelerator: has the trackers.
        update: the update that the samples are from.
        samples: the texts.
        pictures: by their names, such as `eval/alignment`: (height, width, 3) bytes of red, green and blue. Default:
            none.
    """
    for tracker in accelerator.trackers:
        for name, picture in (pictures or {}).items():
            if tracker.name == "trackio":
                from trackio import Image

                tracker.log({name: Image(picture)}, step=update)
            elif tracker.name == "tensorboard":
                tracker.log_images({name: picture[None]}, step=update, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({name: [picture]}, step=update)
    text = "\n\n----\n\n".join(sample.replace("\n", "\n\n") for sample in samples)
    for tracker in accelerator.trackers:
        if samples and tracker.name == "trackio":
            from trackio import Markdown

            tracker.log({"eval/samples": Markdown(text)}, step=update)
        elif samples and tracker.name in ("tensorboard", "wandb"):
            tracker.log({"eval/samples": text}, step=update)


class Reporter:
    """Reports values on the console, in `train_log.jsonl` and to the trackers; only the main process reports.

    Args:
        accelerator: created with `log_with` if there are trackers.
        output_dir: the folder of the log. Lines of an earlier log after `first_update` are removed, so that the log of
            a resumed run has every update once.
        total_updates: the length of the run, for the progress bar and the time left; None if it is not known.
        first_update: the number of updates done before this run was started or resumed.
        project: the trackers' project, which all runs of a recipe share.
        run_name: the run's name in the trackers. Default: the name of the output folder.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output_dir: Path,
        total_updates: int | None,
        first_update: int = 0,
        *,
        project: str,
        run_name: str | None = None,
    ):
        self.accelerator, self.path, self.total_updates = accelerator, output_dir / LOG_FILE, total_updates
        self.is_main = accelerator.is_main_process
        self.started, self.first_update = time.perf_counter(), first_update
        if self.is_main:
            kept = [line for line in read_log(self.path) if line["update"] <= first_update] if first_update else []
            self._replace_log(kept)
        if accelerator.log_with:
            accelerator.init_trackers(
                project,
                config=tracked_config(output_dir),
                init_kwargs=tracker_arguments(output_dir, run_name or output_dir.resolve().name),
            )
        # The progress bar is shown on a terminal only, as it would fill a log file with control characters.
        self.bar = tqdm(
            total=total_updates,
            initial=first_update,
            disable=not (self.is_main and sys.stderr.isatty()),
            unit="update",
            dynamic_ncols=True,
        )

    def advance(self) -> None:
        """Moves the progress bar by one update."""
        self.bar.update()

    def log(self, update: int, values: dict[str, float], prefix: str) -> None:
        """Reports values at an update.

        Args:
            update: the update.
            values: the values by name; strings go to the log file only.
            prefix: "train" or "eval".
        """
        if not self.is_main:
            return
        values = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in values.items()}
        if update == self.first_update:  # an evaluation that is repeated after a resume
            earlier = {"update": update, "kind": prefix}
            self._replace_log([line for line in read_log(self.path) if line | earlier != line])
        append_line(self.path, json.dumps({"update": update, "kind": prefix, **values}))
        shown = "  ".join(
            f"{name} {self._short(value)}" for name, value in values.items() if not isinstance(value, str)
        )
        of_total = f"/{self.total_updates}" if self.total_updates else ""
        self.say(f"{prefix:>5} {update}{of_total}  {shown}" + (self._time_left(update) if prefix == "train" else ""))
        numbers = {f"{prefix}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=update)

    def _replace_log(self, lines: Sequence[dict[str, Any]]) -> None:
        write_durably(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def flush(self) -> None:
        """Waits until the log is on the disk; call it before a checkpoint is written, which counts on its lines."""
        if self.is_main:
            flush_file(self.path)

    def say(self, text: str) -> None:
        """Prints a line on the console, above the progress bar."""
        if self.is_main:
            tqdm.write(text)
            sys.stdout.flush()

    def close(self) -> None:
        """Closes the progress bar and the trackers."""
        self.bar.close()
        # accelerator.end_training() would also destroy the process group, which the final evaluation still needs.
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []  # a finished tracker takes no more samples

    @staticmethod
    def _short(value: float | int) -> str:
        return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:.0f}"

    def _time_left(self, update: int) -> str:
        done = update - self.first_update
        if not self.total_updates or done <= 0:
            return ""
        seconds = (time.perf_counter() - self.started) / done * (self.total_updates - update)
        return f"  left {int(seconds // 60)}:{int(seconds % 60):02d}"


CARD_FILE = "README.md"
