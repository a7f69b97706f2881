"""Runs experiments one after another; those that have a report are not measured again."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.durable_files import make_folder
from papers_to_gpt.papers.experiment import Experiment, Verdict
from papers_to_gpt.papers.registry import EXPERIMENTS, list_experiments, select
from papers_to_gpt.papers.reports import (
    REPORT_FILE,
    RESULTS_FILE,
    SUMMARY_FILE,
    read_measured,
    write_report,
    write_summary,
)
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.settings.reproduction import ALLOWED, DATA, NEEDED, WHERE_FROM, ReproductionSettings


def run(settings: tuple[ReproductionSettings]) -> None:
    """Lists the experiments, or measures those that the settings name.

    Raises:
        ValueError: a name is unknown, data is missing, an experiment that is named by itself does not have the scale,
            none has it, or some of them failed.
    """
    (chosen,) = settings
    if chosen.action == "list":
        print(list_experiments())
        return
    selected = select(chosen.names)
    for name in DATA:
        path = getattr(chosen, name)
        if path is not None and not Path(path).exists():
            raise ValueError(f"{name}: there is no file or folder {path}. {WHERE_FROM}")
    experiments = [each for each in selected if chosen.scale in each.scales]
    for name in chosen.names:
        if name in EXPERIMENTS and chosen.scale not in EXPERIMENTS[name].scales:
            scales = " and ".join(EXPERIMENTS[name].scales)
            raise ValueError(f"The experiment {name} does not have the scale {chosen.scale}. It has {scales}.")
    if not experiments:
        having = ", ".join(each.name for each in EXPERIMENTS.values() if chosen.scale in each.scales)
        raise ValueError(f"None of these experiments has the scale {chosen.scale}. Those that have it: {having}.")
    left_out = [each.name for each in selected if each not in experiments]
    if left_out:
        print(f"Without the scale {chosen.scale}, left out: {', '.join(left_out)}.")
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    output_dir = Path(chosen.output_dir)
    for setting in ("output_dir", "pictures_dir"):
        if getattr(chosen, setting) is not None:
            make_folder(getattr(chosen, setting), setting)  # a wrong name ends the command before it trains
    failures = []
    for number, each in enumerate(experiments, 1):
        print(f"\n[{number}/{len(experiments)}] {each.name} ({each.item}): {each.claim} {each.criterion}")
        try:
            measure(each, chosen)
        except ValueError as error:
            failures.append(f"{each.name}: {error}")
            print(f"Failed: {error}")
    write_summary(output_dir, list(EXPERIMENTS.values()))
    if chosen.pictures_dir is not None:
        copy_pictures(output_dir, experiments, Path(chosen.pictures_dir))
    print(f"\nThe summary is in {output_dir / SUMMARY_FILE}.")
    if failures:
        raise ValueError("\n".join([f"{len(failures)} of {len(experiments)} experiments failed.", *failures]))


def measure(experiment: Experiment, settings: ReproductionSettings) -> None:
    """Measures an experiment and writes its report, unless it has one of the same scale, seeds and data."""
    bench = Workbench(settings, experiment.name)
    identity = _identity(experiment, settings)
    done = bench.folder / RESULTS_FILE
    found = read_measured(done)
    if settings.trial and found is not None and not found.get("trial", False):
        print(f"Measured before: {bench.folder}. A trial does not replace it; try it in another --output_dir.")
        return
    if not settings.overwrite_output_dir and found is not None and _is_of(identity, found):
        print(f"Measured before: {bench.folder}. Set --overwrite_output_dir true to measure it again.")
        return
    started = time.monotonic()
    finding = experiment.measure(bench)
    if bench.is_trial:
        verdict = Verdict(None, "A trial of two updates decides nothing.", numbers=finding.verdict.numbers)
    else:
        verdict = experiment.judge(finding.verdict, bench.scale)
    finding = replace(finding, verdict=verdict)
    write_report(experiment, finding, bench, (time.monotonic() - started) / 60, identity)
    print(f"{finding.verdict.sentence} {finding.verdict.reason}\nReport: {bench.folder / REPORT_FILE}")


def copy_pictures(output_dir: Path, experiments: Sequence[Experiment], target: Path) -> None:
    """Copies the PNG files of the reports to one folder, with the name of the experiment in front of theirs."""
    for each in experiments:
        for picture in sorted((output_dir / each.name).glob("*.png")):
            shutil.copyfile(picture, target / f"{each.name}_{picture.name}")


def _identity(experiment: Experiment, settings: ReproductionSettings) -> dict[str, Any]:
    """What a report must have in common with the settings to stand for them."""
    names = ("scale", "seeds", "trial", *NEEDED[settings.scale], *ALLOWED[settings.scale])
    identity = {"experiment": experiment.name, **{name: getattr(settings, name) for name in names}}
    if "finetuning_preset" in identity:
        # Of the preset it is the content that matters, which may have changed.
        identity["finetuning_preset"] = Run("finetune_gpt1", settings.finetuning_preset).name
    return identity


def _is_of(identity: dict[str, Any], found: dict[str, Any]) -> bool:
    return all(found.get(name) == value for name, value in identity.items())
