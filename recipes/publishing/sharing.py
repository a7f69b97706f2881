"""The output folder of a run: whose it is, and what of it is shared."""

import shlex
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.reporting import CARD_FILE
from papers_to_gpt.engine.training import checkpoint_to_resume
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.hub import HubRepository
from papers_to_gpt.publishing.model_card import name_on_hub
from papers_to_gpt.publishing.shared_folder import CheckedFolder, check_shared_folder, refresh_code, shared_files
from papers_to_gpt.settings.hub import HubSettings, SharingSettings
from papers_to_gpt.settings.training import TrainingSettings


def open_repository(accelerator: Accelerator, hub: HubSettings, training: TrainingSettings) -> HubRepository | None:
    """The repository of the Hub that the run's model goes to, on the main process, if it is to be pushed.

    Called before anything is computed, so that an hour of training is not spent on a model that cannot be pushed.

    Raises:
        ValueError: for an id, a token or a repository that will not do (see `HubRepository`).
    """
    if not (hub.push_to_hub and accelerator.is_main_process):
        return None
    return HubRepository(hub, Path(training.output_dir).resolve().name, checkpoint_to_resume(training))


def push_of_checkpoints(repository: HubRepository | None, hub: HubSettings) -> Callable[[Path], None] | None:
    """What to do with a checkpoint once it is written, for `TrainingLoop`."""
    if repository is None or hub.hub_strategy == "end":
        return None
    return repository.push_in_background


def push_at_end(repository: HubRepository | None, folder: Path) -> None:
    """Checks, pushes and verifies a trained model.

    Raises:
        ValueError: if that fails; the folder stays as it is, and the message has the command that goes on from there.
    """
    if repository is None:
        return
    try:
        repository.finish_uploads()
        share_folder(repository, check_shared_folder(folder))
    except (ValueError, OSError) as error:
        go_on = ["python", "recipes/share.py", str(folder), "--hub_model_id", repository.repo_id]
        go_on += ["--overwrite_hub_repo", "true"] if repository.overwrite else []
        raise ValueError(
            f"The model is trained and in {folder}, but it was not shared: {error}\nTo go on: {shlex.join(go_on)}"
        ) from error


def share_folder(repository: HubRepository, checked: CheckedFolder) -> None:
    """Pushes a folder in one commit, and compares what the Hub then gives back.

    Raises:
        ValueError: if one of that fails.
        OSError: if the Hub does not answer.
    """
    folder = checked.folder
    if (folder / CARD_FILE).is_file():
        name_on_hub(folder, repository.repo_id)
    commit = repository.push(folder, f"{type(checked.model).__name__} and its tokenizer")
    repository.verify(checked, commit)
    print(f"Pushed to {repository.url}, downloaded again and compared: it computes what {folder} does.")


def run(settings: SharingSettings) -> None:
    """Checks a folder, and pushes it if the settings name a repository."""
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
