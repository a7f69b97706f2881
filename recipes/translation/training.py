"""Trains a translator: data, model, training, evaluation, sharing."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, IterableDataset, disable_progress_bars
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.batching import LengthBucketBatches, StreamBatches, batches_for_evaluation
from papers_to_gpt.engine.evaluation import evaluate_loss, map_across_processes, rehearse_evaluation
from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_TOKENS, keep_compiled_code
from papers_to_gpt.engine.output_folder import prepare_output_dir
from papers_to_gpt.engine.reporting import write_results, write_run_record
from papers_to_gpt.engine.training import TrainingLoop, checkpoint_to_resume, make_accelerator
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.sharing import open_repository, push_at_end, push_of_checkpoints
from papers_to_gpt.settings.translation import DataSettings, ModelChoice, TokenizerSettings, TranslationTraining
from seq2seq_scratch import TRANSLATION_CONFIGS
from seq2seq_scratch.data.batches import collate, tokenize_parallel
from seq2seq_scratch.data.bpe_dropout import RandomlySegmented, RandomSegmentation
from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.data.metrics import SHOWN_SCORES, TranslationMetric
from seq2seq_scratch.tokenization import load_tokenizers, save_tokenizers, train_tokenizer
from seq2seq_scratch.translation import translate


def run(settings: tuple[Any, ...]) -> None:
    """Runs a training from data to sharing.

    Args:
        settings: from `papers_to_gpt.settings.translation.parse`.

    Raises:
        ValueError: for settings that make no model, data that cannot be read, and what the training loop refuses.
    """
    choice, model_settings, tokenizer_settings, data, decoding, optimization, training, hub = settings
    make_config(choice, model_settings)  # before data loads
    keep_compiled_code(FOR_BATCHES_OF_TOKENS)
    accelerator = make_accelerator(training)
    repository = open_repository(accelerator, hub, training)
    output_dir = prepare_output_dir(accelerator, training, settings)
    started = time.perf_counter()
    say = accelerator.print
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    set_seed(training.seed)

    # Data
    with accelerator.main_process_first():
        pairs = load_parallel_data(**{name: getattr(data, name) for name in LOADING_SETTINGS}, seed=training.seed)
        for split in ("train", "validation"):
            if split not in pairs:
                raise ValueError(f"The data has no split {split!r}, only {', '.join(pairs)}. Set {split}_file.")
        # Learning a vocabulary breaks ties differently each time: it is learned once, by one process, and loaded.
        checkpoint = checkpoint_to_resume(training)
        if checkpoint is None and accelerator.is_main_process:
            save_tokenizers(output_dir, *make_tokenizers(pairs["train"], tokenizer_settings))
        source_tokenizer, target_tokenizer = load_tokenizers(checkpoint or output_dir)
        tokenized, reports = {}, {}
        for split, part in pairs.items():
            tokenized[split], reports[split] = tokenize_parallel(
                part,
                source_tokenizer,
                target_tokenizer,
                max_source_length=data.max_source_length,
                max_target_length=data.max_target_length,
                drop_long=split == "train",
            )
    for split, report in reports.items():
        if not (split == "train" and data.streaming):
            say(f"{split}: {report}")

    # Model
    config = make_config(choice, model_settings, source_tokenizer, target_tokenizer)
    if getattr(config, "position_embedding_type", None) == "learned":  # nothing longer has an embedding
        source_tokenizer.model_max_length = target_tokenizer.model_max_length = config.max_position_embeddings
    model = AutoModelForSeq2SeqLM.from_config(config)
    model.generation_config.update(max_new_tokens=decoding.max_new_tokens, num_beams=decoding.num_beams)
    if decoding.num_beams > 1:
        early_stopping = {"never": "never", "false": False, "true": True}[decoding.early_stopping]
        model.generation_config.update(length_penalty=decoding.length_penalty, early_stopping=early_stopping)
    say(f"{choice.model_type} with {model.num_parameters():,} parameters, vocabulary {len(target_tokenizer):,}")
    if accelerator.is_main_process:
        write_run_record(output_dir, accelerator, settings, parameters=model.num_parameters())

    # Training
    def save_model(folder: Path) -> None:
        model.save_pretrained(folder)
        save_tokenizers(folder, source_tokenizer, target_tokenizer)

    decode = partial(decode_sentences, accelerator, source_tokenizer, target_tokenizer, data)
    metric = TranslationMetric(target_language=data.target_language)
    run_evaluation = partial(
        evaluate,
        accelerator=accelerator,
        examples=tokenized["validation"],
        decode=partial(decode, num_beams=decoding.eval_num_beams),
        texts=pairs["validation"],
        metric=metric,
        collate_batch=partial(collate, pad_token_id=source_tokenizer.pad_token_id),
        max_tokens_per_batch=data.max_tokens_per_batch,
    )
    loop = TrainingLoop(
        accelerator,
        model,
        training_batches(
            tokenized["train"],
            (source_tokenizer, target_tokenizer),
            tokenizer_settings.bpe_dropout,
            data,
            training,
            accelerator,
        ),
        training,
        optimization,
        evaluate=run_evaluation,
        save_model=save_model,
        after_save=push_of_checkpoints(repository, hub),
        loss_arguments={"smoothing": training.label_smoothing_factor, "r_drop_weight": training.r_drop_weight},
    )
    rehearse_evaluation(model, partial(run_evaluation, limit=1), training.metric_for_best_model)
    search = {"num_beams": decoding.num_beams, "length_penalty": decoding.length_penalty}
    rehearse_evaluation(model, partial(run_evaluation, decode=partial(decode, **search), limit=1))
    results = loop.train()

    # Evaluation
    model.eval()
    final = loop.scores(model)
    results |= {f"eval_{name}": value for name, value in final.items()}
    for split in [name for name in pairs if name.startswith("test")]:
        begin = time.perf_counter()
        texts = pairs[split]
        hypotheses = decode(model, texts["source"], **search)
        scores = metric.compute(predictions=hypotheses, references=texts["target"], sources=texts["source"])
        results |= {f"{split}_{name}": value for name, value in scores.items()}
        results[f"{split}_decoding_seconds"] = round(time.perf_counter() - begin, 1)
        if accelerator.is_main_process:
            (output_dir / f"{split}_hypotheses.txt").write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
        say(f"{split}: " + "  ".join(f"{name} {scores[name]:.2f}" for name in SHOWN_SCORES))
    results["wall_seconds"] = round(time.perf_counter() - started, 1)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        write_card(output_dir)
    say(
        HOW_TO_USE.format(
            folder=str(output_dir), sentence=pairs["validation"][0]["source"], seconds=results["wall_seconds"]
        )
    )
    push_at_end(repository, output_dir)


LOADING_SETTINGS = (
    "dataset_name dataset_config_name dataset_revision streaming train_file validation_file test_file "
    "source_language target_language source_column target_column max_train_samples validation_size"
).split()


HOW_TO_USE = """
Done after {seconds:.0f} s. The model is in {folder}. To use it:

