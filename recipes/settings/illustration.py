"""Settings of the script that draws the pictures of the guided readings."""

from dataclasses import dataclass

from papers_to_gpt.settings.arguments import CheckedSettings, option, parse_settings, read_settings


@dataclass
class IllustrationSettings(CheckedSettings):
    """What is drawn, from which models, and where it goes."""

    group = "pictures"

    pictures: list[str] = option([], "Names of the pictures; left out, all whose model is there.")
    models_dir: str = option(
        "runs", "Folder of the trained models, each under its preset's name, such as numbers_bahdanau.", "model"
    )
    output_dir: str = option(
        ".", "Folder of the repository; the pictures go to the folder pictures beside their reading.", "output"
    )


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[IllustrationSettings]:
    """Reads the command line."""
    return parse_settings(read_settings(arguments), IllustrationSettings, description=description)
