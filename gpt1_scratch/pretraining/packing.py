"""Tokenises the training text once and packs it into blocks of contiguous text.

GPT-1 is trained on contiguous sequences of 512 tokens from whole books (section 4.1 of the paper), so that it learns
to use distant context. A corpus is therefore treated as one long sequence of tokens and cut every `block_size` tokens.
There is no padding, and only the tokens after the last full block are lost. If documents are kept separate, positions
restart in each, and no token attends to another document.

A run loads rows of text (`corpora.py`), tokenises them and packs the tokens:

    texts = load_texts("novels.parquet")
    blocks = pack_blocks(tokenize_texts(texts, tokenizer), block_size=512).blocks
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, IterableDataset, List, Value, config
from datasets.distributed import split_dataset_by_node
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerFast

from ..data.text_encoder import TextEncoder
from ..data.visible_text import has_visible_text
from ..data.wording import counted
from ..tokenization import forget_last_call

logger = logging.getLogger(__name__)

# Limits the text that is tokenised at a time, because a token takes some hundred bytes until it is stored.
CHARACTER_CHUNK_SIZE = 2**23


def tokenizer_key(tokenizer: PreTrainedTokenizerFast) -> str:
    """Returns a fingerprint of what decides a tokenizer's output, the same in every process and after every use."""
    forget_last_call(tokenizer)
    return Hasher.hash(tokenizer.backend_tokenizer.to_str())


def _encode(texts: Sequence[str | None], encode: TextEncoder) -> dict[str, list]:
    """Returns the tokens, bytes and words of each text; none of one without visible text.

    Texts are tokenised in groups of limited size.
    """
    texts = [text if text and has_visible_text(text) else "" for text in texts]
    tokens: list[list[int]] = []
    group: list[str] = []
    size = 0
    for index, text in enumerate(texts):
        group.append(text)
        size += len(text)
        if size >= CHARACTER_CHUNK_SIZE or index == len(texts) - 1:
            tokens += encode(group)
            group, size = [], 0
    return {
        "input_ids": tokens,
        "bytes": [len(text.encode()) for text in texts],
        "words": [len(text.split()) for text in texts],
    }


