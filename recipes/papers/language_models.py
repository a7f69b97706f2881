"""The language models of the experiments: the runs that pre-train them, and those that fine-tune them on tasks.

At the scale `small` GPT-1 is pre-trained on the embedded stories and fine-tuned on their tasks. At the scale `novels`
it is pre-trained on novels and fine-tuned on tasks of GLUE. At the scale `glue` the user names pre-trained models.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

import gpt1_scratch  # noqa: F401  (registers GPT-1's configuration)
from gpt1_scratch.finetuning.tasks import OWN, TASKS
from papers_to_gpt.engine.model_folder import check_folder
from papers_to_gpt.papers.experiment import Table
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.settings.finetuning import TRAIN_HOLDOUT
from papers_to_gpt.settings.finetuning import parse as parse_finetuning
from papers_to_gpt.settings.presets import read_preset
from papers_to_gpt.settings.reproduction import WHERE_FROM

TRANSFORMER, LSTM, MASKED = "Transformer", "LSTM", "masked"

PRESETS = {
    "small": {TRANSFORMER: "stories/gpt1_mini", LSTM: "stories/lstm_mini", MASKED: "stories/masked_mini"},
    "novels": {TRANSFORMER: "novels/gpt1_small", LSTM: "novels/lstm_small", MASKED: "novels/gpt1_small"},
}
CHECKPOINTS = 6  # of each pre-training, spread evenly; the last one is that of the last update

# The scores of a task of the user's own files: the first one that a run has is its main score.
OWN_SCORES = ("accuracy", "f1_micro", "pearson")


def pretraining_data(bench: Workbench) -> dict[str, Any]:
    """Returns the settings by which pre-training reads the texts of the scale; none for embedded data."""
    if bench.scale == "small":
        return {}
    return {name: getattr(bench.settings, name) for name in ("train_file", "validation_file")}


def pretrained(bench: Workbench, kind: str, **changes: Any) -> Run:
    """Returns the run that pre-trains the Transformer, the LSTM or the masked model.

    The first two keep checkpoints on their way.

    Args:
        bench: the scale, and the texts.
        kind: TRANSFORMER, LSTM or MASKED.
        changes: settings that differ from the preset.
    """
    settings: dict[str, Any] = {"num_samples": 0, "seed": 42} | pretraining_data(bench)
    if kind != MASKED:
        # The last update is always saved: rounded down, the interval would leave a seventh checkpoint just before it.
        settings |= {"save_steps": math.ceil(planned_updates(bench, kind) / CHECKPOINTS), "save_total_limit": 0}
    elif bench.scale != "small":
        settings["objective"] = "masked"  # the preset of the stories has it
    return Run("pretrain_gpt1", PRESETS[bench.scale][kind], settings | changes)


def planned_updates(bench: Workbench, kind: str) -> int:
    """Returns the number of updates of a pre-training, which its preset says."""
    (steps,) = (each.values[0] for each in read_preset(PRESETS[bench.scale][kind]) if each.key == "max_steps")
    return int(steps)


def pretrained_models(bench: Workbench, *kinds: str) -> list[Path | str | None]:
    """Pre-trains models and returns their folders. At the scale `glue` returns the models that the user named.

    Returns:
        A folder or Hub id for each kind; None for an LSTM at the scale `glue` that the user did not name.

    Raises:
        ValueError: a run failed, the tasks cannot be read, or a named model is of another kind.
    """
    if bench.scale != "small":
        # Wrong settings and missing files of the tasks end the experiment before it trains.
        tasks_of(finetuned(bench, "", (), "unused"))
    if bench.scale != "glue":
        return list(bench.make(*(pretrained(bench, kind) for kind in kinds)))
    names = {TRANSFORMER: "model_name_or_path", LSTM: "lstm_model_name_or_path"}
    found: list[Path | str | None] = []
    for setting in (names[kind] for kind in kinds):
        model = getattr(bench.settings, setting)
        found.append(model)
        if model is None:
            continue
        config = config_of(model, setting)
        is_lstm = getattr(config, "lstm_size", None) is not None
        if is_lstm is not (setting == names[LSTM]):
            kind, preset = ("an LSTM", "gpt1_small") if is_lstm else ("a Transformer", "lstm_small")
            raise ValueError(f"{setting} is {model}, which is {kind}. Name a model such as that of novels/{preset}.")
        if getattr(config, "attention", "causal") != "causal":
            raise ValueError(
                f"{setting} is {model}, which has bidirectional attention, and so no auxiliary loss. Name a model "
                "that was pre-trained with objective next_token."
            )
    return found


def config_of(model: Path | str, setting: str) -> PreTrainedConfig:
    """Returns the configuration of a model.

    Raises:
        ValueError: there is no such model; the message names the setting.
    """
    try:
        check_folder(str(model))
        return AutoConfig.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{setting} is {model}, which is no model that can be read: {error}") from error


def finetuned(bench: Workbench, preset: str, tasks: Sequence[str], model: Path | str, **changes: Any) -> Run:
    """Returns the run that fine-tunes a pre-trained model with every seed.

    Training rows that are held out choose the checkpoint, so that no row that is reported has chosen anything.

    Args:
        bench: the scale; at other scales than `small`, the user's settings name the preset, the tasks and their data.
        preset, tasks: those of the scale `small`. Without tasks, the one that the preset names.
        model: folder or Hub id of the pre-trained model.
        changes: settings that differ from the preset.
    """
    settings: dict[str, Any] = {
        "model_name_or_path": model,
        "seeds": bench.seeds,
        "selection": TRAIN_HOLDOUT,
    } | changes
    if bench.scale == "small":
        return Run("finetune_gpt1", preset, settings | ({"task": list(tasks)} if tasks else {}))
    chosen = bench.settings
    if chosen.scale == "glue" and chosen.train_file is not None:
        settings |= {"train_file": chosen.train_file, "task": chosen.task or "none"}
        settings |= {} if chosen.validation_file is None else {"validation_file": chosen.validation_file}
    else:
        settings |= {"task": chosen.task} if chosen.task else {}
        settings |= {} if chosen.data_dir is None else {"data_dir": chosen.data_dir}
    return Run("finetune_gpt1", chosen.finetuning_preset, settings)


def tasks_of(run: Run) -> list[str | None]:
    """Returns the tasks that a run of fine-tuning names; None stands for a task of the user's own files.

    Raises:
        ValueError: the run's settings are wrong, or the folder of its data has no files of a task.
    """
    _, data, *_ = parse_finetuning([*run.arguments(), "--output_dir", "unused"])
    check_task_files(data.data_dir, list(filter(None, data.names())))
    return data.names()


def check_task_files(data_dir: str | None, names: Sequence[str]) -> None:
    """Checks that a folder has the files of tasks. Without a folder, they come from the Hub.

    Raises:
        ValueError: a file is missing; the message says where it comes from.
    """
    for name in names if data_dir is not None else ():
        for split in ("train", *TASKS[name].validation):
            path = Path(data_dir, name, f"{split}.parquet")
            if not path.is_file():
                raise ValueError(f"data_dir needs the file {path} for the task {name}, which is missing. {WHERE_FROM}")


def task_scores(bench: Workbench, run: Run) -> dict[str, list[float]]:
    """Returns the main score of each task, times 100, for every seed, of a run that has been made.

    It is the score of the test split if the task has one with labels, otherwise that of the validation split.
    """
    return {
        name or OWN: [100 * each[_main_score(name, each)] for each in runs]
        for name, runs in _results_of_tasks(bench, run).items()
    }


def _results_of_tasks(bench: Workbench, run: Run) -> dict[str | None, list[dict[str, Any]]]:
    """Returns the results of every seed for each task; None stands for a task of the user's own files."""
    results = bench.results(run)
    names = tasks_of(run)
    if "tasks" not in results:
        (name,) = names
        return {name: [results]}
    found = [list(summary["runs"].values()) for summary in results["tasks"].values()]
    return dict(zip(names, found, strict=True))


