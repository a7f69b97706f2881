"""Settings for fine-tuning GPT-1 on tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from papers_to_gpt.settings.arguments import (
    CheckedSettings,
    Setting,
    option,
    parse_settings,
    read_settings,
    value_of,
)
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.corpora import refuse_same_file
from papers_to_gpt.settings.hub import HubSettings
from papers_to_gpt.settings.preset_runs import parse_training_settings
from papers_to_gpt.settings.registries import glue_tasks, groups_of_tasks, quoted, task_names
from papers_to_gpt.settings.training import OUTPUT, SEEDS, OptimizationSettings, TrainingSettings, warn_of_same_file

# The values of selection. The first is also the name of the split of the rows that are held out.
TRAIN_HOLDOUT, VALIDATION = "train_holdout", "validation"


@dataclass
class StartSettings(CheckedSettings):
    """The pre-trained model, and the parts of it that are kept."""

    group = "model"

    model_name_or_path: str | None = option(
        None, "Folder or Hub id of a pre-trained GPT-1, ours or OpenAI's (openai-gpt)."
    )
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    from_scratch: bool = option(False, "Keep the sizes and the tokenizer of the model, but not its weights.")
    transferred_layers: int | None = option(
        None,
        "Number of blocks, from the first, that keep their weights besides the embeddings; left out, all.",
        at_least=0,
    )
    dropout: float | None = option(
        None, "Dropout on embeddings, attention and residuals; left out, that of pre-training.", at_least=0, below=1
    )
    classifier_dropout: float = option(
        0.1, "Dropout on the state that the head for the task reads.", at_least=0, below=1
    )
    auxiliary_loss_weight: float = option(
        0.5, "Weight of the auxiliary language modeling loss (lambda in the paper; 0 = off).", at_least=0
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.model_name_or_path:
            raise ValueError("model_name_or_path is not set. Name the folder or Hub id of a pre-trained model.")
        if self.from_scratch and self.transferred_layers is not None:
            raise ValueError("from_scratch and transferred_layers are both set. Set one.")

    def of_config(self) -> dict[str, float]:
        """Returns the settings that change the model's configuration, by their names in `GPT1Config`."""
        changes = {name: getattr(self, name) for name in ("classifier_dropout", "auxiliary_loss_weight")}
        if self.dropout is not None:
            changes |= dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), self.dropout)
        return changes


@dataclass
class TaskSettings(CheckedSettings):
    """The tasks, their data and the batch sizes."""

    group = "data"

    task: list[str] = option(
        [],
        f"One or several of {', '.join(task_names())}; {quoted(tuple(groups_of_tasks()))} for all embedded tasks of "
        "that name; `all` for the tasks in data_dir, or those of GLUE. Leave it out for files of your own.",
    )
    data_dir: str | None = option(
        None, "Folder with TASK/train.parquet and the other splits; left out, data sets come from the Hub."
    )
    train_file: str | None = option(
        None, "CSV, TSV, JSON (lines or one list) or Parquet file to train on, also .gz, .xz or .zst."
    )
    validation_file: str | None = option(None, "File to validate on, of these kinds; left out, part of train_file.")
    test_file: str | None = option(None, "File to predict, of these kinds; it is scored if it has labels.")
    text_column: str | None = option(
        None, "Column of the text in files of your own; left out, it is inferred from the columns."
    )
    text_pair_column: str | None = option(
        None, "Column of the second text in files of your own; left out, it is inferred from the columns."
    )
    label_column: str | None = option(
        None, "Column of the label in files of your own; left out, it is inferred from the columns."
    )
    label_columns: list[str] = option(
        [], "Columns of 0 and 1, each for a label of its name, of which any number may apply to a text."
    )
    problem_type: Literal["classification", "regression", "multi_label_classification"] | None = option(
        None,
        "Kind of the task; left out, regression if the labels are numbers with a fraction, and "
        "multi_label_classification if they are lists. In CSV and TSV, set the latter for cells of labels with | "
        "between them.",
    )
    class_weights: str | None = option(
        None,
        "Weights of the classes in the loss: `balanced`, or a file with a class, a tab and its weight in each line; "
        "left out, all are 1.",
    )
    both_orders: bool | None = option(
        None, "Read a pair of texts in both orders, as for similarity; left out, only in regression."
    )
    validation_share: float = option(
        0.1, "Fraction of train_file to validate on if there is no validation_file.", above=0, below=1
    )
    selection: Literal["train_holdout", "validation"] = option(
        "validation",
        "Rows that choose the checkpoint: train_holdout holds out part of the training rows, the same for every seed, "
        "and only scores the validation split; validation chooses and scores on that split. Left out, several runs "
        "take train_holdout, unless their tasks have a labelled test split to report.",
    )
    holdout_share: float = option(
        0.1, "Fraction of the training rows, of each class, that train_holdout holds out.", above=0, below=1
    )
    max_eval_samples: int | None = option(
        None,
        "Validate on only this many examples, at even distances in the validation split and in the rows held out.",
        at_least=2,
    )
    max_length: int | None = option(
        None, "Maximum number of tokens, beyond which texts are cut; left out, the positions of the model.", at_least=5
    )
    per_device_train_batch_size: int = option(32, "Examples per training batch on each process.", at_least=1)
    per_device_eval_batch_size: int = option(64, "Examples per evaluation batch on each process.", at_least=1)
    seeds: list[int] = option(
        [], "Seeds of several runs, reported with median and spread; left out, one run with seed.", "training", **SEEDS
    )

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}, which has a seed twice. Name each once.")
        warn_of_same_file(self)
        names = self.names()
        if self.train_file is not None and len(names) > 1:
            raise ValueError(
                f"train_file is one task's data, but task names {len(names)}: {', '.join(names)}. Unset task "
                "for a task of your own (--task none), name the one that the file is for, or unset the file "
                "(--train_file none)."
            )
        if names == [None] and self.train_file is None:
            raise ValueError(f"Set train_file, or task to some of {', '.join(task_names())}.")

    def reports_validation(self) -> bool:
        """Returns True if a task has no labelled test split, so that its validation score is what a table reports.

        So it is for the tasks of GLUE, whose test labels are secret, and for files without a test_file.
        """
        if self.train_file is not None:
            return self.test_file is None
        return not set(glue_tasks()).isdisjoint(self.names())

    def names(self) -> list[str | None]:
        """Returns the names of the chosen tasks; None stands for a task of the user's own files."""
        known = task_names()
        in_data_dir = tuple(name for name in known if self.data_dir and (Path(self.data_dir) / name).is_dir())
        groups = {**groups_of_tasks(), "all": in_data_dir if self.data_dir else glue_tasks()}
        if "all" in self.task and not groups["all"]:
            raise ValueError(
                f"task is all, but data_dir {self.data_dir} holds no folder of a known task. Name the folder that has "
                "TASK/train.parquet, or leave data_dir out."
            )
        names: list[str | None] = []
        for name in self.task:
            if name not in groups and name not in known:
                raise ValueError(f"The task {name!r} is not known; known are {', '.join(known)}.")
            names += groups.get(name, [name])
        return list(dict.fromkeys(names)) or [None]


