"""Settings of the script that compares two revisions."""

import shlex
import sys
from dataclasses import dataclass

from papers_to_gpt.settings.arguments import CheckedSettings, option, parse_settings, read_settings
from papers_to_gpt.settings.corpora import refuse_no_file

USAGE = "Usage: compare.py REV_A REV_B [--setting value ...]"


@dataclass
class ComparisonSettings(CheckedSettings):
    """The revisions, what they train, and the number of measurements."""

    group = "measurement"

    revisions: list[str] = option(
        [], "Two commits, branches or tags to compare; they stand first, without this name.", "data"
    )
    preset: str = option(
        "numbers/bahdanau", "Preset that both train, by its name in their checkouts, or a file for both.", "data"
    )
    arguments: str | None = option(
        None,
        "Further settings of the recipe, as one text behind an equals sign: --arguments='--train_file a --seed 2'.",
        "data",
    )
    repository: str | None = option(
        None, "Folder of the git repository with the revisions; left out, the one that this script is in.", "data"
    )
    rounds: int = option(3, "Runs of each revision.", at_least=1)
    updates: int = option(20, "Updates of a run.", at_least=2)
    warm_up_updates: int = option(5, "Updates at the beginning of a run whose speed does not count.", at_least=0)
    threads: int | None = option(None, "Value of OMP_NUM_THREADS; left out, that of this process.", at_least=1)
    output_file: str | None = option(None, "File for losses and measurements of all runs as JSON.", "output")

    def __post_init__(self):
        super().__post_init__()
        if len(self.revisions) != 2:
            raise ValueError(f"revisions is {' '.join(self.revisions) or 'empty'}; it must be two of them. {USAGE}")
        if self.warm_up_updates >= self.updates:
            raise ValueError(
                f"warm_up_updates is {self.warm_up_updates}, and updates {self.updates}: no update is left to "
                "measure. Raise updates."
            )
        refuse_no_file(self.output_file, "output_file")
        try:
            words = shlex.split(self.arguments or "")
        except ValueError as error:
            raise ValueError(f"arguments is {self.arguments!r}, in which a quotation mark is not closed.") from error
        if words and not words[0].startswith("--"):
            raise ValueError(f"arguments is {self.arguments!r}; it must be a list of --setting value.")


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[ComparisonSettings]:
    """Reads the command line; its first words, before any `--setting`, are the revisions."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    words = []
    while arguments and not arguments[0].startswith("-"):
        words.append(arguments.pop(0))
    for before, word in zip(arguments, arguments[1:], strict=False):
        if before == "--arguments" and word.startswith("--"):
            raise ValueError(
                f"arguments has no value. Write it behind an equals sign: --arguments={shlex.quote(word)}."
            )
    named = ["--revisions", *words] if words else []
    return parse_settings(read_settings([*named, *arguments]), ComparisonSettings, description=description)