def tokenize_texts(texts: Dataset, tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """Tokenises rows of text on all cores, once: the result is cached under a key that holds the tokenizer.

    Args:
        texts: a data set with a column `text`, as `load_texts` returns it.
        tokenizer: any fast tokenizer; its special tokens are not added.

    Returns:
        A data set with the `input_ids` of every row and its numbers of `bytes` and `words`.

    Raises:
        ValueError: if there is no row.
    """
    if len(texts) == 0:
        raise ValueError("The corpus is empty: it has no row.")
    features = Features({"input_ids": List(Value("int32")), "bytes": Value("int64"), "words": Value("int64")})
    # "whole": earlier versions stored texts that were cut where the tokenizer had kept a truncation.
    key = Hasher.hash(("tokenize_whole_texts", texts._fingerprint, tokenizer_key(tokenizer)))
    file = None
    if not texts.cache_files:  # the library itself caches only what comes from files
        folder = Path(config.HF_DATASETS_CACHE) / "tokenize_texts"
        folder.mkdir(parents=True, exist_ok=True)
        file = str(folder / f"{key}.arrow")
    encode = TextEncoder(tokenizer)
    return texts.map(
        lambda batch: _encode(batch["text"], encode),
        batched=True,
        batch_size=100,
        writer_batch_size=100,
        remove_columns=texts.column_names,
        features=features,
        new_fingerprint=key,
        cache_file_name=file,
        desc="Tokenising",
    )


@dataclass(frozen=True)
class PackedTexts:
    """Blocks of contiguous text, and the size of the corpus that they were made from.

    Attributes:
        blocks: a data set of `input_ids`, all of the same length, in the order of the text, with `position_ids` if
            documents are separate.
        rows, words, bytes: the size of the texts.
        empty_rows: number of rows without text, which add nothing to the blocks.
        tokens: number of tokens of the texts and of the separators between them.
        dropped_tokens: number of tokens after the last full block.
    """

    blocks: Dataset
    rows: int
    empty_rows: int
    words: int
    bytes: int
    tokens: int
    dropped_tokens: int


def pack_blocks(
    tokenized: Dataset,
    block_size: int,
    *,
    separate_documents: bool = False,
    separator_id: int | None = None,
) -> PackedTexts:
    """Joins the tokens of all rows and cuts them into blocks.

    Args:
        tokenized: the data set that `tokenize_texts` returns.
        block_size: number of tokens in a block, at most the model's context.
        separate_documents: True to add `position_ids` that restart at every row of text and at every block. The model
            then attends to nothing before the start of the row. Otherwise attention crosses from one row to the next,
            as in the paper.
        separator_id: a token to insert before every row that has text, such as a start token or a line break.

    Returns:
        The blocks and the size of the corpus. The blocks are stored in the cache, not in memory.

    Raises:
        ValueError: if `block_size` is less than 2 (nothing would be predicted), or the corpus has no text or too
            little for one block.
    """
    if block_size < 2:
        raise ValueError(f"block_size is {block_size}; a block needs at least 2 tokens to predict one from another.")
    counts = tokenized.with_format("numpy", columns=["bytes", "words"])[:]
    lengths = np.diff(_offsets(tokenized))
    separators = int((lengths > 0).sum()) if separator_id is not None else 0
    tokens = int(lengths.sum()) + separators
    if tokens == 0:
        raise ValueError("The corpus is empty: none of its rows has any text.")
    if tokens < block_size:
        raise ValueError(
            f"The corpus has {tokens} tokens, less than one block of {block_size}: use a smaller block_size, or "
            "more text."
        )
    settings = {"block_size": block_size, "separate_documents": separate_documents, "separator_id": separator_id}
    features = {"input_ids": List(Value("int32"), length=block_size)}
    if separate_documents:
        features["position_ids"] = List(Value("int32"), length=block_size)
    blocks = Dataset.from_generator(
        _stored_blocks,
        gen_kwargs={"tokenized": tokenized, **settings},
        features=Features(features),
        fingerprint=Hasher.hash(("pack_blocks", tokenized._fingerprint, sorted(settings.items(), key=str))),
    )
    return PackedTexts(
        blocks=blocks,
        rows=len(tokenized),
        empty_rows=int((lengths == 0).sum()),
        words=int(np.sum(counts["words"])),
        bytes=int(np.sum(counts["bytes"])),
        tokens=tokens,
        dropped_tokens=tokens - len(blocks) * block_size,
    )


# In tokens. A shorter passage repeats itself so often that there is little to learn from it.
SHORTEST_PASSAGE = 8


class PartlyCutBlocks(torch.utils.data.Dataset):
    """A data set in which some blocks are cut into shorter ones, and some of these repeat a single passage.

    Most of what a small model can learn lies within a few dozen tokens. With shorter blocks, a batch of the same size
    covers more places of the corpus and trains the first positions more often. The blocks that are not cut train the
    other positions. BERT's pre-training combines 128 and 512 tokens for the same reason (Devlin et al. 2018,
    appendix A.2).

    To copy from earlier text, a model needs two attention heads in successive layers (the induction heads of Olsson et
    al. 2022), and one of them alone hardly lowers the loss. In a block that repeats one passage, they lower it as soon
    as they begin to form: a small model on novels had them within 300 updates if half of the short blocks repeated a
    passage, and had not formed them after 1900 updates otherwise. Tasks on pairs of texts depend on these heads.

    Args:
        blocks: the blocks of `pack_blocks`, without `position_ids`.
        short_block_size: number of tokens of a short block; it must divide the size of the blocks.
        share: fraction of the blocks that are cut, chosen at random.
        blocks_per_batch: number of whole blocks in a batch. A multiple of it is cut, so that no batch mixes the sizes.
        seed: determines all random choices.
        repeated_share: fraction of the short blocks, chosen at random, that repeat their first tokens. The number of
            these tokens is drawn for each block, from `SHORTEST_PASSAGE` to half a block.

    Raises:
        ValueError: if `short_block_size` does not divide the size of the blocks, or is too small for a repetition.
    """

    def __init__(
        self,
        blocks: Dataset,
        short_block_size: int,
        share: float,
        blocks_per_batch: int,
        seed: int,
        repeated_share: float = 0.0,
    ):
        size = len(blocks[0]["input_ids"])
        if not 2 <= short_block_size < size or size % short_block_size:
            raise ValueError(
                f"short_block_size is {short_block_size}; it must be at least 2, less than the block_size, {size}, "
                "and divide it."
            )
        if repeated_share and short_block_size < 2 * SHORTEST_PASSAGE:
            raise ValueError(
                f"short_block_size is {short_block_size}; with repeated_block_share it must be at least "
                f"{2 * SHORTEST_PASSAGE}, twice the shortest passage."
            )
        cut = int(share * len(blocks)) // blocks_per_batch * blocks_per_batch
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(blocks))
        starts = np.arange(0, size, short_block_size)
        self.blocks = blocks
        # The block of each example, and the position in it where the example begins.
        self.places = np.concatenate(
            [
                np.stack([np.repeat(order[:cut], len(starts)), np.tile(starts, cut)], axis=1),
                np.stack([order[cut:], np.zeros(len(blocks) - cut, dtype=int)], axis=1),
            ]
        )
        self.lengths = np.full((len(self.places), 1), size)
        self.lengths[: cut * len(starts)] = short_block_size
        # The length of the passage that fills each example; for most examples it is their whole length.
        self.passages = self.lengths[:, 0].copy()
        repeated = generator.permutation(cut * len(starts))[: int(repeated_share * cut * len(starts))]
        self.passages[repeated] = generator.integers(SHORTEST_PASSAGE, short_block_size // 2 + 1, len(repeated))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        block, start = self.places[index].tolist()
        passage = self.blocks[block]["input_ids"][start : start + int(self.passages[index])]
        return {"input_ids": np.resize(passage, int(self.lengths[index, 0]))}


def count_tokens(tokenized: Dataset) -> int:
    """Returns the number of tokens of the texts that `tokenize_texts` returned."""
    return int(_offsets(tokenized)[-1])


def _offsets(tokenized: Dataset) -> np.ndarray:
    """Returns the (rows + 1,) positions in the corpus at which the tokens of each row begin."""
    lengths = [0]
    for batch in tokenized.with_format("arrow", columns=["input_ids"]).iter(batch_size=1000):
        lengths += batch["input_ids"].combine_chunks().value_lengths().to_pylist()
    return np.cumsum(lengths)


def _stored_blocks(tokenized: Dataset, **settings) -> Iterator[dict[str, np.ndarray]]:
    rows = tokenized.with_format("numpy", columns=["input_ids"])
    yield from cut_blocks((row["input_ids"] for row in rows), **settings)


def cut_blocks(
    rows: Iterable[Sequence[int]],
    block_size: int,
    *,
    separate_documents: bool = False,
    separator_id: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Cuts a stream of rows of tokens into blocks. A last block that is not full is left out.

    Args:
        rows: the token ids of each row of text; empty rows are ignored.
        block_size, separate_documents, separator_id: as in `pack_blocks`.

    Yields:
        `input_ids` (block_size,), and `position_ids` (block_size,) if documents are separate.
    """
    cutter = _Cutter(block_size, separate_documents, separator_id)
    for row in rows:
        yield from cutter.add(row)


class _Cutter:
    """Fills one block after another.

    Args:
        block_size, separate_documents, separator_id: as in `pack_blocks`.
        left_over: from `left_over` of another cutter, to continue behind it.
    """

    def __init__(
        self,
        block_size: int,
        separate_documents: bool,
        separator_id: int | None,
        left_over: Mapping[str, list[int]] | None = None,
    ):
        self.separate_documents, self.separator_id = separate_documents, separator_id
        self.tokens = np.empty(block_size, dtype=np.int32)
        self.positions = np.empty(block_size, dtype=np.int32)
        self.filled = 0
        if left_over is not None:
            self.filled = len(left_over["input_ids"])
            self.tokens[: self.filled] = left_over["input_ids"]
            self.positions[: self.filled] = left_over["position_ids"]

    def left_over(self) -> dict[str, list[int]]:
        """Returns the tokens that fill no block yet, and their positions."""
        return {
            "input_ids": self.tokens[: self.filled].tolist(),
            "position_ids": self.positions[: self.filled].tolist(),
        }

    def add(self, row: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Adds the tokens of a row and yields the blocks that become full."""
        if len(row) == 0:
            return
        row = np.asarray(row, dtype=np.int32)
        if self.separator_id is not None:
            row = np.concatenate([[self.separator_id], row]).astype(np.int32)
        block_size = len(self.tokens)
        while len(row):
            taken = min(len(row), block_size - self.filled)
            self.tokens[self.filled : self.filled + taken] = row[:taken]
            self.positions[self.filled : self.filled + taken] = np.arange(taken)
            self.filled, row = self.filled + taken, row[taken:]
            if self.filled == block_size:
                block = {"input_ids": self.tokens.copy()}
                if self.separate_documents:
                    block["position_ids"] = self.positions.copy()
                yield block
                self.filled = 0


@dataclass(frozen=True)
class StreamPacker:
    """Tokenises some rows of a stream after others and packs them into blocks.

    Attributes:
        tokenizer, block_size, separate_documents, separator_id: as in `tokenize_texts` and `pack_blocks`.

    Raises:
        ValueError: `block_size` is less than 2.
    """

    tokenizer: PreTrainedTokenizerFast
    block_size: int
    separate_documents: bool = False
    separator_id: int | None = None

    def __post_init__(self):
        if self.block_size < 2:
            raise ValueError(
                f"block_size is {self.block_size}; a block needs at least 2 tokens to predict one from another."
            )

    @cached_property
    def _encoder(self) -> TextEncoder:
        return TextEncoder(self.tokenizer)

    def __call__(
        self, rows: Mapping[str, Sequence[str | None]], left_over: Mapping[str, list[int]] | None = None
    ) -> tuple[list[dict[str, np.ndarray]], dict[str, list[int]]]:
        """Packs rows behind those of an earlier call.

        Args:
            rows: their column `text`.
            left_over: what the call for the rows before returned; None for the first rows.

        Returns:
            The blocks, as in `pack_blocks`, and the tokens left over, which JSON can hold.
        """
        cutter = _Cutter(self.block_size, self.separate_documents, self.separator_id, left_over)
        encoded = _encode(rows["text"], self._encoder)["input_ids"]
        return [block for row in encoded for block in cutter.add(row)], cutter.left_over()


def stream_blocks(
    texts: IterableDataset,
    tokenizer: PreTrainedTokenizerFast,
    block_size: int,
    *,
    separate_documents: bool = False,
    separator_id: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> IterableDataset:
    """Returns a stream of blocks. The corpus is read, tokenised and cut during training and never stored.

    Args:
        texts: a streamed data set with a column `text`.
        tokenizer, block_size, separate_documents, separator_id: as in `tokenize_texts` and `pack_blocks`.
        rank, world_size: the index of this process and the number of processes. Each process reads a part of the rows:
            whole files if the number of files is a multiple of `world_size`, otherwise every `world_size`-th row.

    Returns:
        Blocks as in `pack_blocks`. Each process leaves out its last partial block.

    Raises:
        ValueError: if `block_size` is less than 2 or `rank` is not less than `world_size`; and, while the blocks are
            read, if this process's part of the corpus does not fill one block.
    """
    packer = StreamPacker(tokenizer, block_size, separate_documents, separator_id)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}; with world_size {world_size} it must be from 0 to {world_size - 1}.")
    share = split_dataset_by_node(texts, rank=rank, world_size=world_size)
    return IterableDataset.from_generator(_streamed_blocks, gen_kwargs={"texts": share, "packer": packer})


def _streamed_blocks(texts: IterableDataset, packer: StreamPacker) -> Iterator[dict[str, np.ndarray]]:
    left_over, blocks = None, 0
    for rows in texts.iter(batch_size=100):
        cut, left_over = packer(rows, left_over)
        blocks += len(cut)
        yield from cut
    size, rest = packer.block_size, len(left_over["input_ids"]) if left_over else 0
    if blocks == 0:
        raise ValueError(
            f"This process's share of the corpus has {rest} tokens, less than one block of {size}: use a smaller "
            "block_size, more text, or fewer processes."
        )
    logger.info(
        f"{counted(blocks, 'block')} of {size} tokens made; tokens dropped at the end, as they fill no block: {rest}."
    )
