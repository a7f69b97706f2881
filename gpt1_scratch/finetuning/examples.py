"""Tokenises the texts of a task once, keeps them in one array, and pads them batch by batch.

The tokenizer's template adds the start, delimiter and extract tokens (see `add_task_template`), so texts and pairs are
encoded here as everywhere else. In multiple choice, each choice forms a pair with the context.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..tokenization import forget_last_call
from .loading import TaskSplit
from .tasks import Task

# Limits the texts that are tokenised at a time, because a token takes some hundred bytes until it is stored.
SEQUENCE_CHUNK_SIZE = 20_000

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TaskExamples(Dataset):
    """Tokenised examples. Each is a dictionary `{"input_ids": [tokens of each sequence], "label": ...}`.

    Attributes:
        tokens: the tokens of all sequences, joined.
        bounds: (sequences + 1,) positions in `tokens` at which the sequences begin.
        choices: number of sequences of an example in multiple choice; None for other tasks, which have one.
        labels: (N,) integers, or floats for regression; (N, L) zeros and ones as floats if several of L labels may
            apply; None if there are no labels.
        cut: number of examples that were longer than the maximum length and were cut.
    """

    tokens: np.ndarray
    bounds: np.ndarray
    choices: int | None
    labels: np.ndarray | None
    cut: int

    def __len__(self) -> int:
        return (len(self.bounds) - 1) // (self.choices or 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        width = self.choices or 1
        places = range(index * width, (index + 1) * width)
        example = {"input_ids": [self.tokens[self.bounds[place] : self.bounds[place + 1]] for place in places]}
        return example if self.labels is None else example | {"label": self.labels[index]}

    def first(self, count: int) -> "TaskExamples":
        """Returns the first `count` examples, or all if there are fewer."""
        count = min(count, len(self))
        places = count * (self.choices or 1)
        labels = None if self.labels is None else self.labels[:count]
        return replace(
            self, tokens=self.tokens[: self.bounds[places]], bounds=self.bounds[: places + 1], labels=labels
        )

    def count_with(self, token: int) -> int:
        """Returns the number of examples that have a token."""
        sequences = np.searchsorted(self.bounds, np.flatnonzero(self.tokens == token), side="right") - 1
        return len(np.unique(sequences // (self.choices or 1)))

    @property
    def lengths(self) -> np.ndarray:
        """Returns (N, 1) numbers of tokens of the longest sequence of each example."""
        return np.diff(self.bounds).reshape(len(self), -1).max(axis=1, keepdims=True)


def tokenize_task(task: Task, split: TaskSplit, tokenizer: PreTrainedTokenizerFast, max_length: int) -> TaskExamples:
    """Tokenises a split with the tokenizer's template.

    Args:
        task: decides which texts form a sequence.
        split: the texts and labels.
        tokenizer: a tokenizer with the template of `add_task_template`.
        max_length: maximum number of tokens, including special tokens. Of longer sequences the longer text loses its
            end; in multiple choice its beginning, because a context ends with the question.
    """
    if task.kind == "multiple_choice":
        sequences = [(context, choice) for context, *choices in split.texts for choice in choices]
        choices = len(task.labels)
    else:
        sequences, choices = split.texts, None
    pieces, lengths, cut = [], [], set()
    for start in range(0, len(sequences), SEQUENCE_CHUNK_SIZE):
        texts = [list(column) for column in zip(*sequences[start : start + SEQUENCE_CHUNK_SIZE], strict=True)]
        encoded = _encode(tokenizer, texts)
        long = [index for index, tokens in enumerate(encoded) if len(tokens) > max_length]
        if long:
            part = [[column[index] for index in long] for column in texts]
            side, tokenizer.truncation_side = tokenizer.truncation_side, "left" if choices else "right"
            shortened = _encode(tokenizer, part, truncation=True, max_length=max_length)
            tokenizer.truncation_side = side
            for index, tokens in zip(long, shortened, strict=True):
                encoded[index] = tokens
                cut.add((start + index) // (choices or 1))
        lengths += map(len, encoded)
        pieces.append(np.concatenate([np.asarray(tokens, dtype=np.int32) for tokens in encoded]))
    forget_last_call(tokenizer)  # a model's folder would keep the truncation
    labels = None
    if split.labels is not None:
        if task.is_multi_label:
            labels = np.zeros((len(split), len(task.labels)), dtype=np.float32)
            for row, numbers in zip(labels, split.labels, strict=True):
                row[list(numbers)] = 1
        else:
            labels = np.array(split.labels, dtype=np.float32 if task.is_regression else np.int64)
    return TaskExamples(np.concatenate(pieces), np.cumsum([0, *lengths]), choices, labels, len(cut))


def _encode(tokenizer: PreTrainedTokenizerFast, columns: list[list[str]], **options: Any) -> list[list[int]]:
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False} | options
    return tokenizer(*columns, **options)["input_ids"]


def collate_examples(examples: Sequence[dict[str, Any]], pad_token_id: int) -> Batch:
    """Pads examples on the right to the longest of them.

    Returns:
        `input_ids` and `attention_mask`, (B, T), or (B, K, T) for K choices, and `labels`, (B,) or
        (B, L), if there are labels.
    """
    sequences = [tokens for example in examples for tokens in example["input_ids"]]
    input_ids = np.full((len(sequences), max(map(len, sequences))), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, tokens in enumerate(sequences):
        input_ids[row, : len(tokens)] = tokens
        attention_mask[row, : len(tokens)] = 1
    choices = len(examples[0]["input_ids"])
    batch = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
    if choices > 1:
        batch = {name: tensor.view(len(examples), choices, -1) for name, tensor in batch.items()}
    if "label" in examples[0]:
        batch["labels"] = torch.from_numpy(np.array([example["label"] for example in examples]))
    return batch


def predict(
    model: PreTrainedModel,
    examples: TaskExamples,
    pad_token_id: int,
    batch_size: int = 32,
    distribute: Callable[[Callable[[list], list], list], list] = lambda function, items: function(items),
) -> np.ndarray:
    """Computes the logits of all examples, in their order.

    Args:
        model: the model, in evaluation mode.
        examples: the examples.
        pad_token_id: the id that pads sequences.
        batch_size: number of examples in a batch. Examples of similar lengths share a batch, which does not change
            the result.
        distribute: function that applies a function of a list to the list of batches and returns the results in order,
            for example on several processes. Default: it runs in this process.

    Returns:
        (N, classes), (N, choices) or, for regression, (N, 1) logits in float32.
    """
    # The class's own forward is called because `accelerate` replaces that of a model in training by one in bfloat16,
    # whose coarse rounding would make scores depend on how examples are batched.
    forward = type(model).forward

    @torch.no_grad()
    def logits_of(batches: list[np.ndarray]) -> list[np.ndarray]:
        results = []
        for batch in batches:
            inputs = collate_examples([examples[index] for index in batch], pad_token_id)
            inputs.pop("labels", None)
            outputs = forward(model, **{name: tensor.to(model.device) for name, tensor in inputs.items()})
            results.append(outputs.logits.float().cpu().numpy())
        return results

    order = np.argsort(examples.lengths[:, 0], kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return np.concatenate(distribute(logits_of, batches))[np.argsort(order)]
