"""BPE-dropout: segments every sentence into other subwords in each epoch.

Provilkov, Emelianenko and Voita 2020, "BPE-Dropout: Simple and Effective Subword Regularization"
(https://arxiv.org/abs/1910.13267). A small parallel corpus is read dozens of times, and a model that always sees the
same subwords memorizes it. BPE-dropout skips merges at random, so that a word is sometimes one token and sometimes
several smaller ones. It is used in training only; translation uses the usual segmentation.

The tokenizers library implements it too, but its random generator cannot be seeded, so a resumed run would differ from
an uninterrupted one.
"""

import json
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..tokenization import WORD_START

SEGMENTATIONS_PER_WORD = 32
WORDS_REMEMBERED = 200_000


class RandomSegmentation:
    """Segments the words of encoded sentences again, with merges skipped at random.

    `SEGMENTATIONS_PER_WORD` segmentations of a word are drawn once, and each occurrence of the word takes one of them.
    Drawing a segmentation for every word of every sentence would take as long as the training step.

    Args:
        tokenizer: a BPE tokenizer from `train_tokenizer`.
        dropout: probability of skipping a merge, p in the paper; at least 0 and below 1.
        seed: determines the segmentations.

    Raises:
        ValueError: if the tokenizer is of another kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, dropout: float, seed: int):
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        if model["type"] != "BPE" or WORD_START not in model["vocab"]:
            raise ValueError(
                f"bpe_dropout is {dropout}, but the tokenizer is no BPE tokenizer that marks words with {WORD_START}. "
                "Leave bpe_dropout out, or let this run train the tokenizer (tokenizer_type: bpe, no tokenizer_name)."
            )
        self.dropout, self.seed = dropout, seed
        self.vocabulary: dict[str, int] = model["vocab"]
        self.pieces = {index: piece for piece, index in self.vocabulary.items()}
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        special = set(tokenizer.all_special_ids)
        # Special tokens and bytes cannot be split into smaller pieces.
        self.starts_word = np.zeros(len(tokenizer), dtype=bool)
        for index, piece in self.pieces.items():
            self.starts_word[index] = piece.startswith(WORD_START) or index in special
        self.whole = special | {index for index, piece in self.pieces.items() if piece.startswith("<0x")}
        self.segmentations_of = lru_cache(WORDS_REMEMBERED)(self._draw_segmentations)

    def __call__(self, ids: Sequence[int], generator: np.random.Generator) -> list[int]:
        """Returns the ids of another segmentation of a sentence.

        Args:
            ids: the ids of the usual segmentation, with special tokens.
            generator: chooses one of the segmentations of each word.
        """
        starts = np.flatnonzero(self.starts_word[ids]).tolist()
        bounds = sorted({0, *starts, len(ids)})
        choices = generator.integers(SEGMENTATIONS_PER_WORD, size=len(bounds) - 1).tolist()
        segmented: list[int] = []
        for start, end, choice in zip(bounds[:-1], bounds[1:], choices, strict=True):
            segmented += self.segmentations_of(tuple(ids[start:end]))[choice]
        return segmented

    def _draw_segmentations(self, word: tuple[int, ...]) -> list[tuple[int, ...]]:
        if not self.whole.isdisjoint(word):
            return [word] * SEGMENTATIONS_PER_WORD
        # The seed contains the word, so its segmentations do not depend on the words before it.
        generator = random.Random(f"{self.seed} {word}")
        characters = list("".join(self.pieces[index] for index in word))
        drawn = [self._segment(characters, generator) for _ in range(SEGMENTATIONS_PER_WORD)]
        distinct = {segmentation: segmentation for segmentation in drawn}
        return [distinct[segmentation] for segmentation in drawn]

    def _segment(self, characters: Sequence[str], generator: random.Random) -> tuple[int, ...]:
        """Segments a word by algorithm 1 of the paper: each step drops each possible merge with probability p."""
        pieces = list(characters)
        while True:
            kept = [
                (self.ranks[pair], position)
                for position, pair in enumerate(pairwise(pieces))
                if pair in self.ranks and generator.random() >= self.dropout
            ]
            if not kept:
                return tuple(self.vocabulary[piece] for piece in pieces)
            _, position = min(kept)
            pieces[position : position + 2] = [pieces[position] + pieces[position + 1]]


class RandomlySegmented:
    """A tokenised parallel data set that is segmented again for every epoch.

    The whole data set is segmented at the start of an epoch, so that batches can be made from the lengths of this
    segmentation. If they were made from the usual lengths, 31 % of a batch of Multi30k would be padding instead of
    3 %. The result depends only on the seed and the epoch, so a resumed run sees the batches of an uninterrupted one.

    Args:
        examples: the examples, with the lists `input_ids` and `labels` that `tokenize_parallel` returns.
        source, target: the segmentations of each side.
        seed: determines which segmentation each word takes.
    """

    def __init__(self, examples: Any, source: RandomSegmentation, target: RandomSegmentation, seed: int):
        self.columns = {name: examples[name][:] for name in ("input_ids", "labels")}
        self.segmentations = {"input_ids": source, "labels": target}
        self.seed = seed
        self.epoch: int | None = None
        self.segmented: dict[str, list[list[int]]] = {}

    def lengths(self, epoch: int) -> np.ndarray:
        """Segments the examples for an epoch, counted from 0; returns (N, 2) numbers of source and target tokens."""
        if epoch != self.epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self.segmented = {
                name: [self.segmentations[name](ids, generator) for ids in rows] for name, rows in self.columns.items()
            }
            self.epoch = epoch
        return np.array([[len(ids) for ids in self.segmented[name]] for name in ("input_ids", "labels")]).T

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> Mapping[str, list[int]]:
        return {name: rows[index] for name, rows in self.segmented.items()}