@dataclass
class FinetuningOptimization(OptimizationSettings):
    """The optimization of the paper's fine-tuning (section 4.1)."""

    learning_rate: float = option(
        6.25e-5, "Peak learning rate; with noam, a factor on the formula of the paper.", above=0
    )
    weight_decay: float = option(
        0.01,
        "Weight decay of matrices, never of biases and gains; decoupled from the gradient with adamw and muon.",
        at_least=0,
    )
    warmup_steps: float = option(
        0.002, "Updates of linear warmup from 0 to the peak; a number below 1 is a fraction of the run.", at_least=0
    )


@dataclass
class FinetuningSettings(TrainingSettings):
    """The training settings, with the paper's three epochs and an evaluation after each."""

    num_train_epochs: float | None = option(3, "Number of epochs, used if max_steps is not set.", above=0)
    eval_steps: int | None = option(
        None, "Updates between evaluations, each of which writes a checkpoint; left out, an epoch.", at_least=1
    )
    metric_for_best_model: str | None = option(
        None, "Evaluation score that selects the best checkpoint; left out, the first score of the task."
    )
    project: str = option("papers-to-gpt-finetuning", "Project in trackers, shared by all runs of a recipe.", OUTPUT)


@dataclass
class SeriesComparison(CheckedSettings):
    """Finished series to compare, in place of fine-tuning."""

    group = "data"

    compare: list[str] = option(
        [],
        "Folders of finished runs with several seeds, to compare with the first one by a paired t-test over the "
        "seeds, in place of fine-tuning; the other settings are then left out.",
    )
    output_file: str | None = option(None, "File for the comparison, as JSON; needs compare.", OUTPUT)

    def __post_init__(self):
        super().__post_init__()
        refuse_same_file(self.compare, "compare")
        if len(self.compare) == 1:
            raise ValueError(f"compare names only {self.compare[0]}. Name two or more folders.")
        if self.output_file is not None and not self.compare:
            raise ValueError("output_file is set, but compare is not. Name the folders to compare, or leave it out.")


Settings = tuple[StartSettings, TaskSettings, FinetuningOptimization, FinetuningSettings, HubSettings]
PARTS = (StartSettings, TaskSettings, FinetuningOptimization, FinetuningSettings, HubSettings)


def parse(arguments: list[str] | None = None, description: str = "") -> Settings | tuple[SeriesComparison]:
    """Reads preset and command line of finetune_gpt1.py, which may ask for a comparison alone."""
    settings = read_settings(arguments)
    if value_of(settings, "compare") is not None:
        return parse_settings(settings, SeriesComparison, description=description)
    parsed = parse_training_settings("finetune_gpt1", settings, *PARTS, SeriesComparison, description=description)[:-1]
    _, data, _, _, hub = parsed
    if len(data.names()) > 1 or len(data.seeds) > 1:
        select_for_table(settings, data)
    if hub.push_to_hub and len(data.names()) > 1:
        raise ValueError(
            "push_to_hub shares one model, but task names several. Leave it out, and share the folders that you want "
            f"afterwards: {command('share')}"
        )
    if hub.hub_strategy == "every_save" and len(data.seeds) > 1:
        raise ValueError(
            "hub_strategy is every_save, but there are several seeds: their median run is pushed at the end. Set "
            "hub_strategy to end, or name one seed."
        )
    return parsed


def select_for_table(settings: Sequence[Setting], data: TaskSettings) -> None:
    """Chooses the selection of runs whose scores a table reports, unless a setting has chosen it."""
    if value_of(settings, "selection") is None and data.reports_validation():
        data.selection = TRAIN_HOLDOUT
