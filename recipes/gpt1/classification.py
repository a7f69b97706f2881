"""Predicts with a fine-tuned model."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TextIO

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from gpt1_scratch import GPT1ForMultipleChoice, GPT1ForSequenceClassification
from gpt1_scratch.data.text_lines import (
    TABLE_EXTENSIONS,
    file_extension,
    groups_of_lines,
    is_terminal,
    open_output,
    read_lines,
)
from gpt1_scratch.data.visible_text import has_visible_text
from gpt1_scratch.finetuning.examples import predict, tokenize_task
from gpt1_scratch.finetuning.label_sets import applies, join_labels
from gpt1_scratch.finetuning.loading import TaskSplit, read_texts
from gpt1_scratch.finetuning.tables import Table, read_table
from gpt1_scratch.finetuning.tasks import LABEL_SEPARATOR, Task, task_of_config
from papers_to_gpt.engine.model_folder import CLASSIFIER, check_folder, check_vocabulary
from papers_to_gpt.settings.classification import ClassificationSettings
from papers_to_gpt.settings.commands import command

# Lines of standard input that are read and answered at a time, at most.
LINES_AT_A_TIME = 2000

# Separates the texts of a pair, or a context and its choices, in a line.
SEPARATOR = "\t"

# Written in place of a class if an example has no text. Its probability is then empty.
NO_TEXT = "no text"


def run(settings: ClassificationSettings) -> None:
    """Predicts for the input file, for standard input, or for lines typed at a prompt."""
    transformers_logging.disable_progress_bar()
    task, logits_of = load_classifier(settings)
    with open_output(settings.output_file) as output:
        if settings.input_file is None and is_terminal(sys.stdin):
            while True:
                try:
                    texts = texts_of_lines(task, [input("> ")], "The input")
                except EOFError:
                    return
                write(task, logits_of(texts), output)
        elif settings.input_file is None:
            first = 0
            for lines in groups_of_lines(None, LINES_AT_A_TIME):
                write(task, logits_of(texts_of_lines(task, lines, "The input", first)), output, first)
                first += len(lines)
            if first == 0:
                raise ValueError("The input has no line.")
        else:
            write(task, logits_of(texts_of_file(task, settings.input_file)), output)


def load_classifier(settings: ClassificationSettings) -> tuple[Task, Callable[[list[tuple[str, ...]]], np.ndarray]]:
    """Returns the task that a model was fine-tuned on, and a function from texts to logits (see `predict`).

    The logits of an example of which a text is missing are NaN.

    Raises:
        ValueError: if the folder holds no model, or the model is not fine-tuned for a task.
    """
    name, source = settings.model_name_or_path, {"revision": settings.revision, "trust_remote_code": False}
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
            raise ValueError(f"{name} was trained on {len(task.columns)} columns of text, not {len(columns)}.")
        task = replace(task, columns=columns)
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    check_vocabulary(tokenizer, config.vocab_size, name)
    head = GPT1ForMultipleChoice if task.kind == "multiple_choice" else GPT1ForSequenceClassification
    # In float32, like the evaluation during training.
    model: PreTrainedModel = head.from_pretrained(
        name, revision=settings.revision, dtype=torch.float32, use_safetensors=True
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def logits_of(texts: list[tuple[str, ...]]) -> np.ndarray:
        complete = np.array([all(map(has_visible_text, row)) for row in texts])
        logits = np.full((len(texts), len(task.labels or [None])), np.nan, dtype=np.float32)
        if not complete.all():
            print(f"{np.sum(~complete):,} of {len(texts):,} examples have no text and no prediction.", file=sys.stderr)
        if not complete.any():
            return logits
        split = TaskSplit([row for row, there in zip(texts, complete, strict=True) if there], None)
        examples = tokenize_task(task, split, tokenizer, config.max_position_embeddings)
        if examples.cut:
            print(
                f"{examples.cut} texts are longer than the model's {config.max_position_embeddings} tokens and cut.",
                file=sys.stderr,
            )
        predicted = predict(model, examples, tokenizer.pad_token_id, settings.batch_size)
        if not np.isfinite(predicted).all():
            raise ValueError(f"{name}: the model's outputs are not finite. Use an earlier checkpoint.")
        logits[complete] = predicted
        return logits

    return task, logits_of


def texts_of_file(task: Task, name: str) -> list[tuple[str, ...]]:
    """Returns the texts of a table, or of a file with one example on each line."""
    if file_extension(name) in TABLE_EXTENSIONS:
        return read_texts(task, read_table(name))
    return texts_of_lines(task, read_lines(name), name)


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
            f"{where}, line {before + wrong}: has {len(rows[wrong - 1])} texts; it must have {len(names)}, separated "
            f"by a tab: {', '.join(names)}."
        )
    plain = replace(task, kind="classification", columns=names, choices=())
    return read_texts(plain, Table(where, dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))))


def write(task: Task, logits: np.ndarray, output: TextIO, first: int = 0) -> None:
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
    output.flush()
