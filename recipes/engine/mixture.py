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
        sizes = [{self.noun: size} for size in self.sizes]
        return {
            "train_corpora": corpora_in_results(self.names, self.weights, self.counts, f"{self.noun}_per_epoch", sizes)
        }

    def __str__(self) -> str:
        """A line with the counts of the corpora in an epoch, for people."""
        shares = describe_shares(self.names, self.counts, self.weights)
        return f"an epoch has {sum(self.counts):,} {self.noun}: {shares}"


def next_corpus(weights: Sequence[float], taken: Sequence[int]) -> int:
    """Returns which corpus gives the next example: the one that is furthest behind its share.

    So the examples of every corpus are its share of all that were taken, up to a few.

    Args:
        weights: the weights; a corpus of weight 0 is never next if another has more.
        taken: how many examples each corpus has given.
    """
    total, number = sum(weights), sum(taken) + 1
    behind = [
        weight / total * number - count if weight else -math.inf for weight, count in zip(weights, taken, strict=True)
    ]
    return behind.index(max(behind))


def corpora_in_results(
    names: Sequence[str],
    weights: Sequence[float] | None,
    counts: Sequence[int],
    counted: str,
    more: Sequence[dict[str, int]] | None = None,
) -> list[dict[str, Any]]:
    """Returns the entries of `train_corpora` in `all_results.json`.

    Args:
        names, weights: the corpora's; None as weights leaves them out.
        counts: the numbers of examples that were read, of which the shares are computed.
        counted: the name of such a number.
        more: further entries of each corpus.
    """
    total = max(sum(counts), 1)
    return [
        {"name": name}
        | ({} if weights is None else {"weight": weights[corpus]})
        | (more[corpus] if more else {})
        | {counted: count, "share": round(count / total, 6)}
        for corpus, (name, count) in enumerate(zip(names, counts, strict=True))
    ]


def describe_shares(names: Sequence[str], counts: Sequence[float], weights: Sequence[float] | None = None) -> str:
    """Returns the corpora with their counts and shares in per cent, for people."""
    total = max(sum(counts), 1)
    return ", ".join(
        f"{name} {count:,} ({100 * count / total:.1f} %"
        + ("" if weights is None else f", weight {weights[corpus]:g}")
        + ")"
        for corpus, (name, count) in enumerate(zip(names, counts, strict=True))
    )


def sample_of_corpora(corpora: Sequence[Dataset], weights: Sequence[float] | None, number: int) -> Iterator[Any]:
    """Iterates over some rows of corpora, to learn a vocabulary from.

    Args:
        corpora: the corpora.
        weights: their weights; None for rows in the corpora's own proportions.
        number: the maximum number of rows. Each corpus gives its first ones, in its share of an epoch, at most all.
    """
    read = [len(corpus) * weight for corpus, weight in zip(corpora, weights or [1.0] * len(corpora), strict=True)]
    for corpus, rows in zip(corpora, read, strict=True):
        yield from itertools.islice(corpus, math.ceil(number * rows / max(1e-9, sum(read))))
