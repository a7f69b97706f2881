"""Predicts with a fine-tuned model."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from gpt1_scratch import GPT1ForMultipleChoice, GPT1ForSequenceClassification
from gpt1_scratch.data.text_lines import (
    TABLE_EXTENSIONS,
    FilePlace,
    file_extension,
    groups_of_lines,
    is_terminal,
    open_output,
)
from gpt1_scratch.data.visible_text import has_visible_text
from gpt1_scratch.finetuning.examples import predict, tokenize_task
from gpt1_scratch.finetuning.label_sets import applies, join_labels
from gpt1_scratch.finetuning.loading import TaskSplit, read_texts
from gpt1_scratch.finetuning.tables import Table, groups_of_rows
from gpt1_scratch.finetuning.tasks import LABEL_SEPARATOR, Task, task_of_config
from papers_to_gpt.engine.model_folder import CLASSIFIER, check_folder, check_vocabulary
from papers_to_gpt.engine.quantization import check_quantization, quantize
from papers_to_gpt.engine.resumable_output import LineOutput, fingerprint_model, open_line_output
from papers_to_gpt.settings.classification import ClassificationSettings
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.wording import counted

# Lines or rows that are read and answered at a time, at most, so that memory does not grow with the file.
LINES_AT_A_TIME = 2000

# Separates the texts of a pair, or a context and its choices, in a line.
SEPARATOR = "\t"

# Written in place of a class if an example has no text. Its probability is then empty.
NO_TEXT = "no text"


def run(settings: ClassificationSettings) -> None:
    """Predicts for the input file, for standard input, or for lines typed at a prompt."""
    transformers_logging.disable_progress_bar()
    classifier = load_classifier(settings)
    task, totals = classifier.task, classifier.totals
    if settings.input_file is None and is_terminal(sys.stdin):
        with open_output(settings.output_file) as stream:
            output = LineOutput(stream)
            for number in itertools.count():
                try:
                    texts = texts_of_lines(task, [input("> ")], "The input")
                except EOFError:
                    return
                write(task, classifier.logits_of(texts), output, number)
                output.end_group(number + 1)
    files = settings.input_file, settings.output_file
    with open_line_output(*files, settings.resume, classifier.describe, open_output) as output:
        totals |= output.progress.totals
        first, place = output.progress.lines, FilePlace(**output.progress.place)
        groups = groups_of_texts(task, settings.input_file, first, place)
        for texts in () if output.progress.is_finished else groups:
            write(task, classifier.logits_of(texts), output, first)
            first += len(texts)
            output.end_group(first, vars(place), totals)
        if first == 0 and not output.progress.is_finished:
            raise ValueError("The input has no line.")
    if totals["without_text"]:
        print(
            f"Examples without text, which have no prediction: {totals['without_text']:,} of {first:,}.",
            file=sys.stderr,
        )
    if totals["cut"]:
        longest = classifier.max_length
        print(f"Texts longer than the model's {longest} tokens, which were cut: {totals['cut']:,}.", file=sys.stderr)


@dataclass
class Classifier:
    """A fine-tuned model with its task.

    Attributes:
        task: the task, with the columns of the input.
        model: in evaluation mode.
        tokenizer: the model's tokenizer.
        batch_size: examples per batch.
        totals: the numbers of examples `without_text` so far, and of those that were `cut`.
    """

    task: Task
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int
    totals: dict[str, float] = field(default_factory=lambda: {"without_text": 0, "cut": 0})

    @property
    def max_length(self) -> int:
        """Returns the number of tokens beyond which texts are cut, as in the model's fine-tuning."""
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def logits_of(self, texts: list[tuple[str, ...]]) -> np.ndarray:
        """Returns the logits of examples (see `predict`); NaN where a text is missing."""
        task = self.task
        complete = np.array([all(map(has_visible_text, row)) for row in texts])
        logits = np.full((len(texts), len(task.labels or [None])), np.nan, dtype=np.float32)
        self.totals["without_text"] += int(np.sum(~complete))
        if not complete.any():
            return logits
        split = TaskSplit([row for row, there in zip(texts, complete, strict=True) if there], None)
        examples = tokenize_task(task, split, self.tokenizer, self.max_length)
        self.totals["cut"] += examples.cut
        predicted = predict(self.model, examples, self.tokenizer.pad_token_id, self.batch_size)
        if not np.isfinite(predicted).all():
            raise ValueError(
                f"{self.model.name_or_path}: the model's outputs are not finite. Use an earlier checkpoint."
            )
        logits[complete] = predicted
        return logits

    def describe(self) -> dict[str, Any]:
        """Returns what decides a prediction besides the input, for `open_line_output`."""
        settings = {"batch_size": self.batch_size, "columns": self.task.columns, "lines_at_a_time": LINES_AT_A_TIME}
        return fingerprint_model(self.model, self.tokenizer) | settings


