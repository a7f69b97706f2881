"""Scores of a translator that is trained: on the validation split and on the test sets."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from papers_to_gpt.engine.batching import batches_for_evaluation
from papers_to_gpt.engine.evaluation import evaluate_loss, map_across_processes
from papers_to_gpt.settings.translation import DataSettings
from papers_to_gpt.translation.scored_splits import references_of
from papers_to_gpt.translation.training_data import lengths_of
from seq2seq_scratch.data.metrics import SHOWN_SCORES, TranslationMetric
from seq2seq_scratch.translation import translate


def decode_sentences(
    accelerator: Accelerator,
    source_tokenizer: PreTrainedTokenizerFast,
    target_tokenizer: PreTrainedTokenizerFast,
    data: DataSettings,
    model: PreTrainedModel,
    sentences: list[str],
    **generate_arguments: Any,
) -> list[str]:
    """Returns the best translation of each sentence. The processes share the work."""

    def decode(share: list[str]) -> list[str]:
        # One autocast region around the whole search casts each weight once instead of once per step.
        with accelerator.autocast():
            hypotheses = translate(
                model,
                source_tokenizer,
                target_tokenizer,
                share,
                max_source_length=data.max_source_length,
                **generate_arguments,
            )
        return [best.text for best, *_ in hypotheses]

    return map_across_processes(accelerator, decode, list(sentences))


def is_decoded(update: int, eval_steps: int, total_updates: int, decode_every: int) -> bool:
    """Returns whether the evaluation after an update translates: one in decode_every, and the last.

    One that is not due by eval_steps is the last of a run whose time is over, or takes the place of a lost one.
    """
    number, rest = divmod(update, eval_steps)
    return bool(rest) or number % decode_every == 0 or update >= total_updates


def evaluate(
    model: PreTrainedModel,
    *,
    accelerator: Accelerator,
    examples: Dataset,
    decode: Any,
    texts: Dataset,
    metric: TranslationMetric,
    collate_batch: Any,
    max_tokens_per_batch: int,
    track: Callable[[Sequence[str], Sequence[str], Sequence[str]], None],
    limit: int | None = None,
) -> dict[str, float]:
    """Returns loss, perplexity and the scores of decoded translations on the validation split.

    Args:
        track: takes the sources, translations and references, for the trackers.
        decode: function from the model and sentences to translations; None leaves out these scores.
        limit: number of pairs to evaluate for a rehearsal, those with the longest sources, with translations of a few
            tokens. None reads all.
    """
    if len(examples) == 0:
        raise ValueError("The validation split has no pair. Set validation_file, or validation_size above 0.")
    if limit is not None:
        longest = np.argsort(lengths_of(examples[:])[:, 0], kind="stable")[-limit:]
        examples, texts = examples.select(longest), texts.select(longest)
        # The metric of the run warns once about odd references, and must see all of them.
        decode = partial(decode, max_new_tokens=2)
        metric = TranslationMetric(metric.target_language, metric.bleu_tokenizer)
    batches = batches_for_evaluation(
        examples.select_columns(["input_ids", "labels"]),
        lengths_of(examples[:]),
        collate_batch,
        max_tokens_per_batch=max_tokens_per_batch,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    scores = evaluate_loss(accelerator, model, batches)
    if decode is None:
        return scores
    hypotheses = decode(model, texts["source"])
    decoded = metric.compute(predictions=hypotheses, references=texts["target"])
    if limit is None:
        track(texts["source"][:], hypotheses, texts["target"][:])
    return scores | {name: decoded[name] for name in SHOWN_SCORES}


def score_test_sets(
    accelerator: Accelerator,
    decode: Callable[[Sequence[str]], list[str]],
    splits: Mapping[str, Dataset],
    metric: TranslationMetric,
    output_dir: Path,
) -> dict[str, float]:
    """Translates every test set, writes the translations to the output folder and prints the scores.

    Args:
        accelerator: the accelerator of the run.
        decode: function from sentences to their translations.
        splits: validation and test sets by name.
        metric: computes the scores.
        output_dir: the output folder.

    Returns:
        The scores of each test set under names such as `test_sacrebleu`, and the seconds that it took.
    """
    results = {}
    for split in [name for name in splits if name.startswith("test")]:
        begin = time.perf_counter()
        texts = splits[split]
        hypotheses = decode(texts["source"])
        scores = metric.compute(predictions=hypotheses, references=references_of(texts), sources=texts["source"])
        results |= {f"{split}_{name}": value for name, value in scores.items()}
        results[f"{split}_decoding_seconds"] = round(time.perf_counter() - begin, 1)
        if accelerator.is_main_process:
            (output_dir / f"{split}_hypotheses.txt").write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
        accelerator.print(f"{split}: " + "  ".join(f"{name} {scores[name]:.2f}" for name in SHOWN_SCORES))
    return results
