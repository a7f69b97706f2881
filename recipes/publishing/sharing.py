"""The output folder of a run: whose it is, and what of it is shared."""

import shlex
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from papers_to_gpt.engine.reporting import (
    CARD_FILE,
)
from papers_to_gpt.engine.training import TrainingSettings, checkpoint_to_resume
from papers_to_gpt.publishing.hub import HubRepository
from papers_to_gpt.publishing.model_card import name_on_hub
from papers_to_gpt.publishing.shared_folder import CheckedFolder, check_shared_folder


def open_repository(accelerator: Accelerator, training: TrainingSettings) -> HubRepository | None:
    """The repository of the Hub that the run's model goes to, on the main process, if it is to be pushed.

    Called before anything is computed, so that an hour of training is not spent on a model that cannot be pushed.

    Raises:
        ValueError: for an id, a token or a repository that will not do (see `HubRepository`).
    """
    if not (training.push_to_hub and accelerator.is_main_process):
        return None
    return HubRepository(training, Path(training.output_dir).resolve().name, checkpoint_to_resume(training))


def push_of_checkpoints(repository: HubRepository | None, training: TrainingSettings) -> Callable[[Path], None] | None:
    """What to do with a checkpoint once it is written, for `Trainer`."""
    if repository is None or training.hub_strategy == "end":
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
