"""Chooses from the n-best lists of another system by its scores and those of a model or an ensemble."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from papers_to_gpt.settings.decoding import RESCORE_WEIGHT, ScoringSettings
from papers_to_gpt.settings.wording import counted
from papers_to_gpt.translation.decoding import load_model
from papers_to_gpt.translation.score_files import write_hypotheses, write_scores
from seq2seq_scratch.data.forced_scores import LARGEST_FORCED_BATCH, score_translations
from seq2seq_scratch.data.metrics import TranslationMetric
from seq2seq_scratch.data.nbest_lists import Candidate, choose_candidates, read_nbest_list
from seq2seq_scratch.data.text_lines import open_output

# Candidates that are encoded and sorted by length at a time.
CANDIDATES_AT_A_TIME = 10_000


def rescore(
    settings: ScoringSettings, name: str, sources: Sequence[str], references: Sequence[Any] | None, output_dir: Path
) -> None:
    """Writes the scores of all candidates, and for each weight the chosen ones and, with references, their scores.

    A weight of 0, which chooses by the given scores alone, comes first, for comparison.

    Args:
        settings: name the list, the weights and the models.
        name: the beginning of the names of the files.
        sources: N sentences.
        references: N sentences, or N lists of sentences; None if there are none.
        output_dir: the folder for the files.
    """
    candidates = read_nbest_list(settings.rescore, sources)
    metric = TranslationMetric(settings.target_language, settings.bleu_tokenizer)
    model_scores = score_candidates(settings, sources, candidates)
    path = output_dir / f"{name}_candidates.tsv"
    with open_output(path) as output:
        print("id", "given_score", "model_score", "candidate", sep="\t", file=output)
        for each, score in zip(candidates, model_scores, strict=True):
            print(each.source, each.score, "" if score is None else round(score, 5), each.text, sep="\t", file=output)
    for weight in dict.fromkeys([0.0, *(settings.rescore_weight or [RESCORE_WEIGHT])]):
        hypotheses = choose_candidates(candidates, model_scores, weight, len(sources))
        stem = f"{name}_rescore{weight:g}"
        write_hypotheses(output_dir, stem, hypotheses)
        if references is not None:
            scores = metric.compute(predictions=hypotheses, references=references, sources=sources)
            shown = write_scores(output_dir, stem, scores | {"rescore_weight": weight, "candidates": len(candidates)})
            print(f"{name}, {f'rescore_weight {weight:g}' if weight else 'the given scores alone'}: {shown}")
    if references is not None:
        print(scores["sacrebleu_signature"])
    print(f"{counted(len(candidates), 'candidate')} of {counted(len(sources), 'source')}; their scores are in {path}.")


def score_candidates(
    settings: ScoringSettings, sources: Sequence[str], candidates: Sequence[Candidate]
) -> list[float | None]:
    """Returns the log-probability of each candidate, and None for one without text.

    Moses lists a sentence once for each of its derivations; it is scored once.
    """
    model, source_tokenizer, target_tokenizer = load_model(settings)
    pairs = list(dict.fromkeys((each.source, each.text) for each in candidates))
    scores: dict[tuple[int, str], float | None] = {}
    with tqdm(total=len(pairs), desc="candidates", disable=None) as progress:  # none if the output is no terminal
        for start in range(0, len(pairs), CANDIDATES_AT_A_TIME):
            group = pairs[start : start + CANDIDATES_AT_A_TIME]
            found = score_translations(
                model,
                source_tokenizer,
                target_tokenizer,
                [sources[index] for index, _ in group],
                [text for _, text in group],
                max_source_length=settings.max_source_length,
                max_tokens_per_batch=min(settings.max_tokens_per_batch, LARGEST_FORCED_BATCH),
            )
            totals = (None if score is None else math.fsum(score.log_probabilities) for score in found)
            scores |= dict(zip(group, totals, strict=True))
            progress.update(len(group))
    return [scores[each.source, each.text] for each in candidates]