from seq2seq_scratch.translation import load_translator, translate
translator = load_translator({folder!r})
print(translate(*translator, [{sentence!r}])[0][0].text)
"""


def make_tokenizers(
    train: Dataset | IterableDataset, settings: TokenizerSettings
) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Source and target tokenizers, the same object when the vocabulary is shared."""
    if settings.tokenizer_name:
        tokenizers = load_tokenizers(settings.tokenizer_name)
        for tokenizer in tokenizers:
            check_tokenizer(tokenizer, settings.tokenizer_name)
        return tokenizers
    sample = list(train.take(settings.tokenizer_samples))
    sources, targets = ([pair[side] for pair in sample] for side in ("source", "target"))
    make = partial(train_tokenizer, kind=settings.tokenizer_type, lowercase=settings.lowercase)
    if settings.share_vocabulary:
        tokenizer = make(sources + targets, vocab_size=settings.vocab_size)
        return tokenizer, tokenizer
    return (
        make(sources, vocab_size=settings.vocab_size),
        make(targets, vocab_size=settings.decoder_vocab_size or settings.vocab_size),
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Raises ValueError for a tokenizer that does not mark where a sentence ends, or has no padding or start."""
    missing = [kind for kind in ("pad", "bos", "eos") if getattr(tokenizer, f"{kind}_token_id") is None]
    if missing:
        raise ValueError(f"tokenizer_name {name}: it has no {' and no '.join(f'{kind}_token' for kind in missing)}.")
    if tokenizer("text").input_ids[-1:] != [tokenizer.eos_token_id]:
        raise ValueError(
            f"tokenizer_name {name}: it adds no {tokenizer.eos_token} behind a text, without which no translation "
            "ends. Give it a template that does, or train one (leave tokenizer_name out)."
        )


def make_config(
    choice: ModelChoice,
    model_settings: Any,
    source_tokenizer: PreTrainedTokenizerFast | None = None,
    target_tokenizer: PreTrainedTokenizerFast | None = None,
) -> PreTrainedConfig:
    """The model's configuration; without tokenizers, one to see whether the settings make a model at all.

    Raises:
        ValueError: if they do not.
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


def lengths_of(example: Any) -> np.ndarray:
    """(examples, 2) or (2,) source and target tokens."""
    return np.array([example["source_length"], example["target_length"]]).T


def training_batches(
    examples: Any,
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast],
    bpe_dropout: float,
    data: DataSettings,
    training: TranslationTraining,
    accelerator: Accelerator,
) -> LengthBucketBatches | StreamBatches:
    """This process's batches, from an indexed data set or a stream."""
    common = {
        "collate": partial(
            collate, pad_token_id=tokenizers[0].pad_token_id, copies=2 if training.r_drop_weight else 1
        ),
        "max_tokens_per_batch": data.max_tokens_per_batch,
        "seed": training.seed,
        "process_index": accelerator.process_index,
        "num_processes": accelerator.num_processes,
    }
    if data.streaming:
        return StreamBatches(examples, lengths_of, **common)
    if bpe_dropout:
        source_tokenizer, target_tokenizer = tokenizers
        source = target = RandomSegmentation(source_tokenizer, bpe_dropout, training.seed)
        if target_tokenizer is not source_tokenizer:
            target = RandomSegmentation(target_tokenizer, bpe_dropout, training.seed)
        columns = RandomlySegmented(examples, source, target, training.seed)
        lengths = columns.lengths
    else:
        columns, lengths = examples.select_columns(["input_ids", "labels"]), lengths_of(examples[:])
    return LengthBucketBatches(columns, lengths, num_workers=training.dataloader_num_workers, **common)


