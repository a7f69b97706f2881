"""Turns sentence pairs into batches: tokenises them once, filters them with a report, and collates them."""

import hashlib
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, IterableDataset
from joblib import cpu_count
from transformers import PreTrainedTokenizerBase

from ..encoding import encode_sources, pad_right
from ..seq2seq_common import IGNORE_INDEX
from ..tokenization import forget_last_call
from ..visible_text import has_visible_text
from .text_encoder import TextEncoder, text_encoders
from .wording import counted

TOKENIZED_FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "labels": datasets.List(datasets.Value("int32")),
        "source_length": datasets.Value("int32"),
        "target_length": datasets.Value("int32"),
    }
)

# For fewer pairs, starting processes costs more than it saves: a fast tokenizer uses all cores from one process.
PAIRS_WORTH_SEVERAL_PROCESSES = 500_000


@dataclass
class FilterReport:
    """Counts how many pairs of a split were kept, left out or cut; `str` gives one line for people.

    For a stream, the counts are those of the pairs that this process has read so far.
    """

    max_source_length: int
    max_target_length: int
    drop_long: bool
    max_positions: int | None = None
    read: int = 0
    empty: int = 0
    source_too_long: int = 0
    target_too_long: int = 0
    truncated: int = 0
    target_cut: int = 0

    @property
    def kept(self) -> int:
        left_out = self.empty if self.drop_long else 0
        return self.read - left_out - self.source_too_long - self.target_too_long

    def count(self, pairs: Mapping[str, Any]) -> np.ndarray:
        """Adds pairs to the counts, each under one reason, and returns a Boolean for each: True if it is kept.

        Args:
            pairs: the columns that `_tokenize_batch` returns.
        """
        empty, truncated = (np.asarray(pairs[name], dtype=bool) for name in ("empty", "truncated"))
        self.read += len(empty)
        self.truncated += int(truncated.sum())
        self.empty += int(empty.sum())
        if not self.drop_long:
            if self.max_positions is not None:
                self.target_cut += int((np.asarray(pairs["target_length"]) > self.max_positions).sum())
            return np.ones(len(empty), dtype=bool)
        source_too_long = ~empty & (np.asarray(pairs["source_length"]) > self.max_source_length)
        keep = ~(empty | source_too_long)
        target_too_long = keep & (np.asarray(pairs["target_length"]) > self.max_target_length)
        self.source_too_long += int(source_too_long.sum())
        self.target_too_long += int(target_too_long.sum())
        return keep & ~target_too_long

    def __str__(self) -> str:
        if not self.drop_long:
            notes = (
                (self.truncated, f"sources cut to {self.max_source_length} tokens"),
                (self.target_cut, f"targets cut to {self.max_positions} tokens for the loss (learned positions)"),
                (self.empty, "with a side without text"),
            )
            return ", ".join([counted(self.read, "pair"), *(f"{count:,} {note}" for count, note in notes if count)])
        reasons = (
            (self.empty, "with a side without text"),
            (self.source_too_long, f"longer than max_source_length ({self.max_source_length} tokens)"),
            (self.target_too_long, f"longer than max_target_length ({self.max_target_length} tokens)"),
        )
        left_out = ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)
        return f"{counted(self.read, 'pair')}, {self.kept:,} kept" + (f"; left out: {left_out}" if left_out else "")


def _tokenize_batch(
    batch: Mapping[str, list[str]], encode_source: TextEncoder, encode_target: TextEncoder, truncate_to: int | None
) -> dict[str, list[Any]]:
    sources, targets = batch["source"], batch["target"]
    if truncate_to is None:
        input_ids, truncated = encode_source(sources), [False] * len(sources)
    else:
        input_ids, truncated = encode_sources(encode_source.tokenizer, sources, truncate_to)
    labels = encode_target(targets)
    return {
        "input_ids": input_ids,
        "labels": labels,
        "source_length": [len(ids) for ids in input_ids],
        "target_length": [len(ids) for ids in labels],
        "empty": [not all(map(has_visible_text, pair)) for pair in zip(sources, targets, strict=True)],
        "truncated": truncated,
    }


@dataclass(frozen=True)
class PairTokenizer:
    """Tokenises the pairs of a stream as they come and leaves out those that training does not take.

    Attributes:
        source_tokenizer, target_tokenizer: as in `tokenize_parallel`.
        report: holds the limits, and counts what is left out.
    """

    source_tokenizer: PreTrainedTokenizerBase
    target_tokenizer: PreTrainedTokenizerBase
    report: FilterReport

    @cached_property
    def _encoders(self) -> tuple[TextEncoder, TextEncoder]:
        return text_encoders(self.source_tokenizer, self.target_tokenizer)

    def __call__(self, pairs: Mapping[str, list[str]]) -> dict[str, list[Any]]:
        """Returns the columns that `tokenize_parallel` gives, of the columns `source` and `target`."""
        truncate_to = None if self.report.drop_long else self.report.max_source_length
        columns = _tokenize_batch(pairs, *self._encoders, truncate_to)
        keep = self.report.count(columns)
        return {name: list(itertools.compress(columns[name], keep)) for name in TOKENIZED_FEATURES}


