"""BPE-dropout: the same sentence in other subwords at every epoch.

Provilkov, Emelianenko and Voita 2020, "BPE-Dropout: Simple and Effective Subword Regularization"
(https://arxiv.org/abs/1910.13267). A small parallel corpus is read dozens of times, and always in the same subwords a
model learns it by heart. Here the merges that build a word are skipped at random, so that it is spelt now in whole
pieces, now in smaller ones. Only training does so; translating takes the usual segmentation.

The tokenizers library has it too, but draws from a generator that cannot be seeded, and a resumed run would differ.
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
    """Segments the words of already encoded sentences anew, merges left out at random.

    A word's segmentations are drawn once, `SEGMENTATIONS_PER_WORD` of them, and sentences choose among them: drawing
    anew for every word of every sentence would take as long as the training step.

    Args:
        tokenizer: a BPE tokenizer of `train_tokenizer`.
        dropout: the share of merges that is skipped, p in the paper; at least 0 and below 1.
        seed: of the segmentations.

    Raises:
        ValueError: another kind of tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, dropout: float, seed: int):
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        if model["type"] != "BPE" or WORD_START not in model["vocab"]:
            raise ValueError(
                f"bpe_dropout is {dropout}, but the tokenizer is no BPE tokenizer that marks words with {WORD_START}. "
                "Leave bpe_dropout out, or let this run learn the vocabulary (tokenizer_type: bpe, no tokenizer_name)."
            )
        self.dropout, self.seed = dropout, seed
        self.vocabulary: dict[str, int] = model["vocab"]
        self.pieces = {index: piece for piece, index in self.vocabulary.items()}
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        special = set(tokenizer.all_special_ids)
        # No merge reaches over a word's start, nor can a special token or a byte be taken apart.
        self.starts_word = np.zeros(len(tokenizer), dtype=bool)
        for index, piece in self.pieces.items():
            self.starts_word[index] = piece.startswith(WORD_START) or index in special
        self.whole = special | {index for index, piece in self.pieces.items() if piece.startswith("<0x")}
        self.segmentations_of = lru_cache(WORDS_REMEMBERED)(self._draw_segmentations)

    def __call__(self, ids: Sequence[int], generator: np.random.Generator) -> list[int]:
        """Another segmentation of a sentence.

        Args:
            ids: of the usual segmentation, special tokens included.
            generator: chooses among the segmentations of each word.
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
        # Seeded by the word, the draw depends on nothing that was segmented before.
        generator = random.Random(f"{self.seed} {word}")
        characters = list("".join(self.pieces[index] for index in word))
        drawn = [self._segment(characters, generator) for _ in range(SEGMENTATIONS_PER_WORD)]
        distinct = {segmentation: segmentation for segmentation in drawn}
        return [distinct[segmentation] for segmentation in drawn]

    def _segment(self, characters: Sequence[str], generator: random.Random) -> tuple[int, ...]:
        """Algorithm 1 of the paper: at every step each possible merge is dropped with the probability given."""
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
    """A tokenised parallel data set, segmented anew at every epoch.

    All of it at the start of the epoch, so that batches are made by the lengths that sentences have in it: with the
    usual lengths 31 % of a batch of Multi30k would be padding, against 3 %. What an example becomes follows from the
    seed and the epoch, and a resumed run sees the batches of an uninterrupted one.

    Args:
        examples: with lists `input_ids` and `labels`, as `tokenize_parallel` gives them.
        source, target: segment each side.
        seed: of the choice among segmentations.
    """

    def __init__(self, examples: Any, source: RandomSegmentation, target: RandomSegmentation, seed: int):
        self.columns = {name: examples[name][:] for name in ("input_ids", "labels")}
        self.segmentations = {"input_ids": source, "labels": target}
        self.seed = seed
        self.epoch: int | None = None
        self.segmented: dict[str, list[list[int]]] = {}

    def lengths(self, epoch: int) -> np.ndarray:
        """Segments the examples for an epoch (from 0); gives their (examples, 2) source and target tokens."""
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
