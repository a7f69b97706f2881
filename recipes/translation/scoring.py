"""Translates test sets with a trained model and scores the translations."""

import json
import math
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset

from papers_to_gpt.engine.durable_files import make_folder
from papers_to_gpt.settings.decoding import DecodingSettings, ScoringSettings, TranslationSettings
from papers_to_gpt.settings.wording import counted
from papers_to_gpt.translation.comparison import compare
from papers_to_gpt.translation.decoding import load_model, make_translator
from papers_to_gpt.translation.rescoring import rescore
from papers_to_gpt.translation.score_files import write_hypotheses, write_scores
from papers_to_gpt.translation.scored_splits import load_test_sets, references_of
from seq2seq_scratch.data.forced_scores import LARGEST_FORCED_BATCH, ForcedScore, score_translations
from seq2seq_scratch.data.metrics import TranslationMetric
from seq2seq_scratch.data.text_lines import open_output, read_lines


def run(settings: ScoringSettings) -> None:
    """Scores every split with every number of beams, and writes the hypotheses and scores of each.

    Settings may ask for something else in its place: a comparison, a choice from n-best lists, or log-probabilities.
    """
    if settings.compare:
        compare(settings)
        return
    output_dir = Path(settings.output_dir or settings.model_name_or_path[0])
    if not settings.output_dir and not output_dir.is_dir():
        raise ValueError(
            "output_dir is not set, and the model is not in a local folder. Name a folder for the scores."
        )
    if settings.source_file:
        sources = read_lines(settings.source_file)
        make_folder(output_dir)
        rescore(settings, settings.split[0], sources, None, output_dir)
        return
    splits = load_test_sets(settings)
    make_folder(output_dir)
    if settings.rescore:
        ((name, texts),) = splits.items()
        rescore(settings, name, texts["source"][:], references_of(texts), output_dir)
        return
    if settings.force_decode:
        write_forced_scores(settings, splits, output_dir)
        return
    metric = TranslationMetric(settings.target_language, settings.bleu_tokenizer)
    of_model_and_search = {each.name: getattr(settings, each.name) for each in fields(DecodingSettings)}
    decoding = TranslationSettings(**of_model_and_search | {"length_penalty": None})  # set below, with beams alone
    translate_lines = make_translator(decoding, *load_model(decoding))
    for num_beams in settings.num_beams:
        search = {"num_beams": num_beams}
        if num_beams > 1 and settings.length_penalty is not None:
            search["length_penalty"] = settings.length_penalty
        for name, texts in splits.items():
            started = time.perf_counter()
            hypotheses = [best.text for best, *_ in translate_lines(texts["source"], **search)]
            seconds = time.perf_counter() - started
            scores = metric.compute(predictions=hypotheses, references=references_of(texts), sources=texts["source"])
            scores |= {"num_beams": num_beams, "decoding_seconds": round(seconds, 2)}
            stem = f"{name}_beam{num_beams}"
            write_hypotheses(output_dir, stem, hypotheses)
            shown = write_scores(output_dir, stem, scores)
            print(f"{name}, beam {num_beams}: {shown}  {seconds:.1f} s")
    print(f"{scores['sacrebleu_signature']}\nHypotheses and scores are in {output_dir}.")


def write_forced_scores(settings: ScoringSettings, splits: dict[str, Dataset], output_dir: Path) -> None:
    """Writes the log-probabilities of the references of every split, one line of JSON each."""
    model, source_tokenizer, target_tokenizer = load_model(settings)
    for name in splits:
        scores = score_translations(
            model,
            source_tokenizer,
            target_tokenizer,
            splits[name]["source"][:],
            splits[name]["target"][:],
            max_source_length=settings.max_source_length,
            max_tokens_per_batch=min(settings.max_tokens_per_batch, LARGEST_FORCED_BATCH),
        )
        path = output_dir / f"{name}_forced_scores.jsonl"
        with open_output(path) as output:
            for index, score in enumerate(scores):
                print(json.dumps(describe(index, score, settings.with_tokens), ensure_ascii=False), file=output)
        values = [value for score in scores if score is not None for value in score.log_probabilities]
        if not values:
            raise ValueError(f"split {name} has no pair with text on both sides.")
        total, empty = math.fsum(values), scores.count(None)
        without = f", {empty:,} without text and without score" if empty else ""
        print(
            f"{name}: {counted(len(scores), 'reference')}{without}: log_probability {total:.4f}  tokens "
            f"{len(values):,}  perplexity {math.exp(min(-total / len(values), 700)):.4f}. The scores are in {path}."
        )


def describe(index: int, score: ForcedScore | None, with_tokens: bool) -> dict[str, Any]:
    """Returns what is written of a reference; what one without score does not have is None."""
    values = score.log_probabilities if score else ()
    total = math.fsum(values)
    written: dict[str, Any] = {
        "index": index,
        "log_probability": round(total, 5) if score else None,
        "tokens": len(values),
        "perplexity": round(math.exp(min(-total / len(values), 700)), 5) if score else None,
    }
    if with_tokens:
        tokens = score.tokens if score else ()
        written["token_scores"] = [[token, round(value, 5)] for token, value in zip(tokens, values, strict=True)]
    return written
