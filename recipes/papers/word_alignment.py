"""IBM model 1 (Brown et al. 1993): word translations counted in parallel text, to compare an attention with."""

from collections.abc import Iterable, Sequence

import numpy as np

ITERATIONS = 5


class WordTranslations:
    """The probability of each target word given a source word, estimated by expectation maximization.

    A target word is a translation of one word of its sentence, each as likely as the others at the start. A row of the
    table is a source word, or none of them (the empty word).

    Args:
        sources, targets: N sentences and their translations, as lists of words. Words are compared in lower case.
        iterations: of expectation maximization.

    Raises:
        ValueError: there is no pair of sentences with words.
    """

    def __init__(
        self, sources: Sequence[Sequence[str]], targets: Sequence[Sequence[str]], iterations: int = ITERATIONS
    ):
        self._source_ids: dict[str | None, int] = {None: 0}
        self._target_ids: dict[str, int] = {}
        rows, columns, places, count = [], [], [], 0
        for source, target in zip(sources, targets, strict=True):
            source_ids = [0, *_number(source, self._source_ids)]
            for word in _number(target, self._target_ids):
                rows += source_ids
                columns += [word] * len(source_ids)
                places += [count] * len(source_ids)
                count += 1
        if not count:
            raise ValueError("There is no pair of sentences to count words in.")
        self._width = len(self._target_ids)
        # Each pair of words that occurs together has a number: T tokens times the words of their sources -> pairs.
        keys, pairs = np.unique(np.array(rows) * self._width + np.array(columns), return_inverse=True)
        of_source, token = keys // self._width, np.array(places)
        probabilities = np.full(len(keys), 1.0)
        for _ in range(iterations):
            shares = probabilities[pairs]
            shares /= np.bincount(token, shares)[token]
            counts = np.bincount(pairs, shares)
            probabilities = counts / np.bincount(of_source, counts)[of_source]
        self._probabilities = dict(zip(keys.tolist(), probabilities.tolist(), strict=True))

    def align(self, source: Sequence[str], target: Sequence[str]) -> np.ndarray:
        """Returns the probability that each target word translates each source word, (T, S).

        What is missing from 1 in a row belongs to the empty word. A target word that never occurred with any of the
        source words has a row of zeros.
        """
        table = np.array([[self._probability(word, other) for other in (None, *source)] for word in target])
        totals = table.sum(axis=1, keepdims=True)
        return np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)[:, 1:]

    def _probability(self, target: str, source: str | None) -> float:
        row = self._source_ids.get(None if source is None else source.lower())
        column = self._target_ids.get(target.lower())
        if row is None or column is None:
            return 0.0
        return self._probabilities.get(row * self._width + column, 0.0)


def _number(words: Iterable[str], numbers: dict) -> list[int]:
    return [numbers.setdefault(word.lower(), len(numbers)) for word in words]
