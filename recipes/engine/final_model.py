"""The weights that a run ends with: those of its best checkpoint, or the mean of its last ones."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from papers_to_gpt.engine.checkpointing import Progress, average_weights, checkpoints_in, load_weights, update_of
from papers_to_gpt.engine.reporting import Reporter
from papers_to_gpt.engine.run_lock import on_main_process
from papers_to_gpt.settings.training import TrainingSettings
from papers_to_gpt.settings.wording import counted


def load_final_weights(
    accelerator: Accelerator,
    model: PreTrainedModel,
    settings: TrainingSettings,
    progress: Progress,
    reporter: Reporter,
) -> dict[str, Any]:
    """Puts the weights that a run ends with into its model, which every process does.

    Args:
        accelerator, reporter: those of the run; a mean of fewer checkpoints than were asked for is reported.
        model: the model itself, not what distributed training wraps it into.
        settings: name the output folder, and how many checkpoints to average.
        progress: says how far the run came, and which update is its best one.

    Returns:
        The names of the checkpoints that were averaged, for `all_results.json`; nothing for a single one.
    """
    folder, asked = Path(settings.output_dir), settings.average_last_checkpoints
    if not asked:
        load_weights(model, folder / f"checkpoint-{progress.best_update}")
        return {}

    def names() -> list[str]:
        # Later ones, which a run that was resumed from an earlier checkpoint replaces, may still be there.
        return [path.name for path in checkpoints_in(folder) if update_of(path) <= progress.update][-asked:]

    averaged = on_main_process(accelerator, names)
    if len(averaged) < asked:
        reporter.say(
            f"average_last_checkpoints is {asked}, but the run has only {counted(len(averaged), 'checkpoint')}. The "
            "model is the mean of all that it has."
        )
    if accelerator.is_main_process:
        rename_old_keys = getattr(model, "rename_old_keys", dict)  # a model of any kind trains here
        average_weights([folder / name for name in averaged], folder, rename_old_keys)
    accelerator.wait_for_everyone()
    load_weights(model, folder)
    return {"averaged_checkpoints": averaged}
