"""Trains a translator: data, model, training, evaluation, sharing."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, disable_progress_bars
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.batching import batches_for_evaluation
from papers_to_gpt.engine.data_fingerprint import Fingerprint, fingerprint_files, fingerprint_rows
from papers_to_gpt.engine.durable_files import files_written_aside
from papers_to_gpt.engine.evaluation import evaluate_loss, map_across_processes, rehearse_evaluation
from papers_to_gpt.engine.expectations import Outcome, compare_with_expected, say_expected
from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_TOKENS, keep_compiled_code
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.mixture import Mixture
from papers_to_gpt.engine.model_folder import TRANSLATOR, check_folder
from papers_to_gpt.engine.output_folder import RunStart, finish_run, plan_run
from papers_to_gpt.engine.process_watch import stops_together
from papers_to_gpt.engine.reporting import replace_log_entry, write_results, write_run_record
from papers_to_gpt.engine.run_length import describe_length
from papers_to_gpt.engine.run_lock import lock_output_dir
from papers_to_gpt.engine.starting_model import (
    FILES_OF_START,
    add_words,
    base_model_entry,
    configuration_changes,
    configuration_of_resumed,
    describe_frozen,
    freeze,
    grow_model,
    read_words,
)
from papers_to_gpt.engine.training import TrainingLoop
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.sharing import open_repository, push_at_end, push_of_checkpoints
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.corpora import weights_of
from papers_to_gpt.settings.starting import StartingModelSettings
from papers_to_gpt.settings.translation import DataSettings, ModelChoice, TokenizerSettings
from papers_to_gpt.translation.length_penalty import tune_length_penalty
from papers_to_gpt.translation.scored_splits import references_of
from papers_to_gpt.translation.tracking import SampleTracker
from papers_to_gpt.translation.training_data import (
    count_training_pairs,
    lengths_of,
    load_splits,
    make_tokenizers,
    names_of_corpora,
    tokenize_splits,
    training_batches,
)
from seq2seq_scratch import TRANSLATION_CONFIGS
from seq2seq_scratch.data.batches import collate
from seq2seq_scratch.data.metrics import SHOWN_SCORES, TranslationMetric
from seq2seq_scratch.data.text_lines import numbered_lines
from seq2seq_scratch.tokenization import load_tokenizers, save_tokenizers
from seq2seq_scratch.translation import load_translator, translate


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
    choice, model_settings, starting, tokenizer_settings, data, decoding, optimization, _, hub = settings
    training, output_dir = start.training, start.folder
    repository = open_repository(accelerator, hub, training)
    started = time.perf_counter()
    say = accelerator.print
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    set_seed(training.seed)

    # Data
    checkpoint, model = start.checkpoint, None
    with accelerator.main_process_first():
        if starting.init_from is not None and checkpoint is None:
            model, *tokenizers = load_starting_model(starting, model_settings)
        pairs = load_splits(data, training.seed)
        if data.dataset_name is not None:
            start.check_loaded("dataset_name", pairs)
        corpora = pairs.pop("train")
        corpora = corpora if isinstance(corpora, list) else [corpora]
        names, weights = names_of_corpora(data), weights_of(data)
        # Training a tokenizer is not deterministic (ties are broken at random): one process trains it, all load it.
        if checkpoint is None and accelerator.is_main_process:
            if model is None:
                tokenizers = make_tokenizers(corpora, tokenizer_settings, weights, data.skip_broken_shards)
            start.begin()
            save_tokenizers(output_dir, *tokenizers)
        source_tokenizer, target_tokenizer = load_tokenizers(checkpoint or output_dir)
        labels = ["train"] if len(corpora) == 1 else [f"train, {name}" for name in names]
        training_pairs = dict(zip(labels, corpora, strict=True))
        # An evaluation translates every pair, but a model with learned positions cannot predict further tokens.
        is_learned = getattr(model_settings, "position_embedding_type", None) == "learned"
        positions = model_settings.max_position_embeddings if is_learned else None
        tokenized, reports = tokenize_splits(
            training_pairs, pairs, source_tokenizer, target_tokenizer, data, positions
        )
    seen = count_training_pairs(pairs, corpora) if accelerator.is_main_process else {}
    for split, report in reports.items():
        say(f"{split}: {report}" + (f"; {seen[split]:,} are training pairs too" if seen.get(split) else ""))

    # Model
    model = prepare_model(model, checkpoint, settings, source_tokenizer, target_tokenizer)
    size = f"{model.num_parameters():,} parameters{describe_frozen(model, starting.freeze)}"
    say(f"{choice.model_type} with {size}, vocabulary {len(target_tokenizer):,}")
    if accelerator.is_main_process:
        entries = start.record() | base_model_entry(output_dir, starting)
        write_run_record(output_dir, accelerator, settings, parameters=model.num_parameters(), **entries)

    # Training
    def save_model(folder: Path, state_dict: dict[str, Any] | None = None) -> None:
        model.save_pretrained(folder, state_dict=state_dict)
        save_tokenizers(folder, source_tokenizer, target_tokenizer)

    decode = partial(decode_sentences, accelerator, source_tokenizer, target_tokenizer, data)
    metric = TranslationMetric(data.target_language, decoding.bleu_tokenizer)
    tracker = SampleTracker(accelerator, source_tokenizer, target_tokenizer)
    run_evaluation = partial(
        evaluate,
        accelerator=accelerator,
        examples=tokenized["validation"],
        decode=partial(decode, num_beams=decoding.eval_num_beams),
        texts=pairs["validation"],
        metric=metric,
        collate_batch=partial(collate, pad_token_id=source_tokenizer.pad_token_id, max_positions=positions),
        max_tokens_per_batch=data.max_tokens_per_batch,
        track=lambda *translated: tracker.track(model, loop.progress.update, *translated),
    )
    mixture = None
    if not data.streaming:
        mixture = Mixture(names, [len(tokenized[label]) for label in labels], weights, training.seed, "pairs")
        if mixture.results():
            say(f"train: {mixture}")
    batches = training_batches(
        corpora if data.streaming else [tokenized[label] for label in labels],
        mixture,
        (source_tokenizer, target_tokenizer),
        tokenizer_settings.bpe_dropout,
        data,
        training,
        accelerator,
    )
    trained = False

    def evaluate_now(model: PreTrainedModel) -> dict[str, float]:
        if trained or is_decoded(loop.progress.update, loop.eval_steps, loop.total_updates, decoding.decode_every):
            return run_evaluation(model)
        return run_evaluation(model, decode=None)

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
    say(describe_length(loop.total_updates, loop.eval_steps, training, optimization))
    rehearse_evaluation(model, partial(run_evaluation, limit=1), training.metric_for_best_model)
    search = {"num_beams": decoding.num_beams, "length_penalty": decoding.length_penalty}
    rehearse_evaluation(model, partial(run_evaluation, decode=partial(decode, **search), limit=1))
    results = loop.train()
    trained = True
    results |= batches.results() if mixture is None else mixture.results()

    # Evaluation
    model.eval()
    final = loop.scores(model)
    results |= {f"eval_{name}": value for name, value in final.items()}
    if decoding.tune_length_penalty:
        tuned = tune_length_penalty(
            partial(decode, model), pairs["validation"], metric, decoding, training.metric_for_best_model, say
        )
        results["length_penalty_tuning"] = tuned
        search["length_penalty"] = tuned["length_penalty"]
        model.generation_config.update(length_penalty=tuned["length_penalty"])
        if accelerator.is_main_process:
            with files_written_aside(output_dir) as folder:
                model.generation_config.save_pretrained(folder)
            replace_log_entry(output_dir, loop.progress.update, "tuning", tuned)
    results |= score_test_sets(accelerator, partial(decode, model, **search), pairs, metric, output_dir)
    results["wall_seconds"] = round(time.perf_counter() - started + loop.earlier_seconds, 1)
    data_read = partial(fingerprint_rows, training_pairs | pairs)
    results |= compare_with_expected(start, [Outcome(results, [results], data_read)], starting.init_from)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        write_card(output_dir, translator=(model, source_tokenizer, target_tokenizer))
        finish_run(output_dir, loop.progress, loop.total_updates)
    say_expected(results, say)
    say(
        HOW_TO_USE.format(
            folder=str(output_dir),
            translate=command("translate", "--model_name_or_path", output_dir),
            sentence=pairs["validation"][0]["source"],
            seconds=results["wall_seconds"],
        )
    )
    push_at_end(repository, output_dir)


def load_starting_model(
    starting: StartingModelSettings, model_settings: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Returns the model that a run starts from and its tokenizers, with the entries of add_tokens on both sides.

    Raises:
        ValueError: if there is no such translator, or add_tokens cannot be added to its vocabulary.
    """
    check_folder(starting.init_from, kinds=(TRANSLATOR,))
    model, *tokenizers = load_translator(starting.init_from, starting.init_revision)
    words = read_words(starting.add_tokens, numbered_lines)
    is_shared = tokenizers[0] is tokenizers[1]
    source, of_source = add_words(tokenizers[0], words)
    target, of_target = (source, of_source) if is_shared else add_words(tokenizers[1], words)
    for word in of_source.known & of_target.known:
        raise ValueError(f"{words[word]}: {word!r} is in the model's vocabulary already. Remove the line.")
    changes = configuration_changes(model_settings)
    return grow_model(model, {"source": of_source, "target": of_target}, changes), source, target


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


