"""The output folder of a run: whose it is, and what of it is shared."""

import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from engine.checkpointing import checkpoints_in
from engine.hub import HubRepository
from engine.model_card import name_on_hub
from engine.reporting import LOG_FILE, RESULTS_FILE, RUN_FILE, flatten_settings, read_run_record
from engine.shared_folder import CARD_FILE, CheckedFolder, check_folder
from engine.training import TrainingSettings, checkpoint_to_resume

# May differ between a run and its resumption: they change how long and where it runs, not what it computes.
FREE_ON_RESUME = frozenset(
    """output_dir overwrite_output_dir resume_from_checkpoint max_steps num_train_epochs max_train_minutes
    logging_steps eval_steps save_steps save_total_limit early_stopping_patience average_last_checkpoints
    dataloader_num_workers report_to project run_name use_cpu push_to_hub hub_model_id hub_private_repo hub_strategy
    overwrite_hub_repo""".split()
)


def prepare_output_dir(accelerator: Accelerator, training: TrainingSettings, settings: Sequence[Any]) -> Path:
    """Makes the output folder, and refuses to mix two runs in one.

    Args:
        settings: every dataclass of settings of this run; a resumed run must have those that it started with.

    Raises:
        ValueError: if the folder holds another run, or the run to resume had other settings.
    """
    output_dir = Path(training.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir {output_dir} is a file. Name a folder.")
    earlier = read_run_record(output_dir)
    if training.resume_from_checkpoint:
        if earlier is None:
            raise ValueError(f"resume_from_checkpoint is set, but output_dir {output_dir} holds no run.")
        now = flatten_settings(tuple(settings))
        changed = [
            f"{name} was {earlier['settings'].get(name)!r}, is {value!r}"
            for name, value in now.items()
            if name not in FREE_ON_RESUME and earlier["settings"].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"The run in {output_dir} cannot go on with other settings: {'; '.join(changed)}. "
                "Use its settings, or start anew in another output_dir."
            )
    elif earlier is not None or checkpoints_in(output_dir):
        if not training.overwrite_output_dir:
            raise ValueError(
                f"output_dir {output_dir} holds another run. Go on with it (--resume_from_checkpoint last), "
                "replace it (--overwrite_output_dir true), or name another folder (--output_dir ...)."
            )
        if accelerator.is_main_process:
            for checkpoint in checkpoints_in(output_dir):
                shutil.rmtree(checkpoint)
            for name in (LOG_FILE, RESULTS_FILE, RUN_FILE, CARD_FILE):
                (output_dir / name).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    output_dir.mkdir(parents=True, exist_ok=True)
    return output_dir


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
        share_folder(repository, check_folder(folder))
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
