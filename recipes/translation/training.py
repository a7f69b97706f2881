"""Trains a translator: data, model, training, evaluation, sharing."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import disable_progress_bars
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.data_fingerprint import Fingerprint, fingerprint_files, fingerprint_rows
from papers_to_gpt.engine.durable_files import files_written_aside
from papers_to_gpt.engine.evaluation import rehearse_evaluation
from papers_to_gpt.engine.expectations import Outcome, compare_with_expected, say_expected
from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_TOKENS, keep_compiled_code
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.output_folder import RunStart, finish_run, plan_run
from papers_to_gpt.engine.process_watch import stops_together
from papers_to_gpt.engine.reporting import replace_log_entry, write_results, write_run_record
from papers_to_gpt.engine.run_length import describe_length
from papers_to_gpt.engine.run_lock import lock_output_dir
from papers_to_gpt.engine.starting_model import FILES_OF_START, base_model_entry, describe_frozen
from papers_to_gpt.engine.training import TrainingLoop
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.sharing import open_repository, push_at_end, push_of_checkpoints
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.corpora import weights_of
from papers_to_gpt.settings.starting import StartingModelSettings
from papers_to_gpt.settings.translation import DataSettings, TokenizerSettings
from papers_to_gpt.translation.evaluation import decode_sentences, evaluate, is_decoded, score_test_sets
from papers_to_gpt.translation.length_penalty import tune_length_penalty
from papers_to_gpt.translation.model_to_train import load_starting_model, make_config, prepare_model
from papers_to_gpt.translation.tracking import SampleTracker
from papers_to_gpt.translation.training_data import (
    TranslationData,
    load_splits,
    make_batches,
    make_tokenizers,
    tokenize_data,
)
from seq2seq_scratch.data.batches import collate
from seq2seq_scratch.data.metrics import TranslationMetric
from seq2seq_scratch.tokenization import load_tokenizers, save_tokenizers


@stops_together
def run(settings: tuple[Any, ...]) -> None:
    """Trains, evaluates and shares a translator.

    Args:
        settings: from `papers_to_gpt.settings.translation.parse`.

    Raises:
        ValueError: if the settings make no model, the data cannot be read, or training fails (see `TrainingLoop`).
    """
    choice, model_settings, starting, tokenizer, data, _, _, training, _ = settings
    make_config(choice, model_settings)  # wrong sizes fail here, before data loads
    keep_compiled_code(FOR_BATCHES_OF_TOKENS)
    accelerator = make_accelerator(training)
    with lock_output_dir(accelerator, training):
        start = plan_run(accelerator, training, settings, partial(fingerprint_data, data, tokenizer, starting))
        if start.finished is None:
            train(accelerator, settings, start)


def train(accelerator: Accelerator, settings: tuple[Any, ...], start: RunStart) -> None:
    """Trains a translator, from its beginning or from the checkpoint in the output folder.

    Args:
        accelerator: the accelerator of the run.
        settings: the settings that `run` takes.
        start: the state of the output folder.
    """
    _, _, starting, tokenizer_settings, data_settings, decoding, optimization, _, hub = settings
    training, output_dir = start.training, start.folder
    repository = open_repository(accelerator, hub, training)
    started = time.perf_counter()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    set_seed(training.seed)

    model, data = load_model_and_data(accelerator, settings, start)
    record_model(accelerator, settings, start, model, data)
    tokenizers = data.source_tokenizer, data.target_tokenizer

    # Training
    def save_model(folder: Path, state_dict: dict[str, Any] | None = None) -> None:
        model.save_pretrained(folder, state_dict=state_dict)
        save_tokenizers(folder, *tokenizers)

    decode = partial(decode_sentences, accelerator, *tokenizers, data_settings)
    metric = TranslationMetric(data_settings.target_language, decoding.bleu_tokenizer)
    tracker = SampleTracker(accelerator, *tokenizers)
    run_evaluation = partial(
        evaluate,
        accelerator=accelerator,
        examples=data.tokenized["validation"],
        decode=partial(decode, num_beams=decoding.eval_num_beams),
        texts=data.others["validation"],
        metric=metric,
        collate_batch=partial(collate, pad_token_id=tokenizers[0].pad_token_id, max_positions=data.max_positions),
        max_tokens_per_batch=data_settings.max_tokens_per_batch,
        track=lambda *translated: tracker.track(model, loop.progress.update, *translated),
    )
    trained = False

    def evaluate_now(model: PreTrainedModel) -> dict[str, float]:
        if trained or is_decoded(loop.progress.update, loop.eval_steps, loop.total_updates, decoding.decode_every):
            return run_evaluation(model)
        return run_evaluation(model, decode=None)

    batches, count_corpora = make_batches(accelerator, data, data_settings, tokenizer_settings, training)
    loop = TrainingLoop(
        accelerator,
        model,
        batches,
        training,
        optimization,
        evaluate=evaluate_now,
        save_model=save_model,
        after_save=push_of_checkpoints(repository, hub),
        loss_arguments={"smoothing": training.label_smoothing_factor, "r_drop_weight": training.r_drop_weight},
    )
    accelerator.print(describe_length(loop.total_updates, loop.eval_steps, training, optimization))
    rehearse_evaluation(model, partial(run_evaluation, limit=1), training.metric_for_best_model)
    search = {"num_beams": decoding.num_beams, "length_penalty": decoding.length_penalty}
    rehearse_evaluation(model, partial(run_evaluation, decode=partial(decode, **search), limit=1))
    results = loop.train() | count_corpora()
    trained = True

    # Evaluation
    model.eval()
    results |= {f"eval_{name}": value for name, value in loop.scores(model).items()}
    if decoding.tune_length_penalty:
        results["length_penalty_tuning"] = tuned = tune_length_penalty(
            partial(decode, model),
            data.others["validation"],
            metric,
            decoding,
            training.metric_for_best_model,
            accelerator.print,
        )
        search["length_penalty"] = tuned["length_penalty"]
        save_length_penalty(accelerator, model, tuned, output_dir, loop.progress.update)
    results |= score_test_sets(accelerator, partial(decode, model, **search), data.others, metric, output_dir)
    results["wall_seconds"] = round(time.perf_counter() - started + loop.earlier_seconds, 1)
    data_read = partial(fingerprint_rows, data.corpora | data.others)
    results |= compare_with_expected(start, [Outcome(results, [results], data_read)], starting.init_from)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        write_card(output_dir, translator=(model, *tokenizers))
        finish_run(output_dir, loop.progress, loop.total_updates)
    say_expected(results, accelerator.print)
    accelerator.print(
        HOW_TO_USE.format(
            folder=str(output_dir),
            translate=command("translate", "--model_name_or_path", output_dir),
            sentence=data.others["validation"][0]["source"],
            seconds=results["wall_seconds"],
        )
    )
    push_at_end(repository, output_dir)


def load_model_and_data(
    accelerator: Accelerator, settings: tuple[Any, ...], start: RunStart
) -> tuple[PreTrainedModel, TranslationData]:
    """Loads the data and makes the model. A new run writes its tokenizers to the output folder.

    Raises:
        ValueError: if the data cannot be read, or the settings make no model.
    """
    _, model_settings, starting, tokenizer_settings, data_settings, *_ = settings
    model, tokenizers = None, None
    with accelerator.main_process_first():
        if starting.init_from is not None and start.checkpoint is None:
            model, *tokenizers = load_starting_model(starting, model_settings)
        splits = load_splits(data_settings, start.training.seed)
        if data_settings.dataset_name is not None:
            start.check_loaded("dataset_name", splits)
        corpora = splits.pop("train")
        corpora = corpora if isinstance(corpora, list) else [corpora]
        # Training a tokenizer is not deterministic (ties are broken at random): one process trains it, all load it.
        if start.checkpoint is None and accelerator.is_main_process:
            if tokenizers is None:
                weights = weights_of(data_settings)
                tokenizers = make_tokenizers(corpora, tokenizer_settings, weights, data_settings.skip_broken_shards)
            start.begin()
            save_tokenizers(start.folder, *tokenizers)
        tokenizers = load_tokenizers(start.checkpoint or start.folder)
        # An evaluation translates every pair, but a model with learned positions cannot predict further tokens.
        is_learned = getattr(model_settings, "position_embedding_type", None) == "learned"
        positions = model_settings.max_position_embeddings if is_learned else None
        data = tokenize_data(corpora, splits, *tokenizers, data_settings, positions)
    return prepare_model(model, start.checkpoint, settings, *tokenizers), data


def record_model(
    accelerator: Accelerator,
    settings: tuple[Any, ...],
    start: RunStart,
    model: PreTrainedModel,
    data: TranslationData,
) -> None:
    """Prints what the data and the model are, and writes the record of the run."""
    choice, _, starting, *_ = settings
    if accelerator.is_main_process:
        for line in data.describe():
            accelerator.print(line)
    size = f"{model.num_parameters():,} parameters{describe_frozen(model, starting.freeze)}"
    accelerator.print(f"{choice.model_type} with {size}, vocabulary {len(data.target_tokenizer):,}")
    if accelerator.is_main_process:
        entries = start.record() | base_model_entry(start.folder, starting)
        write_run_record(start.folder, accelerator, settings, parameters=model.num_parameters(), **entries)


def save_length_penalty(
    accelerator: Accelerator, model: PreTrainedModel, tuned: Mapping[str, Any], output_dir: Path, update: int
) -> None:
    """Saves the length penalty that was chosen, with the model's settings of generation and in the log."""
    model.generation_config.update(length_penalty=tuned["length_penalty"])
    if accelerator.is_main_process:
        with files_written_aside(output_dir) as folder:
            model.generation_config.save_pretrained(folder)
        replace_log_entry(output_dir, update, "tuning", tuned)


def fingerprint_data(
    data: DataSettings, tokenizer: TokenizerSettings, starting: StartingModelSettings
) -> dict[str, Fingerprint | None]:
    """Returns the fingerprints of the files that the settings of the data, tokenizer and starting model name."""
    languages = (data.source_language, data.target_language)
    names = ("train_file", "validation_file", "test_file", "dataset_name")
    files = {name: fingerprint_files(getattr(data, name), endings=languages) for name in names}
    files["init_from"] = fingerprint_files(starting.init_from, within=FILES_OF_START)
    files["add_tokens"] = fingerprint_files(starting.add_tokens)
    tokenizers = ("tokenizer.json", "target_tokenizer/tokenizer.json")
    return files | {"tokenizer_name": fingerprint_files(tokenizer.tokenizer_name, within=tokenizers)}


HOW_TO_USE = """
Done after {seconds:.0f} s. The model is in {folder}. To translate lines that you type, or a file with < FILE:

{translate}

To use it in Python:

from transformers import pipeline
translator = pipeline("translation", model={folder!r}, trust_remote_code=True)
print(translator([{sentence!r}]))
"""