def make_config(
    choice: ModelChoice,
    model_settings: Any,
    source_tokenizer: PreTrainedTokenizerFast | None = None,
    target_tokenizer: PreTrainedTokenizerFast | None = None,
) -> PreTrainedConfig:
    """Returns the model's configuration. Without tokenizers it only serves to check the settings.

    Raises:
        ValueError: if the settings make no model.
    """
    from_tokenizers = {}
    if source_tokenizer is not None and target_tokenizer is not None:
        from_tokenizers = {
            "vocab_size": len(source_tokenizer),
            "decoder_vocab_size": len(target_tokenizer),
            "pad_token_id": source_tokenizer.pad_token_id,
            "bos_token_id": target_tokenizer.bos_token_id,
            "eos_token_id": target_tokenizer.eos_token_id,
            "decoder_start_token_id": target_tokenizer.bos_token_id,
        }
        if hasattr(TRANSLATION_CONFIGS[choice.model_type], "share_vocabulary"):
            from_tokenizers["share_vocabulary"] = source_tokenizer is target_tokenizer
    try:
        return TRANSLATION_CONFIGS[choice.model_type](**vars(model_settings), **from_tokenizers)
    except StrictDataclassError as error:
        raise ValueError(f"{choice.model_type}: {error.__cause__ or error}.") from error


