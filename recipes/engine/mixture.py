"""Mixes several training corpora by weights: which examples an epoch reads, and the counts that a run reports."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset


@dataclass(frozen=True)
class Mixture:
    """Corpora in memory, joined one behind the other, of which each epoch reads the examples by their weights.

    With a weight of 2.5, an epoch has every example of a corpus twice and half of them a third time: a sample without
    replacement, which follows from the seed, the epoch and the corpus. The number of examples of a corpus, its size
    times its weight rounded to a whole number, is the same in every epoch.

    Attributes:
        names: the names of the corpora, for messages.
        sizes: their numbers of examples.
        weights: their weights; None reads every example once.
        seed: decides the samples.
        noun: what an example is, for messages and results, such as pairs.

    Raises:
        ValueError: if a weight leaves no example of its corpus.
    """

    names: Sequence[str]
    sizes: Sequence[int]
    weights: Sequence[float] | None
    seed: int
    noun: str

    def __post_init__(self):
        for name, size, count in zip(self.names, self.sizes, self.counts, strict=True):
            if size and not count:
                raise ValueError(
                    f"train_weights: {name} has {size:,} {self.noun}, and its weight leaves less than one for an "
                    "epoch. Raise the weight, or leave the file out."
                )

    @property
    def counts(self) -> list[int]:
        """The number of examples of each corpus in an epoch."""
        if self.weights is None:
            return [*self.sizes]
        return [math.floor(size * weight + 0.5) for size, weight in zip(self.sizes, self.weights, strict=True)]

    def rows(self, epoch: int) -> np.ndarray:
        """Returns the indices of the examples of an epoch in the joined corpora, those that come again repeated."""
        parts, start = [], 0
        for corpus, (size, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            if size:
                whole, rest = divmod(count, size)
                sample = np.random.default_rng([self.seed, epoch, corpus]).permutation(size)[:rest]
                parts.append(start + np.concatenate([np.tile(np.arange(size), whole), np.sort(sample)]))
            start += size
        return np.concatenate(parts)

    def results(self) -> dict[str, Any]:
        """Returns the counts of several or weighted corpora for `all_results.json`; nothing for a single one."""
        if len(self.names) == 1 and self.weights is None:
            return {}
        total = sum(self.counts)
        weights = self.weights or [1.0] * len(self.names)
        columns = zip(self.names, weights, self.sizes, self.counts, strict=True)
        return {
            "train_corpora": [
                {
                    "name": name,
                    "weight": weight,
                    self.noun: size,
                    f"{self.noun}_per_epoch": count,
                    "share": round(count / total, 6),
                }
                for name, weight, size, count in columns
            ]
        }

    def __str__(self) -> str:
        """A line with the counts of the corpora in an epoch, for people."""
        total, counts = sum(self.counts), self.counts
        weights = [None] * len(counts) if self.weights is None else self.weights
        parts = [
            f"{name} {count:,} ({100 * count / total:.1f} %{'' if weight is None else f', weight {weight:g}'})"
            for name, count, weight in zip(self.names, counts, weights, strict=True)
        ]
        return f"an epoch has {total:,} {self.noun}: {', '.join(parts)}"


def sample_of_corpora(corpora: Sequence[Dataset], weights: Sequence[float] | None, number: int) -> Iterator[Any]:
    """Iterates over at most so many rows of corpora, to learn a vocabulary from.

    Args:
        corpora: the corpora.
        weights: their weights; None for rows in the corpora's own proportions.
        number: the number of rows. Each corpus gives its first ones, as many as its share in an epoch, at most all.
    """
    read = [len(corpus) * weight for corpus, weight in zip(corpora, weights or [1.0] * len(corpora), strict=True)]
    for corpus, rows in zip(corpora, read, strict=True):
        yield from itertools.islice(corpus, math.ceil(number * rows / max(1e-9, sum(read))))
