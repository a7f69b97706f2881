"""The data of one fine-tuning task: its splits, the rows that choose the checkpoint, and what all runs start from."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from gpt1_scratch import GPT1Model
from gpt1_scratch.finetuning.class_weights import find_class_weights
from gpt1_scratch.finetuning.constant_answers import constant_score
from gpt1_scratch.finetuning.examples import TaskExamples, tokenize_task
from gpt1_scratch.finetuning.held_out import hold_out
from gpt1_scratch.finetuning.inference import ColumnOverrides
from gpt1_scratch.finetuning.loading import load_task
from gpt1_scratch.finetuning.reports import HOLDOUT
from gpt1_scratch.finetuning.tasks import Task, name_classes
from papers_to_gpt.settings.finetuning import TRAIN_HOLDOUT, VALIDATION, TaskSettings
from papers_to_gpt.settings.wording import counted

# Draws the rows that choose the checkpoint.
HOLDOUT_SEED = 25


@dataclass(frozen=True)
class TaskData:
    """A task, its tokenized splits, and the tokenizer and backbone that all of its runs start from.

    Rows of train that are held out to choose the checkpoint are the split `train_holdout`. `class_weights` are the
    weights of the classes in the loss; None for a loss without weights.
    """

    task: Task
    examples: dict[str, TaskExamples]
    tokenizer: PreTrainedTokenizerFast
    backbone: GPT1Model
    class_weights: list[float] | None = None

    @property
    def selection(self) -> str:
        """Returns the setting `selection` that made the splits."""
        return TRAIN_HOLDOUT if TRAIN_HOLDOUT in self.examples else VALIDATION

    def splits_of(self, kind: str) -> list[str]:
        """Returns the splits whose scores begin with one of `KINDS`."""
        names = {HOLDOUT: (TRAIN_HOLDOUT,), "eval": self.task.validation, "test": self.task.test}[kind]
        return [name for name in names if name in self.examples]

    def selecting_splits(self) -> list[str]:
        """Returns the splits that are evaluated in training, of which the first chooses the checkpoint."""
        return self.splits_of(HOLDOUT) or self.splits_of("eval")

    def count_rows(self) -> str:
        """Returns the number of rows to train and to validate on, by which expected numbers know the data."""
        train = sum(len(self.examples[split]) for split in ("train", TRAIN_HOLDOUT) if split in self.examples)
        return f"{train:,} + {sum(map(len, map(self.examples.get, self.splits_of('eval')))):,} rows"

    def suffix(self, split: str) -> str:
        """Returns the suffix of a split's scores (see `Task.suffix`)."""
        return "" if split == TRAIN_HOLDOUT else self.task.suffix(split)


def load_data(
    name: str | None,
    data: TaskSettings,
    backbone: GPT1Model,
    tokenizer: PreTrainedTokenizerFast,
    say: Callable[[str], None],
) -> TaskData:
    """Loads and tokenizes the splits of a task, and prints a line about each."""
    positions = backbone.config.max_position_embeddings
    max_length = data.max_length or positions
    # A pair needs three special tokens and at least one token of each text.
    if not 5 <= max_length <= positions:
        raise ValueError(f"max_length is {max_length}; it must be from 5 to max_position_embeddings, {positions}.")
    # The model's folder keeps it: predictions cut texts as training does.
    tokenizer.model_max_length = max_length
    names = [field.name for field in dataclasses.fields(ColumnOverrides)]
    task, splits = load_task(
        name,
        train_file=data.train_file,
        validation_file=data.validation_file,
        test_file=data.test_file,
        data_dir=data.data_dir,
        own_columns=ColumnOverrides(**{name: _tuple_or_none(getattr(data, name)) for name in names}),
        validation_share=data.validation_share,
    )
    if data.selection == TRAIN_HOLDOUT:
        # The same rows for every seed, or seeds would differ in their data too.
        splits["train"], splits[TRAIN_HOLDOUT] = hold_out(
            splits["train"],
            data.holdout_share,
            HOLDOUT_SEED,
            keep_classes=not task.is_regression,
            purpose="to choose the checkpoint",
            setting="holdout_share",
            instead="set selection to validation",
        )
    if data.max_eval_samples is not None:
        evaluated = [name for name in (TRAIN_HOLDOUT, *task.validation) if name in splits]
        splits |= {name: splits[name].spread(data.max_eval_samples) for name in evaluated}
    say(task.describe())
    weights = None
    if data.class_weights is not None:
        weights = find_class_weights(data.class_weights, task, splits["train"].labels)
        say("class_weights: " + name_classes([f"{n} {w:.4g}" for n, w in zip(task.labels, weights, strict=True)]))
    examples = {}
    for split, part in splits.items():
        examples[split] = tokenize_task(task, part, tokenizer, max_length)
        notes = part.notes
        if cut := examples[split].cut:
            notes += (f"{cut:,} longer than {max_length} tokens and cut",)
        if unknown := examples[split].count_with(tokenizer.unk_token_id):
            notes += (f"{unknown:,} with characters that the vocabulary lacks, all read as {tokenizer.unk_token}",)
        say(f"{split}: " + "; ".join([counted(len(part), "example"), *notes]))
    return TaskData(task, examples, tokenizer, backbone, weights)


def _tuple_or_none(value: Any) -> Any:
    return (tuple(value) or None) if isinstance(value, list) else value


def describe_selection(data: TaskData, results: dict[str, Any]) -> dict[str, Any]:
    """Returns how the checkpoint of a run was chosen and whether it learned, for its results.

    Args:
        data: the task and its splits.
        results: the scores of the chosen checkpoint.
    """
    part = data.examples[data.selecting_splits()[0]]
    kind, name = HOLDOUT if data.selection == TRAIN_HOLDOUT else "eval", data.task.metrics[0]
    constant = constant_score(data.task, data.examples["train"].labels, part.labels)
    return {
        "selection": data.selection,
        "selection_rows": len(part),
        f"constant_answer_{name}": constant,
        "failed_to_learn": results[f"{kind}_{name}"] <= constant,
    }
