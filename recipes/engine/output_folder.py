"""Prepares the output folder of a run, which may hold one run only."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from papers_to_gpt.engine.checkpointing import checkpoints_in
from papers_to_gpt.engine.reporting import (
    CARD_FILE,
    LOG_FILE,
    RESULTS_FILE,
    RUN_FILE,
    flatten_settings,
    read_run_record,
)
from papers_to_gpt.settings.training import TrainingSettings

# Settings that may change when a run is resumed: they decide how long and where it runs, not what it computes.
FREE_ON_RESUME = frozenset(
    """output_dir overwrite_output_dir resume_from_checkpoint max_steps num_train_epochs max_train_minutes
    logging_steps eval_steps save_steps save_total_limit background_checkpoints early_stopping_patience
    average_last_checkpoints dataloader_num_workers report_to project run_name use_cpu push_to_hub hub_model_id
    hub_private_repo hub_strategy overwrite_hub_repo""".split()
)


def prepare_output_dir(accelerator: Accelerator, training: TrainingSettings, settings: Sequence[Any]) -> Path:
    """Creates the output folder of a run and refuses one that holds another run.

    Args:
        accelerator: every process must call this function.
        training: names the folder, and says whether to resume or to overwrite.
        settings: all settings of this run. A resumed run must have the settings that it started with.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder holds another run, or the run to resume had other settings.
    """
    output_dir = Path(training.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir is {output_dir}, which is a file. Name a folder.")
    earlier = read_run_record(output_dir)
    if training.resume_from_checkpoint:
        if earlier is None:
            raise ValueError(
                f"resume_from_checkpoint is set, but output_dir {output_dir} holds no run. Correct output_dir, or "
                "leave resume_from_checkpoint out."
            )
        now = flatten_settings(tuple(settings))
        changed = [
            f"{name} was {earlier['settings'].get(name)!r}, is {value!r}"
            for name, value in now.items()
            if name not in FREE_ON_RESUME and earlier["settings"].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"The run in {output_dir} cannot go on with other settings: {'; '.join(changed)}. "
                "Use its settings, or start a new run in another output_dir."
            )
    elif earlier is not None or checkpoints_in(output_dir):
        if not training.overwrite_output_dir:
            raise ValueError(
                f"output_dir {output_dir} holds another run. Resume it (--resume_from_checkpoint last), replace it "
                "(--overwrite_output_dir true), or name another folder (--output_dir ...)."
            )
        if accelerator.is_main_process:
            for checkpoint in checkpoints_in(output_dir):
                shutil.rmtree(checkpoint)
            for name in (LOG_FILE, RESULTS_FILE, RUN_FILE, CARD_FILE):
                (output_dir / name).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    output_dir.mkdir(parents=True, exist_ok=True)
    return output_dir
