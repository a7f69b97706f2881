"""Settings of the script that converts published weights."""

import sys
from dataclasses import dataclass

from papers_to_gpt.settings.arguments import option, parse_settings, read_settings
from papers_to_gpt.settings.commands import command


@dataclass
class ConversionSettings:
    """The checkpoint to convert and the folder to write."""

    group = "model"

    source: str | None = option(
        None, "Folder or Hub id of the checkpoint to convert; it may stand first, without its name."
    )
    target: str | None = option(
        None, "Folder to write, which must be new or empty; it may stand second, without its name.", "output"
    )

    def __post_init__(self):
        for name in ("source", "target"):
            if getattr(self, name) is None:
                raise ValueError(f"{name} is not set. Name both folders: convert_openai_gpt.py SOURCE TARGET.")


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[ConversionSettings]:
    """Reads the command line; the first two arguments without a name are source and target.

    Raises:
        ValueError: a setting is unknown or missing. For `--to`, which was one, the message has the command to export.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for position, name in enumerate(("source", "target")):
        if len(arguments) > position and not arguments[position].startswith("-"):
            arguments[position] = f"--{name}={arguments[position]}"
        else:
            break
    settings = read_settings(arguments)
    for setting in (each for each in settings if each.key == "to"):
        raise ValueError(
            f"{setting.origin}: unknown setting 'to'. Published weights only become ours here; for the way back run: "
            + command("export", "MODEL", "--format", "openai-gpt", "--output_dir", "FOLDER")
        )
    return parse_settings(settings, ConversionSettings, description=description)