def train_rows(bench: Workbench, run: Run) -> dict[str, int]:
    """Returns the number of training examples of each task of a run that has been made."""
    return {name or OWN: runs[0]["train_rows"] for name, runs in _results_of_tasks(bench, run).items()}


def _main_score(name: str | None, results: Mapping[str, Any]) -> str:
    """Returns the name of a task's main score, such as `test_accuracy`, in the results of a run."""
    metrics = TASKS[name].metrics[:1] if name in TASKS else OWN_SCORES
    names = (f"{kind}_{metric}" for kind in ("test", "eval") for metric in metrics)
    return next(name for name in names if name in results)


def short_name(task: str) -> str:
    """Returns the name of a task without that of its group."""
    return task.removeprefix("stories_")


def mean_by_seed(scores: Iterable[Sequence[float]]) -> list[float]:
    """Returns the mean over tasks, for every seed."""
    return [statistics.mean(each) for each in zip(*scores, strict=True)]


def table_of_tasks(first: str, rows: Mapping[Any, Mapping[str, Sequence[float]]]) -> Table:
    """Returns a table with a row for each model: its name, the average of its tasks, and each task.

    Args:
        first: the name of the column of names.
        rows: for each name the scores of every task, for every seed.
    """
    tasks = list(next(iter(rows.values())))
    single = len(tasks) == 1
    return Table(
        (first, *([] if single else ["average"]), *map(short_name, tasks)),
        [
            (
                name,
                *([] if single else [statistics.mean(mean_by_seed(scores.values()))]),
                *(statistics.mean(scores[task]) for task in tasks),
            )
            for name, scores in rows.items()
        ],
        digits=1,
    )


def what_is_scored(bench: Workbench, *runs: Run) -> str:
    """Returns sentences that name the score of each task of runs that have been made, its split, what chose the
    checkpoints, and what the seeds are of."""
    splits: dict[str, list[str]] = {}
    for run in runs:
        for name, (first, *_) in _results_of_tasks(bench, run).items():
            kind, _, metric = _main_score(name, first).partition("_")
            split = {"test": "test", "eval": "validation"}[kind]
            splits.setdefault(split, []).append(f"{metric.replace('_', ' ')} ({short_name(name or OWN)})")
    named = " and ".join(f"those of the {split} split, {', '.join(scores)}" for split, scores in splits.items())
    return (
        f"Scores are {named}; all are times 100. Training rows that were held out chose the checkpoints. "
        "Seeds and standard errors are those of the fine-tuning: each pre-trained model is one run."
    )
