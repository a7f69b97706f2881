"""Shares the model in a run's output folder: opens the repository, pushes checkpoints and the final model."""

from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.checkpointing import write_whole_model
from papers_to_gpt.engine.model_folder import is_export
from papers_to_gpt.engine.reporting import CARD_FILE
from papers_to_gpt.exporting.cards import library_card, openai_gpt_card
from papers_to_gpt.exporting.formats import LIBRARY_CLASSES
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.hub import HubRepository
from papers_to_gpt.publishing.model_card import name_on_hub
from papers_to_gpt.publishing.shared_exports import check_export_folder, rewrite_code, share_export
from papers_to_gpt.publishing.shared_folder import (
    LIBRARY_MODELS,
    CheckedFolder,
    check_shared_folder,
    refresh_code,
    shared_files,
)
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.hub import HubSettings, SharingSettings
from papers_to_gpt.settings.training import TrainingSettings


def open_repository(accelerator: Accelerator, hub: HubSettings, training: TrainingSettings) -> HubRepository | None:
    """Opens the Hub repository of a run, before the run computes anything.

    A run whose model could not be pushed therefore fails at its start and not after training.

    Returns:
        The repository; None if `push_to_hub` is false, and on every process but the main one.

    Raises:
        ValueError: if the id, the token or the repository cannot be used (see `HubRepository`).
        OSError: if the Hub does not answer.
    """
    if not (hub.push_to_hub and accelerator.is_main_process):
        return None
    checkpoint = Path(training.resume_from_checkpoint) if training.resume_from_checkpoint else None
    return HubRepository(hub, Path(training.output_dir).resolve().name, checkpoint)


def push_of_checkpoints(repository: HubRepository | None, hub: HubSettings) -> Callable[[Path], None] | None:
    """Returns the function that `TrainingLoop` calls with every new checkpoint; None if checkpoints are not pushed."""
    if repository is None or hub.hub_strategy == "end":
        return None
    return repository.push_in_background


def push_at_end(repository: HubRepository | None, folder: Path) -> None:
    """Checks, pushes and verifies a trained model; does nothing without a repository.

    Raises:
        ValueError: if one of these steps fails. The folder stays as it is, and the message has the command to share it
            later.
    """
    if repository is None:
        return
    try:
        repository.finish_uploads()
        share_folder(repository, check_shared_folder(folder))
    except (ValueError, OSError) as error:
        overwrite = ["--overwrite_hub_repo", "true"] if repository.overwrite else []
        share = command("share", folder, "--hub_model_id", repository.repo_id, *overwrite)
        raise ValueError(
            f"The model is trained and saved in {folder}, but it was not shared: {error}\nTo share it: {share}"
        ) from error


def share_folder(repository: HubRepository, checked: CheckedFolder) -> None:
    """Pushes a folder in one commit, downloads it again and compares.

    Raises:
        ValueError: if the push is refused, or the downloaded model computes something else.
        OSError: if the Hub does not answer.
    """
    folder = checked.folder
    if checked.model.config.model_type in LIBRARY_CLASSES:
        rewrite_code(folder, library_card(folder, repository.repo_id))
    elif checked.model.config.model_type in LIBRARY_MODELS:
        rewrite_code(folder, openai_gpt_card(folder, repository.repo_id))
    elif (folder / CARD_FILE).is_file():
        name_on_hub(folder, repository.repo_id)
    commit = repository.push(folder, f"{type(checked.model).__name__} and its tokenizer")
    repository.verify(checked, commit)
    print(f"Pushed to {repository.url}, downloaded again and compared: it computes the same as {folder}.")


def run(settings: SharingSettings) -> None:
    """Checks a folder, after making a model of its shares if asked to, and pushes it if a repository is named.

    Raises:
        ValueError: if the folder is not complete or cannot be pushed; the message says what to do.
        OSError: if the Hub does not answer.
    """
    transformers_logging.disable_progress_bar()
    folder = Path(settings.folder)
    if settings.consolidate_to is not None:
        checkpoint, folder = folder, Path(settings.consolidate_to)
        write_whole_model(checkpoint, folder)
        write_card(folder, records=checkpoint)
        print(f"The shares of {checkpoint} are one model in {folder}.")
    if is_export(str(folder)):
        share_exported(settings, folder)
        return
    repository = None
    if settings.refresh_code:
        if settings.hub_model_id is not None:
            # Opened before the refresh: the repository is recognised by the folder's present config.json, which the
            # new code may rewrite.
            repository = HubRepository(settings, folder.resolve().name, folder)
        refresh_code(folder)
    # Checked first, so that no repository is created for a folder that nobody could use.
    checked = check_shared_folder(folder)
    if settings.hub_model_id is None:
        print(
            f"{folder} is complete: {type(checked.model).__name__} loads without this repository's packages and "
            "computes the same. To share it, add --hub_model_id user/name. "
            f"That pushes {', '.join(shared_files(folder))}."
        )
        return
    repository = repository or HubRepository(settings, folder.resolve().name, folder)
    if not (folder / CARD_FILE).is_file() and checked.model.config.model_type not in LIBRARY_MODELS:
        write_card(folder)
    share_folder(repository, checked)


def share_exported(settings: SharingSettings, folder: Path) -> None:
    """Checks an export, and pushes it if a repository is named.

    Raises:
        ValueError: if the export does not run or cannot be pushed; the message says what to do.
        OSError: if the Hub does not answer.
    """
    if settings.refresh_code:
        raise ValueError(f"refresh_code is true, but {folder} is an export, which holds no code. Leave it out.")
    checked = check_export_folder(folder)
    if settings.hub_model_id is None:
        print(
            f"{folder} is complete: it runs in {checked.engine}. To share it, add --hub_model_id user/name. "
            f"That pushes {', '.join(shared_files(folder))}."
        )
        return
    repository = HubRepository(settings, folder.resolve().name, folder)
    share_export(repository, checked)
    print(f"Pushed to {repository.url}, downloaded again and compared: it computes the same as {folder}.")
