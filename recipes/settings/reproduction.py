"""Settings of the script that measures the papers' claims."""

import sys
from dataclasses import dataclass
from typing import Literal

from papers_to_gpt.settings.arguments import CheckedSettings, option, parse_settings, read_settings
from papers_to_gpt.settings.training import SEEDS

ACTIONS = ("list", "run")
# What a scale must be given: settings that name files or folders, and the trained model to start from.
NEEDED = {
    "small": (),
    "multi30k": ("train_file", "validation_file", "test_file"),
    "novels": ("train_file", "validation_file"),
    "glue": ("model_name_or_path",),
}
# What it may be given besides.
TASKS_AND_PRESET = ("data_dir", "task", "layers", "finetuning_preset")
ALLOWED = {
    "small": (),
    "multi30k": ("source_language", "target_language"),
    "novels": TASKS_AND_PRESET,
    "glue": (*TASKS_AND_PRESET, "train_file", "validation_file", "lstm_model_name_or_path"),
}
OF_SCALES = tuple(dict.fromkeys(name for names in (*NEEDED.values(), *ALLOWED.values()) for name in names))
# Settings that name data on the disk.
DATA = ("train_file", "validation_file", "test_file", "data_dir")
WHERE_FROM = "recipes/RESULTS.md, Data, says where the data comes from."
FINETUNING_PRESET = "glue/gpt1_small"
PRETRAIN_FIRST = "pretrain_gpt1.py novels/gpt1_small makes such a model, and openai-community/openai-gpt is published."
LANGUAGES = {"source_language": "de", "target_language": "en"}
USAGE = (
    "Usage: reproduce.py list, or reproduce.py run NAME... with the name of an experiment or a paper, core, or all."
)


@dataclass
class ReproductionSettings(CheckedSettings):
    """The experiments, their scale and their data."""

    group = "experiments"

    action: Literal["list", "run"] | None = option(
        None, "What to do: list the experiments or run some; it stands first, without its name."
    )
    names: list[str] = option(
        [],
        "Experiments to run, by their names, by their paper, or as core or all; they stand second, without the name.",
    )
    scale: Literal["small", "multi30k", "novels", "glue"] = option(
        "small", "Size of the experiments: small takes minutes on embedded data, the others need their data files."
    )
    seeds: list[int] = option(
        [1], "Seeds of the runs; a verdict on one seed is about the direction of a difference alone.", **SEEDS
    )
    trial: bool = option(
        False, "Two updates on a little data in place of each training: shows that all runs, and decides nothing."
    )
    jobs: int | None = option(
        None,
        "Trainings that run at the same time, each with its share of the cores; left out, one for each core that this "
        "process may use.",
        "experiments",
        at_least=1,
    )
    output_dir: str = option("runs/papers", "Folder for the reports and for the trained models.", "output")
    overwrite_output_dir: bool = option(
        False, "Measure experiments again that have a report; trained models are kept.", "output"
    )
    pictures_dir: str | None = option(
        None, "Folder for copies of the plots as EXPERIMENT_PLOT.png, such as the pictures of the readings.", "output"
    )
    train_file: str | None = option(
        None, "Training file of the scales multi30k and novels; at the scale glue, that of a task of your own.", "data"
    )
    validation_file: str | None = option(
        None,
        "Validation file of the scales multi30k and novels; at the scale glue, that of a task of your own.",
        "data",
    )
    test_file: str | None = option(None, "Test file of the scale multi30k.", "data")
    source_language: str = option(
        LANGUAGES["source_language"], "Language code of the source, for the scale multi30k.", "data"
    )
    target_language: str = option(
        LANGUAGES["target_language"], "Language code of the target, for the scale multi30k.", "data"
    )
    data_dir: str | None = option(
        None,
        "Folder with TASK/train.parquet and the other splits, for the scales novels and glue; left out, the tasks "
        "come from the Hub.",
        "data",
    )
    task: list[str] = option(
        [], "Tasks that the scales novels and glue fine-tune on; left out, those of finetuning_preset.", "data"
    )
    model_name_or_path: str | None = option(
        None, "Folder or Hub id of the pre-trained GPT-1 that the scale glue fine-tunes.", "model"
    )
    lstm_model_name_or_path: str | None = option(
        None,
        "Model pre-trained with lstm_size, for the row of the LSTM in table_5 at the scale glue; left out, there is "
        "no such row.",
        "model",
    )
    layers: list[int] | None = option(
        None,
        "Numbers of transferred blocks that transferred_layers compares with all of them, at the scales novels and "
        "glue; left out, every number.",
        "training",
        at_least=0,
    )
    finetuning_preset: str = option(
        FINETUNING_PRESET,
        "Preset of finetune_gpt1.py for the scales novels and glue, packaged or a file of your own.",
        "training",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.action is None:
            raise ValueError(f"action is not set. {USAGE}")
        if self.action == "list" and self.names:
            raise ValueError(f"names is {' '.join(self.names)}, but list shows all experiments. Leave it out. {USAGE}")
        if self.action == "run" and not self.names:
            raise ValueError(f"names is empty: nothing says which experiments to run. {USAGE}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}; every seed may stand there once.")
        if self.action == "run":
            self._check_scale()

    def _check_scale(self) -> None:
        """Checks that the settings are those of the scale."""
        defaults = LANGUAGES | {"finetuning_preset": FINETUNING_PRESET}
        allowed = (*NEEDED[self.scale], *ALLOWED[self.scale])
        for name in OF_SCALES:
            if name not in allowed and getattr(self, name) not in (None, [], defaults.get(name)):
                scales = " and ".join(scale for scale in NEEDED if name in (*NEEDED[scale], *ALLOWED[scale]))
                raise ValueError(
                    f"{name} is set, but scale is {self.scale}, which does not use it. Leave it out, or set --scale "
                    f"to {scales}."
                )
        missing = [name for name in NEEDED[self.scale] if getattr(self, name) is None]
        if missing:
            where = PRETRAIN_FIRST if "model_name_or_path" in missing else WHERE_FROM
            raise ValueError(f"scale is {self.scale}, which needs {' and '.join(missing)}. {where}")
        if self.train_file is not None and self.scale == "glue" and self.data_dir is not None:
            raise ValueError("train_file and data_dir are both set. Name one of them: a task of your own, or GLUE's.")
        if self.validation_file is not None and self.train_file is None:
            raise ValueError("validation_file is set, but train_file is not. Set both, or neither.")


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[ReproductionSettings]:
    """Reads the command line; its first words, before any `--setting`, are the action and the names."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    words = []
    while arguments and not arguments[0].startswith("-"):
        words.append(arguments.pop(0))
    if words and words[0] not in ACTIONS:
        raise ValueError(f"The action is {words[0]!r}; it must be one of {', '.join(ACTIONS)}. {USAGE}")
    named = [f"--action={words[0]}"] if words else []
    if words[1:]:
        named += ["--names", *words[1:]]
    return parse_settings(read_settings([*named, *arguments]), ReproductionSettings, description=description)
