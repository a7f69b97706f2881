"""Shares a trained model: checks its folder, pushes it to the Hub in one commit, downloads it again and compares.

python recipes/share.py runs/numbers_bahdanau
python recipes/share.py runs/numbers_bahdanau --hub_model_id user/name --hub_private_repo true
python recipes/share.py runs/numbers_bahdanau --refresh_code true

Without hub_model_id it only checks, and needs no network. The token is that of HF_TOKEN in the environment, or
of `hf auth login`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.arguments import parse_settings, read_settings, run_script
from papers_to_gpt.engine.reporting import CARD_FILE
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.hub import HubRepository, RepositorySettings
from papers_to_gpt.publishing.shared_folder import check_shared_folder, refresh_code, shared_files
from papers_to_gpt.publishing.sharing import share_folder


@dataclass
class SharingSettings(RepositorySettings):
    """What is shared, and where."""

    folder: str | None = field(
        default=None,
        metadata={"help": "Of a finished run, or a checkpoint of one; may stand first, without its name."},
    )
    refresh_code: bool = field(
        default=False,
        metadata={"help": "Replace the code in the folder by the installed package's; the weights stay as they are."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.folder is None:
            raise ValueError("folder is not set. Name the folder of a trained model: share.py FOLDER.")


def parse(arguments: list[str] | None = None) -> tuple[SharingSettings]:
    """Reads the command line; what stands first without a name is the folder."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and not arguments[0].startswith("-"):
        arguments[0] = f"--folder={arguments[0]}"
    return parse_settings(read_settings(arguments), SharingSettings, description=__doc__.splitlines()[0])


def main() -> None:
    (settings,) = parse()
    transformers_logging.disable_progress_bar()
    folder = Path(settings.folder)
    repository = None
    if settings.refresh_code:
        if settings.hub_model_id is not None:
            # Known by the configuration that the folder has now: the new code may write another.
            repository = HubRepository(settings, folder.resolve().name, folder)
        refresh_code(folder)
    # Before a repository is made for a folder that nobody could use.
    checked = check_shared_folder(folder)
    if settings.hub_model_id is None:
        print(
            f"{folder} is complete: {type(checked.model).__name__} loads without this repository's packages and "
            "computes the same. To share it: --hub_model_id user/name. "
            f"That would push {', '.join(shared_files(folder))}."
        )
        return
    repository = repository or HubRepository(settings, folder.resolve().name, folder)
    if not (folder / CARD_FILE).is_file():
        write_card(folder)
    share_folder(repository, checked)


if __name__ == "__main__":
    run_script(main)