def _digest_of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a hash of the files that the tokenizer saves. The object itself also holds traces of its last call."""
    forget_last_call(tokenizer)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            content = path.read_bytes()
            if path.name == "tokenizer_config.json":
                # The path that it was loaded from is saved too, and does not change what it computes.
                settings = json.loads(content)
                content = json.dumps([item for item in settings.items() if "local" not in item[0]]).encode()
            digest.update(path.name.encode() + content)
    return digest.hexdigest()


def tokenize_parallel(
    dataset: Dataset | IterableDataset,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    *,
    max_source_length: int,
    max_target_length: int,
    drop_long: bool = True,
    max_positions: int | None = None,
    num_proc: int | None = None,
) -> tuple[Dataset | IterableDataset, FilterReport]:
    """Turns sentence pairs into token ids.

    The result is cached on disk beside the data set's own cache, under a key made of the data, both tokenizers and
    the settings that change the result. A data set that is only in memory is tokenised every time.

    Args:
        dataset: a data set with the columns `source` and `target`. A stream is tokenised as it is read.
        source_tokenizer: encodes the source and appends the end token.
        target_tokenizer: encodes the target; the same tokenizer if the languages share a vocabulary.
        max_source_length: maximum number of source tokens, including the end token.
        max_target_length: maximum number of target tokens, including the end token.
        drop_long: True for training: pairs with a side without visible text and pairs beyond a limit are left out.
            False for evaluation: every pair is kept, sources are cut to `max_source_length`, and targets are not cut.
        max_positions: number of positions that the model has learned; the report then counts the targets to evaluate
            on that `collate` has to cut. None for a model without a limit.
        num_proc: number of processes. Default: one, or as many as this process may use cores if the data set is large.

    Returns:
        The tokenised data set, with the columns `input_ids` and `labels` (lists of ids) and `source_length` and
        `target_length` (their numbers of tokens), and the report of what was left out or cut.

    Raises:
        ValueError: if no training pair is left, or no pair to evaluate has text.
    """
    report = FilterReport(max_source_length, max_target_length, drop_long, max_positions)
    truncate_to = None if drop_long else max_source_length
    if isinstance(dataset, IterableDataset):
        tokenize = PairTokenizer(source_tokenizer, target_tokenizer, report)
        stream = dataset.map(tokenize, batched=True, remove_columns=["source", "target"], features=TOKENIZED_FEATURES)
        return stream, report

    # "visible": earlier versions stored other marks of what is empty.
    key = [
        "visible",
        dataset._fingerprint,
        *map(_digest_of_tokenizer, (source_tokenizer, target_tokenizer)),
        truncate_to,
    ]
    if num_proc is None:
        num_proc = cpu_count() if len(dataset) >= PAIRS_WORTH_SEVERAL_PROCESSES else None
    encode_source, encode_target = text_encoders(source_tokenizer, target_tokenizer)
    tokenized = dataset.map(
        _tokenize_batch,
        batched=True,
        fn_kwargs={"encode_source": encode_source, "encode_target": encode_target, "truncate_to": truncate_to},
        num_proc=num_proc,
        remove_columns=dataset.column_names,
        features=datasets.Features(
            {**TOKENIZED_FEATURES, "empty": datasets.Value("bool"), "truncated": datasets.Value("bool")}
        ),
        new_fingerprint=hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32],
        desc="Tokenising",
    )
    notes = tokenized.select_columns(["source_length", "target_length", "empty", "truncated"])
    keep = report.count(notes.with_format("numpy")[:])
    tokenized = tokenized.select_columns(list(TOKENIZED_FEATURES))
    if not keep.all():
        tokenized = tokenized.select(np.flatnonzero(keep))
    if drop_long and len(tokenized) == 0:
        raise ValueError(f"No training pair is left: {report}.")
    if report.empty == report.read > 0:
        raise ValueError(f"No pair to evaluate on has text on both sides: {report}.")
    return tokenized, report


def collate(
    examples: Sequence[Mapping[str, Any]], pad_token_id: int, copies: int = 1, max_positions: int | None = None
) -> dict[str, torch.Tensor]:
    """Pads examples on the right to the longest of each side.

    Args:
        examples: the examples, each with the lists `input_ids` and `labels`.
        pad_token_id: the id that pads `input_ids`; labels are padded with `-100`.
        copies: number of times that the batch is repeated, for a loss that compares predictions of the same example.
        max_positions: labels are cut to this number of tokens. None cuts nothing.

    Returns:
        `input_ids` (B, S), `attention_mask` (B, S) with 1 for tokens and 0 for padding, and `labels` (B, T), in int64;
        B is the number of examples times `copies`.
    """
    input_ids, attention_mask = pad_right([example["input_ids"] for example in examples], pad_token_id)
    labels, _ = pad_right([example["labels"][:max_positions] for example in examples], IGNORE_INDEX)
    batch = {"input_ids": input_ids, "attention_mask": attention_mask.astype(np.int64), "labels": labels}
    return {name: torch.from_numpy(rows).repeat(copies, 1) for name, rows in batch.items()}
