"""Settings of the script that serves a page on which anyone can try trained models."""

import sys
from dataclasses import dataclass

from papers_to_gpt.settings.arguments import (
    WORDS_FOR_NO_VALUE,
    CheckedSettings,
    option,
    parse_settings,
    read_settings,
)

# Addresses that only this machine reaches.
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class DemonstrationSettings(CheckedSettings):
    """The models, the limits of what a user may ask for, and the address of the page."""

    group = "model"

    model_name_or_path: list[str] = option(
        [], "Folders of trained models, which may stand first, without the name; left out, all models in models_dir."
    )
    models_dir: str = option("runs", "Folder whose trained models the page offers if model_name_or_path names none.")
    max_loaded_models: int = option(
        8, "Maximum number of models in memory; the one that was used longest ago is dropped.", at_least=1
    )
    max_input_tokens: int = option(
        100, "Maximum number of tokens that a user may type; a longer text is refused.", "decoding", at_least=1
    )
    max_new_tokens: int = option(
        200, "Maximum number of tokens of a continuation that a user may choose.", "decoding", at_least=1
    )
    host: str = option(
        LOOPBACK[0], "Address that the page is served at; by default, only this machine reaches it.", "output"
    )
    port: int = option(7860, "Port that the page is served at.", "output", at_least=1, at_most=65535)

    def __post_init__(self):
        super().__post_init__()
        for name in ("models_dir", "host"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty. Set it, or leave it out.")


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[DemonstrationSettings]:
    """Reads the command line; its first words, before any `--setting`, are the models."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    models = []
    while arguments and not arguments[0].startswith("-"):
        models.append(arguments.pop(0))
    # A folder may be called "none", which would unset the setting.
    models = [f"./{name}" if name.lower() in WORDS_FOR_NO_VALUE else name for name in models]
    named = ["--model_name_or_path", *models] if models else []
    return parse_settings(read_settings([*named, *arguments]), DemonstrationSettings, description=description)
