"""The data of a translator's training: vocabulary, tokenised corpora and batches."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import PreTrainedTokenizerFast

from papers_to_gpt.engine.batching import LengthBucketBatches
from papers_to_gpt.engine.evaluation import is_any_true
from papers_to_gpt.engine.mixture import Mixture, sample_of_corpora
from papers_to_gpt.engine.shard_reader import Shards, rows_of_streams
from papers_to_gpt.engine.streaming import StreamBatches
from papers_to_gpt.settings.corpora import names_of_files, weights_of
from papers_to_gpt.settings.translation import DataSettings, TokenizerSettings, TranslationTraining
from papers_to_gpt.translation.scored_splits import named_test_sets
from seq2seq_scratch.data.batches import FilterReport, PairTokenizer, collate, tokenize_parallel
from seq2seq_scratch.data.bpe_dropout import RandomlySegmented, RandomSegmentation
from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.tokenization import load_tokenizers, train_tokenizer

# Pairs that are compared at a time.
PAIR_CHUNK_SIZE = 10_000


def load_splits(data: DataSettings, seed: int) -> dict[str, Any]:
    """Loads the training pairs, which are a list if there are several corpora, the validation pairs and the test sets.

    Raises:
        ValueError: if the data cannot be read, or has no training or validation split.
    """
    splits = load_parallel_data(**{name: getattr(data, name) for name in LOADING_SETTINGS}, seed=seed)
    splits = named_test_sets(splits, data.test_file)
    for split in ("train", "validation"):
        if split not in splits:
            raise ValueError(f"The data has no split {split!r}, only {', '.join(splits)}. Set {split}_file.")
    return splits


LOADING_SETTINGS = (
    "dataset_name dataset_config_name dataset_revision streaming train_file validation_file test_file "
    "source_language target_language source_column target_column reference_columns max_train_samples max_eval_samples "
    "validation_size"
).split()


def names_of_corpora(data: DataSettings) -> list[str]:
    """Returns the names of the training corpora: those of their files, or of the data set."""
    return names_of_files(data.train_file) or [data.dataset_name]


@dataclass(frozen=True)
class TranslationData:
    """What a run reads.

    Attributes:
        corpora: the training pairs as text, by label: `train`, or `train, NAME` for each of several corpora.
        others: the validation pairs and the test sets as text, by split.
        tokenized: the token ids of both, by label and by split. Streams are not among them, because they are
            tokenised as they are read.
        reports: what became of long pairs, by label and by split; training leaves them out.
        source_tokenizer, target_tokenizer: the same object if the vocabulary is shared.
        max_positions: the number of target tokens that a model with learned positions can predict; None if they are
            not learned.
    """

    corpora: dict[str, Dataset | IterableDataset]
    others: dict[str, Dataset]
    tokenized: dict[str, Dataset]
    reports: dict[str, FilterReport]
    source_tokenizer: PreTrainedTokenizerFast
    target_tokenizer: PreTrainedTokenizerFast
    max_positions: int | None

    def describe(self) -> Iterator[str]:
        """Returns a line for each part of the data that is not a stream."""
        seen = count_training_pairs(self.others, [*self.corpora.values()])
        for label, report in self.reports.items():
            yield f"{label}: {report}" + (f"; {seen[label]:,} are training pairs too" if seen.get(label) else "")


def tokenize_data(
    corpora: Sequence[Dataset | IterableDataset],
    others: dict[str, Dataset],
    source_tokenizer: PreTrainedTokenizerFast,
    target_tokenizer: PreTrainedTokenizerFast,
    data: DataSettings,
    max_positions: int | None,
) -> TranslationData:
    """Tokenises the training corpora, the validation pairs and the test sets.

    Targets to evaluate on that are longer than `max_positions` are counted.

    Raises:
        ValueError: if no training pair is left, or no pair to evaluate has text; the message begins with the label.
    """
    labels = ["train"] if len(corpora) == 1 else [f"train, {name}" for name in names_of_corpora(data)]
    training_pairs = dict(zip(labels, corpora, strict=True))
    tokenized, reports = {}, {}
    for label, pairs in (training_pairs | others).items():
        if isinstance(pairs, IterableDataset):
            continue
        try:
            tokenized[label], reports[label] = tokenize_parallel(
                pairs,
                source_tokenizer,
                target_tokenizer,
                max_source_length=data.max_source_length,
                max_target_length=data.max_target_length,
                drop_long=label in training_pairs,
                max_positions=max_positions,
            )
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error
    return TranslationData(
        training_pairs, others, tokenized, reports, source_tokenizer, target_tokenizer, max_positions
    )


def make_tokenizers(
    corpora: Sequence[Dataset | IterableDataset],
    settings: TokenizerSettings,
    weights: Sequence[float] | None = None,
    skip_broken_shards: bool = False,
) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Loads or trains the source and target tokenizers. They are the same object if the vocabulary is shared."""
    if settings.tokenizer_name:
        tokenizers = load_tokenizers(settings.tokenizer_name)
        for tokenizer in tokenizers:
            check_tokenizer(tokenizer, settings.tokenizer_name)
        return tokenizers
    if isinstance(corpora[0], IterableDataset):
        rows = rows_of_streams(corpora, weights, skip_broken_shards)
        sample = list(itertools.islice(rows, settings.tokenizer_samples))
    else:
        sample = list(sample_of_corpora(corpora, weights, settings.tokenizer_samples))
    sources, targets = ([pair[side] for pair in sample] for side in ("source", "target"))
    make = partial(train_tokenizer, kind=settings.tokenizer_type, lowercase=settings.lowercase)
    if settings.share_vocabulary:
        tokenizer = make(sources + targets, vocab_size=settings.vocab_size)
        return tokenizer, tokenizer
    return (
        make(sources, vocab_size=settings.vocab_size),
        make(targets, vocab_size=settings.decoder_vocab_size or settings.vocab_size),
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Raises ValueError if a tokenizer has no padding, start or end token, or does not append the end token."""
    missing = [kind for kind in ("pad", "bos", "eos") if getattr(tokenizer, f"{kind}_token_id") is None]
    if missing:
        raise ValueError(f"tokenizer_name {name}: it has no {' and no '.join(f'{kind}_token' for kind in missing)}.")
    if tokenizer("text").input_ids[-1:] != [tokenizer.eos_token_id]:
        raise ValueError(
            f"tokenizer_name {name}: it does not append {tokenizer.eos_token} to a text, so no translation would "
            "end. Give it a template that does, or train a tokenizer (leave tokenizer_name out)."
        )


def count_training_pairs(
    splits: Mapping[str, Dataset], corpora: Sequence[Dataset | IterableDataset]
) -> dict[str, int]:
    """Returns how many pairs of each split are training pairs too. Streams are not read for this.

    Args:
        splits: pairs to evaluate on, by the names of their splits.
        corpora: the training pairs, which are read once for all splits.
    """
    wanted = {split: list(zip(pairs["source"], pairs["target"], strict=True)) for split, pairs in splits.items()}
    sources = pyarrow.array({source for pairs in wanted.values() for source, _ in pairs}, pyarrow.string())
    found: set[tuple[str, str]] = set()
    for corpus in corpora:
        if isinstance(corpus, IterableDataset):
            continue
        for table in corpus.select_columns(["source", "target"]).with_format("arrow").iter(PAIR_CHUNK_SIZE):
            rows = table.filter(pyarrow.compute.is_in(table["source"], value_set=sources))
            found.update(zip(rows["source"].to_pylist(), rows["target"].to_pylist(), strict=True))
    return {split: sum(pair in found for pair in pairs) for split, pairs in wanted.items()}


def lengths_of(example: Any) -> np.ndarray:
    """Returns the numbers of source and target tokens: (2,) for one example, (N, 2) for N examples."""
    return np.array([example["source_length"], example["target_length"]]).T


def prepare_pairs(tokenize: PairTokenizer, pairs: dict[str, list[str]], left_over: None) -> tuple[list[Any], None]:
    """Examples of some pairs of a stream; nothing is left over for the next ones."""
    columns = tokenize(pairs)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)], None


def make_batches(
    accelerator: Accelerator,
    data: TranslationData,
    settings: DataSettings,
    tokenizer_settings: TokenizerSettings,
    training: TranslationTraining,
) -> tuple[LengthBucketBatches | StreamBatches, Callable[[], dict[str, Any]]]:
    """Returns the training batches of this process, and a function that returns what `all_results.json` records of
    several or weighted corpora after training."""
    mixture = None
    corpora = [*data.corpora.values()]
    if not settings.streaming:
        corpora = [data.tokenized[label] for label in data.corpora]
        sizes = [len(corpus) for corpus in corpora]
        mixture = Mixture(names_of_corpora(settings), sizes, weights_of(settings), training.seed, "pairs")
        if mixture.results():
            accelerator.print(f"train: {mixture}")
    tokenizers = data.source_tokenizer, data.target_tokenizer
    dropout = tokenizer_settings.bpe_dropout
    batches = training_batches(corpora, mixture, tokenizers, dropout, settings, training, accelerator)
    return batches, batches.results if mixture is None else mixture.results


def training_batches(
    corpora: Sequence[Any],
    mixture: Mixture | None,
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast],
    bpe_dropout: float,
    data: DataSettings,
    training: TranslationTraining,
    accelerator: Accelerator,
) -> LengthBucketBatches | StreamBatches:
    """Returns the training batches of this process, from tokenised corpora or from streams of text.

    `mixture` says which pairs of the corpora an epoch reads; None reads every pair once.
    """
    common = {
        "collate": partial(
            collate, pad_token_id=tokenizers[0].pad_token_id, copies=2 if training.r_drop_weight else 1
        ),
        "max_tokens_per_batch": data.max_tokens_per_batch,
        "seed": training.seed,
        "process_index": accelerator.process_index,
        "num_processes": accelerator.num_processes,
    }
    if data.streaming:
        report = FilterReport(data.max_source_length, data.max_target_length, drop_long=True)
        return StreamBatches(
            Shards(corpora, names_of_corpora(data)),
            partial(prepare_pairs, PairTokenizer(*tokenizers, report)),
            lengths_of,
            weights=weights_of(data),
            noun="pairs",
            num_workers=training.dataloader_num_workers,
            skip_broken_shards=data.skip_broken_shards,
            is_any_true=partial(is_any_true, accelerator),
            gather=gather_object,
            say=accelerator.print,
            **common,
        )
    examples = corpora[0] if len(corpora) == 1 else concatenate_datasets(corpora)
    if bpe_dropout:
        source_tokenizer, target_tokenizer = tokenizers
        source = target = RandomSegmentation(source_tokenizer, bpe_dropout, training.seed)
        if target_tokenizer is not source_tokenizer:
            target = RandomSegmentation(target_tokenizer, bpe_dropout, training.seed)
        columns = RandomlySegmented(examples, source, target, training.seed)
        lengths = columns.lengths
    else:
        columns, lengths = examples.select_columns(["input_ids", "labels"]), lengths_of(examples[:])
    rows = None if mixture is None or mixture.weights is None else mixture.rows
    return LengthBucketBatches(columns, lengths, rows=rows, num_workers=training.dataloader_num_workers, **common)
