"""Describes the length of a run before its first update."""

import math

from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings
from papers_to_gpt.settings.wording import counted

# An evaluation and a checkpoint after so few updates may take longer than the updates.
FEW_UPDATES = 10


def describe_length(
    total_updates: int, eval_steps: int, training: TrainingSettings, optimization: OptimizationSettings
) -> str:
    """Returns the number of updates, the intervals of log lines and evaluations, and notes on unusual settings.

    Args:
        total_updates: the length of the run in updates.
        eval_steps: the number of updates between evaluations, as the loop has computed it.
        training: gives `logging_steps`.
        optimization: gives `warmup_steps`.
    """

    def moment(interval: int) -> str:
        if interval >= total_updates:
            return "at the end"
        return "after every update" if interval == 1 else f"every {interval:,} updates"

    lines = [
        f"{counted(total_updates, 'update')}; a log line {moment(training.logging_steps)} (logging_steps); "
        f"an evaluation and a checkpoint {moment(eval_steps)} (eval_steps)"
    ]
    evaluations = math.ceil(total_updates / eval_steps)
    if eval_steps < FEW_UPDATES and evaluations > 3:
        lines.append(
            f"note: the {evaluations:,} evaluations and checkpoints may take longer than the updates; a larger "
            "eval_steps saves time"
        )
    # A warmup below 1 is a fraction of the run, so it ends within the run.
    if 1 <= total_updates <= optimization.warmup_steps:
        lines.append(
            f"note: warmup_steps is {optimization.warmup_steps:g}, so the learning rate rises until the run ends; "
            f"choose a warmup shorter than {counted(total_updates, 'update')}, or below 1 for a fraction of the run"
        )
    return "\n".join(lines)