def decode_sentences(
    accelerator: Accelerator,
    source_tokenizer: PreTrainedTokenizerFast,
    target_tokenizer: PreTrainedTokenizerFast,
    data: DataSettings,
    model: PreTrainedModel,
    sentences: list[str],
    **generate_arguments: Any,
) -> list[str]:
    """Best translations of a list of sentences, shared out over the processes."""

    def decode(share: list[str]) -> list[str]:
        # One autocast region around the whole search: each weight is cast once, not once a step.
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
    limit: int | None = None,
) -> dict[str, float]:
    """Loss, perplexity and the scores of decoded translations on the validation split.

    Args:
        limit: only so many pairs, those with the longest sources, are evaluated and translated to a few tokens each,
            as a rehearsal.
    """
    if len(examples) == 0:
        raise ValueError("The validation split has no pair. Set validation_file, or validation_size above 0.")
    if limit is not None:
        longest = np.argsort(lengths_of(examples[:])[:, 0], kind="stable")[-limit:]
        examples, texts = examples.select(longest), texts.select(longest)
        # A metric of its own: the true one says what is odd about references once, and about all of them.
        decode, metric = partial(decode, max_new_tokens=2), TranslationMetric(target_language=metric.target_language)
    batches = batches_for_evaluation(
        examples.select_columns(["input_ids", "labels"]),
        lengths_of(examples[:]),
        collate_batch,
        max_tokens_per_batch=max_tokens_per_batch,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    scores = evaluate_loss(accelerator, model, batches)
    hypotheses = decode(model, texts["source"])
    decoded = metric.compute(predictions=hypotheses, references=texts["target"])
    return scores | {name: decoded[name] for name in SHOWN_SCORES}
