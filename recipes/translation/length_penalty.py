"""Chooses the length penalty of a trained translator on the validation split, never on a test set."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset

from papers_to_gpt.settings.translation import SCORES_WITHOUT_DECODING, DecodingSettings
from seq2seq_scratch.data.metrics import TranslationMetric


def tune_length_penalty(
    decode: Callable[..., list[str]],
    texts: Dataset,
    metric: TranslationMetric,
    decoding: DecodingSettings,
    best_by: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Translates the validation split with each candidate and chooses the one with the best score.

    A penalty decides which hypotheses the search ends with, so each candidate is a search of its own.

    Args:
        decode: function from sentences and the search's `num_beams` and `length_penalty` to translations.
        texts: the validation split, with columns `source` and `target`.
        metric: computes the scores.
        decoding: has the beams, the length penalty so far and the other candidates.
        best_by: the score that chooses; one that needs no translation stands for `sacrebleu`.
        say: prints a line for each candidate.

    Returns:
        What `all_results.json` records of the choice: `length_penalty`, `metric`, `num_beams`, the number of
        `sentences`, the `scores` by candidate and the `seconds` that it took. Of equally good candidates it is the
        penalty so far, or else the first.
    """
    started = time.perf_counter()
    name = "sacrebleu" if best_by in SCORES_WITHOUT_DECODING else best_by
    candidates: Sequence[float] = list(dict.fromkeys([decoding.length_penalty, *decoding.length_penalty_candidates]))
    scores = {}
    for candidate in candidates:
        hypotheses = decode(texts["source"], num_beams=decoding.num_beams, length_penalty=candidate)
        scores[candidate] = metric.compute(predictions=hypotheses, references=texts["target"])[name]
        say(f"validation with length_penalty {candidate:g}: {name} {scores[candidate]:.2f}")
    chosen = max(candidates, key=scores.__getitem__)
    say(f"length_penalty {chosen:g} is chosen on the validation split and saved with the model.")
    return {
        "length_penalty": chosen,
        "metric": name,
        "num_beams": decoding.num_beams,
        "sentences": len(texts),
        "scores": {f"{candidate:g}": score for candidate, score in scores.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }
