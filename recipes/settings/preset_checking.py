"""Settings of the script that runs presets and compares them with their expected numbers."""

import sys
from dataclasses import dataclass

from papers_to_gpt.settings.arguments import CheckedSettings, option, parse_settings, read_settings

USAGE = "Usage: check_presets.py --minutes MINUTES, or check_presets.py PRESET..."


@dataclass
class PresetCheckSettings(CheckedSettings):
    """The presets, their data, and the time that there is."""

    group = "experiments"

    names: list[str] = option(
        [], "Presets to run, such as numbers/bahdanau; they stand first, without this name. Left out, all that fit."
    )
    minutes: float | None = option(
        None, "Run only presets whose stated minutes, the shortest first, add up to at most this number.", above=0
    )
    data_dir: str | None = option(
        None, "Folder with the data of RESULTS.md; left out, only presets with embedded data are run.", "data"
    )
    output_dir: str = option("runs/checks", "Folder for the table and for the trained models.", "output")

    def __post_init__(self):
        super().__post_init__()
        if not self.names and self.minutes is None:
            raise ValueError(f"names and minutes are not set: nothing says which presets to run. {USAGE}")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names is {' '.join(self.names)}; every preset may stand there once.")


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[PresetCheckSettings]:
    """Reads the command line; its first words, before any `--setting`, are the names of the presets."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    names = []
    while arguments and not arguments[0].startswith("-"):
        names.append(arguments.pop(0))
    named = ["--names", *names] if names else []
    return parse_settings(read_settings([*named, *arguments]), PresetCheckSettings, description=description)