def prepare_model(
    model: PreTrainedModel | None,
    checkpoint: Path | None,
    settings: tuple[Any, ...],
    source_tokenizer: PreTrainedTokenizerFast,
    target_tokenizer: PreTrainedTokenizerFast,
) -> PreTrainedModel:
    """Returns the model to train, with the settings of its searches.

    Args:
        model: the model that the run starts from; None makes a new one, into which a resumed run loads its weights.
        checkpoint: the checkpoint that the run continues, or None.
        settings: the settings that `run` takes.
        source_tokenizer, target_tokenizer: give the sizes of the vocabularies. Their `model_max_length` is set to the
            number of positions if these are learned.
    """
    choice, model_settings, starting, _, _, decoding, *_ = settings
    if model is not None:
        config = model.config
    elif starting.init_from is not None:
        config = configuration_of_resumed(checkpoint, model_settings)
    else:
        config = make_config(choice, model_settings, source_tokenizer, target_tokenizer)
    if getattr(config, "position_embedding_type", None) == "learned":  # longer sources have no embeddings
        source_tokenizer.model_max_length = target_tokenizer.model_max_length = config.max_position_embeddings
    if model is None:
        model = AutoModelForSeq2SeqLM.from_config(config)
    freeze(model, starting.freeze or [])
    model.generation_config.update(max_new_tokens=decoding.max_new_tokens, num_beams=decoding.num_beams)
    if decoding.num_beams > 1:
        early_stopping = {"never": "never", "false": False, "true": True}[decoding.early_stopping]
        model.generation_config.update(length_penalty=decoding.length_penalty, early_stopping=early_stopping)
    return model


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
