"""Settings of the script that measures the papers' claims."""

import sys
from dataclasses import dataclass
from typing import Literal

from papers_to_gpt.settings.arguments import CheckedSettings, option, parse_settings, read_settings
from papers_to_gpt.settings.training import SEEDS

ACTIONS = ("list", "run")
# The settings that name the data of each scale.
FILES_OF_SCALE = {
    "small": (),
    "multi30k": ("train_file", "validation_file", "test_file"),
    "novels": ("train_file", "validation_file"),
    "glue": ("data_dir",),
}
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
        None, "Trainings that run at the same time; left out, one for each core.", "experiments", at_least=1
    )
    output_dir: str = option("runs/papers", "Folder for the reports and for the trained models.", "output")
    overwrite_output_dir: bool = option(
        False, "Measure experiments again that have a report; trained models are kept.", "output"
    )
    pictures_dir: str | None = option(
        None, "Folder for copies of the plots as EXPERIMENT_PLOT.png, such as the pictures of the readings.", "output"
    )
    train_file: str | None = option(None, "Training file of the scales multi30k and novels.", "data")
    validation_file: str | None = option(None, "Validation file of the scales multi30k and novels.", "data")
    test_file: str | None = option(None, "Test file of the scale multi30k.", "data")
    source_language: str = option("de", "Language code of the source, for the scale multi30k.", "data")
    target_language: str = option("en", "Language code of the target, for the scale multi30k.", "data")
    data_dir: str | None = option(None, "Folder of the tasks' files, for the scale glue.", "data")

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
        missing = [name for name in FILES_OF_SCALE[self.scale] if getattr(self, name) is None]
        if self.action == "run" and missing:
            raise ValueError(
                f"scale is {self.scale}, which needs {' and '.join(missing)}. recipes/RESULTS.md says where the data "
                "comes from."
            )


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
