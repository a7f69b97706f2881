"""The data of pre-training: corpora, vocabulary, blocks and batches."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gpt1_scratch.pretraining.corpora import load_texts
from gpt1_scratch.pretraining.packing import (
    PackedTexts,
    PartlyCutBlocks,
    StreamPacker,
    count_tokens,
    pack_blocks,
    tokenize_texts,
)
from gpt1_scratch.tokenization import published_tokenizer, train_tokenizer
from papers_to_gpt.engine.batching import Batch, LengthBucketBatches
from papers_to_gpt.engine.evaluation import is_any_true
from papers_to_gpt.engine.mixture import Mixture, sample_of_corpora
from papers_to_gpt.engine.shard_reader import Shards, rows_of_streams
from papers_to_gpt.engine.streaming import StreamBatches
from papers_to_gpt.settings.corpora import names_of_files, weights_of
from papers_to_gpt.settings.pretraining import TextSettings, VocabularySettings
from papers_to_gpt.settings.training import TrainingSettings
from papers_to_gpt.settings.wording import counted


def load_corpora(text: TextSettings) -> tuple[list[Dataset | IterableDataset], Dataset]:
    """Loads the training corpora and the validation text, each in rows with the column `text`."""
    row = "line" if text.row_is_line else "document"
    load = partial(load_texts, text_column=text.text_column, row=row)
    if text.dataset_name is not None:
        load = partial(load, text.dataset_name, name=text.dataset_config_name, revision=text.dataset_revision)
        train = load(text.train_split, streaming=text.streaming)
        # To load one split, the datasets library downloads all of them, so the validation split is streamed too. The
        # library cannot stream a slice such as "train[:1%]".
        if text.streaming and "[" not in text.validation_split:
            return [train], Dataset.from_list(list(load(text.validation_split, streaming=True)))
        return [train], load(text.validation_split)
    return [load(file, streaming=text.streaming) for file in text.train_file], load(text.validation_file)


def make_tokenizer(
    corpora: Sequence[Dataset | IterableDataset],
    settings: VocabularySettings,
    weights: Sequence[float] | None = None,
    skip_broken_shards: bool = False,
) -> PreTrainedTokenizerFast:
    """Loads the tokenizer that the settings name, or trains one on the training text."""
    if settings.tokenizer_name is not None:
        return AutoTokenizer.from_pretrained(settings.tokenizer_name, trust_remote_code=False)
    if settings.vocabulary_file is not None and settings.merges_file is not None:
        return published_tokenizer(settings.vocabulary_file, settings.merges_file)
    if isinstance(corpora[0], IterableDataset):
        rows = itertools.islice(rows_of_streams(corpora, weights, skip_broken_shards), settings.tokenizer_samples)
    else:
        rows = sample_of_corpora(corpora, weights, settings.tokenizer_samples)
    return train_tokenizer((row["text"] or "" for row in rows), merges=settings.num_merges)


def pack_texts(
    where: str, texts: Sequence[Dataset], tokenizer: PreTrainedTokenizerFast, block_size: int, text: TextSettings
) -> PackedTexts:
    """Returns the blocks of texts that are joined one behind the other.

    Raises:
        ValueError: if there is not enough text for one block; the message begins with `where`.
    """
    try:
        tokenized = [tokenize_texts(each, tokenizer) for each in texts]
        joined = tokenized[0] if len(tokenized) == 1 else concatenate_datasets(tokenized)
        return pack_blocks(joined, block_size, separate_documents=text.separate_documents)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def pack_corpora(
    corpora: Sequence[Dataset],
    weights: Sequence[float] | None,
    tokenizer: PreTrainedTokenizerFast,
    block_size: int,
    text: TextSettings,
    seed: int,
) -> tuple[list[PackedTexts], Mixture]:
    """Returns the blocks to train on, and how the corpora are mixed.

    Without weights all corpora are cut into blocks together, like the files of a folder; with weights each by itself.

    Raises:
        ValueError: if there is not enough text for one block, or a weight leaves no block of its corpus.
    """
    names = names_of_files(text.train_file) if text.train_file else [text.dataset_name]
    files = text.train_file or [f"{text.dataset_name}, train"]
    if weights is None:
        packed = [pack_texts(" ".join(files), corpora, tokenizer, block_size, text)]
        # The corpora are tokenised: this reads the cache.
        tokens = [count_tokens(tokenize_texts(corpus, tokenizer)) for corpus in corpora]
        return packed, Mixture(names, tokens, None, seed, "tokens")
    packed = [
        pack_texts(file, [corpus], tokenizer, block_size, text) for file, corpus in zip(files, corpora, strict=True)
    ]
    return packed, Mixture(names, [len(part.blocks) for part in packed], weights, seed, "blocks")


@dataclass(frozen=True)
class PretrainingData:
    """What a run reads.

    Attributes:
        corpora: the training corpora as text.
        validation_texts: the validation split as text.
        validation: the same in blocks.
        packed: the training text in blocks, of all corpora together or of each by itself; empty for streams, which are
            packed as they are read.
        mixture: how the corpora are mixed; None for streams.
        tokenizer: the tokenizer.
        block_size: tokens of a block.
    """

    corpora: Sequence[Dataset | IterableDataset]
    validation_texts: Dataset
    validation: PackedTexts
    packed: Sequence[PackedTexts]
    mixture: Mixture | None
    tokenizer: PreTrainedTokenizerFast
    block_size: int

    def texts(self) -> dict[str, Dataset | IterableDataset]:
        """Returns the text by split, for its fingerprint."""
        return {f"train {number}": corpus for number, corpus in enumerate(self.corpora)} | {
            "validation": self.validation_texts
        }

    def describe(self) -> Iterator[str]:
        """Returns lines with the sizes of the splits and of the corpora in an epoch."""
        if self.mixture is not None:
            for name, part in zip(self.mixture.names, self.packed, strict=False):
                yield describe_packed("train" if len(self.packed) == 1 else f"train, {name}", part)
            if self.mixture.results():
                yield f"train: {self.mixture}"
        yield describe_packed("validation", self.validation)


def pack_data(
    corpora: Sequence[Dataset | IterableDataset],
    validation_texts: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    block_size: int,
    text: TextSettings,
    seed: int,
) -> PretrainingData:
    """Packs the validation split, and the training corpora unless they are streams, into blocks.

    Raises:
        ValueError: if a split has not enough text for one block, or a weight leaves no block of its corpus.
    """
    where = text.validation_file or f"{text.dataset_name}, validation"
    validation = pack_texts(where, [validation_texts], tokenizer, block_size, text)
    packed, mixture = [], None
    if not text.streaming:
        packed, mixture = pack_corpora(corpora, weights_of(text), tokenizer, block_size, text, seed)
    return PretrainingData(corpora, validation_texts, validation, packed, mixture, tokenizer, block_size)


def describe_packed(split: str, packed: PackedTexts) -> str:
    """Returns a line with the size of a packed split."""
    without_text = f" ({packed.empty_rows:,} without text)" if packed.empty_rows else ""
    return (
        f"{split}: {counted(packed.rows, 'row')}{without_text}, {packed.words:,} words, {packed.tokens:,} tokens in "
        f"{counted(len(packed.blocks), 'block')}; tokens dropped at the end, as they fill no block: "
        f"{packed.dropped_tokens:,}"
    )


def collate_blocks(examples: list[dict[str, Any]]) -> Batch:
    """Stacks blocks into tensors of shape (B, block_size). By default, the labels are the tokens."""
    batch = {
        name: torch.from_numpy(np.array([example[name] for example in examples], dtype=np.int64))
        for name in examples[0]
    }
    return {"labels": batch["input_ids"]} | batch


class PartlyCutMixture(torch.utils.data.Dataset):
    """The blocks of a mixture of corpora, of which each epoch cuts other ones into shorter blocks.

    Args:
        blocks: the blocks of all corpora, joined.
        mixture: decides which of them an epoch reads, and how often.
        cut: function from the blocks of an epoch to `PartlyCutBlocks`.
    """

    def __init__(self, blocks: Dataset, mixture: Mixture, cut: Callable[[Any], PartlyCutBlocks]):
        self.blocks, self.mixture, self.cut = blocks, mixture, cut
        self.of_epoch: PartlyCutBlocks | None = None

    def lengths(self, epoch: int) -> np.ndarray:
        """Cuts the blocks of an epoch, counted from 0, and returns the numbers of tokens of its examples, (N, 1)."""
        rows = self.mixture.rows(epoch).tolist()
        self.of_epoch = self.cut(torch.utils.data.Subset(self.blocks, rows))
        return self.of_epoch.lengths

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.of_epoch[index]


def make_batches(
    accelerator: Accelerator, data: PretrainingData, text: TextSettings, training: TrainingSettings
) -> tuple[LengthBucketBatches | StreamBatches, Callable[[], dict[str, Any]]]:
    """Returns the training batches of this process, and a function that returns what `all_results.json` records of
    several or weighted corpora after training."""
    if data.mixture is None:
        packer = StreamPacker(data.tokenizer, data.block_size, text.separate_documents)
        batches = streamed_batches(data.corpora, packer, text, training, accelerator)
        return batches, batches.results
    blocks = [part.blocks for part in data.packed]
    blocks = blocks[0] if len(blocks) == 1 else concatenate_datasets(blocks)
    batches = training_batches(blocks, data.mixture, data.block_size, text, training, accelerator)
    return batches, data.mixture.results


def training_batches(
    blocks: Dataset,
    mixture: Mixture,
    block_size: int,
    text: TextSettings,
    training: TrainingSettings,
    accelerator: Accelerator,
) -> LengthBucketBatches:
    """Returns the training batches of this process: shuffled blocks, of one length in each batch."""
    rows = None if mixture.weights is None else mixture.rows
    lengths: Any = np.full((len(blocks), 1), block_size)
    if text.short_block_size is not None:
        cut = partial(
            PartlyCutBlocks,
            short_block_size=text.short_block_size,
            share=text.short_block_share,
            blocks_per_batch=text.per_device_train_batch_size,
            seed=training.seed,
            repeated_share=text.repeated_block_share,
        )
        if rows is None:
            blocks = cut(blocks)
            lengths = blocks.lengths
        else:
            blocks, rows = PartlyCutMixture(blocks, mixture, cut), None
            lengths = blocks.lengths
    return LengthBucketBatches(
        blocks,
        lengths,
        collate_blocks,
        rows=rows,
        max_tokens_per_batch=text.per_device_train_batch_size * block_size,
        seed=training.seed,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=training.dataloader_num_workers,
    )


# Blocks that are shuffled among each other, and rows that are tokenised at a time: a row may be a whole book.
STREAM_WINDOW = 1000
STREAM_CHUNK_SIZE = 100


def streamed_batches(
    corpora: Sequence[IterableDataset],
    packer: StreamPacker,
    text: TextSettings,
    training: TrainingSettings,
    accelerator: Accelerator,
) -> StreamBatches:
    """Blocks of a stream, shuffled window by window."""
    return StreamBatches(
        Shards(corpora, names_of_files(text.train_file) or [text.dataset_name]),
        packer,
        length_of_block,
        collate_blocks,
        weights=weights_of(text),
        noun="blocks",
        max_tokens_per_batch=text.per_device_train_batch_size * packer.block_size,
        seed=training.seed,
        window=STREAM_WINDOW,
        chunk_size=STREAM_CHUNK_SIZE,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=training.dataloader_num_workers,
        skip_broken_shards=text.skip_broken_shards,
        is_any_true=partial(is_any_true, accelerator),
        gather=gather_object,
        say=accelerator.print,
    )


def length_of_block(block: dict[str, Any]) -> tuple[int]:
    """(1,) tokens."""
    return (len(block["input_ids"]),)