def load_classifier(settings: ClassificationSettings) -> Classifier:
    """Loads the model that the settings name, and the task that it was fine-tuned on.

    Raises:
        ValueError: if the folder holds no model, or the model is not fine-tuned for a task.
    """
    name, source = settings.model_name_or_path, {"revision": settings.revision, "trust_remote_code": False}
    check_quantization(settings.quantization, [name])
    check_folder(name, kinds=(CLASSIFIER,))
    config = AutoConfig.from_pretrained(name, **source)
    task = task_of_config(config)
    if task is None:
        raise ValueError(f"{name} is not fine-tuned for a task. Fine-tune it first: {command('finetune_gpt1')}")
    if settings.text_column is not None:
        if task.kind == "multiple_choice":
            raise ValueError(f"text_column is set, but {name} chooses among texts: name the columns as in training.")
        columns = (settings.text_column, settings.text_pair_column)
        columns = tuple(column for column in columns if column is not None)
        if len(columns) != len(task.columns):
            raise ValueError(
                f"{name} was trained on {counted(len(task.columns), 'column')} of text, not {len(columns)}."
            )
        task = replace(task, columns=columns)
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    check_vocabulary(tokenizer, config.vocab_size, name)
    head = GPT1ForMultipleChoice if task.kind == "multiple_choice" else GPT1ForSequenceClassification
    # In float32, like the evaluation during training.
    model: PreTrainedModel = head.from_pretrained(
        name, revision=settings.revision, dtype=torch.float32, use_safetensors=True
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    quantize(model, settings.quantization)
    return Classifier(task, model, tokenizer, settings.batch_size)


def groups_of_texts(task: Task, name: str | None, first: int, place: FilePlace) -> Iterator[list[tuple[str, ...]]]:
    """Yields the texts of a table, or of lines with one example on each, group by group.

    Args:
        task: names the texts.
        name: the file; None for standard input.
        first: number of examples before those that are read.
        place: where to begin in the file; while a group is used, it is behind the group's last example.
    """
    if name is not None and file_extension(name) in TABLE_EXTENSIONS:
        columns = (*task.columns, *task.choices)
        yield from (read_texts(task, table) for table in groups_of_rows(name, LINES_AT_A_TIME, columns, first, place))
        return
    for lines in groups_of_lines(name, LINES_AT_A_TIME, place=place):
        yield texts_of_lines(task, lines, name or "The input", first)
        first += len(lines)


def texts_of_lines(task: Task, lines: Sequence[str], where: str, before: int = 0) -> list[tuple[str, ...]]:
    """Splits lines into their texts: one text, a pair, or a context and its choices; all empty if none is visible.

    Args:
        task: names the texts.
        lines: at least one line.
        where: the input, for messages.
        before: number of lines of the input before these.

    Raises:
        ValueError: if a line has too few or too many texts.
    """
    names = task.columns if task.kind != "multiple_choice" else ("the context", *task.labels)
    rows = [line.split(SEPARATOR) if has_visible_text(line) else [""] * len(names) for line in lines]
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) != len(names)), None)
    if wrong is not None:
        raise ValueError(
            f"{where}, line {before + wrong}: has {counted(len(rows[wrong - 1]), 'text')}; it must have {len(names)}, "
            f"separated by a tab: {', '.join(names)}."
        )
    plain = replace(task, kind="classification", columns=names, choices=())
    return read_texts(plain, Table(where, dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))))


def write(task: Task, logits: np.ndarray, output: LineOutput, first: int = 0) -> None:
    """Writes a line for each example: its number from `first`, and its class and probability or the predicted number.

    A head with the names of the columns stands above the line with the number 0.

    If several labels may apply, those with a probability above the threshold and their probabilities are written with
    a separator between them. Both are empty if none has.

    Logits that are NaN mean that there is no text: the predicted number is empty, and the class is `NO_TEXT` with an
    empty probability.
    """
    if first == 0:
        print("index", "prediction", *([] if task.is_regression else ["probability"]), sep="\t", file=output)
    if task.is_regression:
        for index, number in enumerate(logits[:, 0], start=first):
            print(index, "" if np.isnan(number) else f"{number:.6g}", sep="\t", file=output)
    else:
        scores = torch.from_numpy(logits)
        probabilities = scores.sigmoid() if task.is_multi_label else scores.softmax(dim=1)
        for index, row in enumerate(probabilities, start=first):
            if row.isnan().any():
                print(index, NO_TEXT, "", sep="\t", file=output)
                continue
            if task.is_multi_label:
                found = applies(logits[index - first])
                shown = LABEL_SEPARATOR.join(f"{float(row[number]):.4f}" for number in np.flatnonzero(found))
                print(index, join_labels(task, found), shown, sep="\t", file=output)
                continue
            print(index, task.labels[int(row.argmax())], f"{float(row.max()):.4f}", sep="\t", file=output)
