"""Settings for sharing a model on the Hub."""

import sys
from dataclasses import dataclass, fields
from typing import Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from papers_to_gpt.settings.arguments import WORDS_FOR_NO_VALUE, option, parse_settings, read_settings


@dataclass
class RepositorySettings:
    """The repository on the Hub. Names are those of `transformers.TrainingArguments` where it has the setting."""

    group = "Hub"

    hub_model_id: str | None = option(None, "Id of the model on the Hub, as user/name.")
    hub_private_repo: bool | None = option(
        None, "Make a new repository private; left out, the default of the account decides."
    )
    overwrite_hub_repo: bool = option(False, "Replace the content of the repository if it is another model.")

    def __post_init__(self):
        if self.hub_model_id is not None:
            try:
                validate_repo_id(self.hub_model_id)
            except HFValidationError as error:
                raise ValueError(f"hub_model_id is {self.hub_model_id!r}. It must be user/name: {error}") from error


@dataclass
class HubSettings(RepositorySettings):
    """Whether and when a run shares its model."""

    push_to_hub: bool = option(
        False, "Push the trained model to the Hub; needs the token HF_TOKEN or a login with `hf auth login`."
    )
    hub_strategy: Literal["end", "every_save"] = option(
        "end", "Push at the end of the run only, or also the model of each checkpoint during training."
    )

    def __post_init__(self):
        super().__post_init__()
        changed = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        if changed and not self.push_to_hub:
            raise ValueError(f"{' and '.join(changed)} is set, but nothing is pushed. Add --push_to_hub true.")


@dataclass
class SharingSettings(RepositorySettings):
    """The model to share, and its repository."""

    folder: str | None = option(
        None,
        "Folder of a finished run, of one of its checkpoints or of an export; it may stand first, without its name.",
        "model",
    )
    consolidate_to: str | None = option(
        None,
        "New folder for the model that a checkpoint of an FSDP2 run makes: its weights as a whole, without the state "
        "of training. That folder is then checked and shared.",
        "model",
    )
    refresh_code: bool = option(
        False,
        "Replace the code in the folder by that of the installed package, and keep the weights.",
        "model",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.folder is None:
            raise ValueError("folder is not set. Name the folder of a trained model: share.py FOLDER.")


def parse_sharing(arguments: list[str] | None = None, description: str = "") -> tuple[SharingSettings]:
    """Reads the command line; a first argument without a name is the folder."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and not arguments[0].startswith("-"):
        # A folder may be called none: here the word is a name and does not unset the setting.
        folder = f"./{arguments[0]}" if arguments[0].lower() in WORDS_FOR_NO_VALUE else arguments[0]
        arguments[0] = f"--folder={folder}"
    return parse_settings(read_settings(arguments), SharingSettings, description=description)
