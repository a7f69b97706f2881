"""Pre-trains GPT-1 on contiguous text: vocabulary, blocks, training, evaluation, samples."""

import dataclasses
import itertools
import logging
import math
import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, IterableDataset, disable_progress_bars
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from gpt1_scratch.configuration_gpt1 import GPT1Config
from gpt1_scratch.data.visible_text import has_visible_text
from gpt1_scratch.modeling_gpt1 import GPT1ForCausalLM
from gpt1_scratch.pretraining.corpora import load_texts
from gpt1_scratch.pretraining.packing import PackedTexts, PartlyCutBlocks, pack_blocks, stream_blocks, tokenize_texts
from gpt1_scratch.tokenization import published_tokenizer, train_tokenizer
from papers_to_gpt.engine.batching import Batch, LengthBucketBatches, StreamBatches, batches_for_evaluation
from papers_to_gpt.engine.evaluation import evaluate_loss, rehearse_evaluation
from papers_to_gpt.engine.output_folder import prepare_output_dir
from papers_to_gpt.engine.reporting import measure_matrix_peak, write_results, write_run_record
from papers_to_gpt.engine.training import (
    TokenCounts,
    TrainingLoop,
    checkpoint_to_resume,
    make_accelerator,
)
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.sharing import open_repository, push_at_end, push_of_checkpoints
from papers_to_gpt.settings.pretraining import ModelSettings, SampleSettings, TextSettings, VocabularySettings
from papers_to_gpt.settings.training import TrainingSettings


def run(settings: tuple[Any, ...]) -> None:
    """Runs a pre-training from data to sharing.

    Args:
        settings: from `papers_to_gpt.settings.pretraining.parse`.

    Raises:
        ValueError: for settings that make no model, text that cannot be read, and what the training loop refuses.
    """
    model_settings, vocabulary, text, sampling, optimization, training, hub = settings
    make_config(model_settings)  # before data loads
    accelerator = make_accelerator(training)
    repository = open_repository(accelerator, hub, training)
    output_dir = prepare_output_dir(accelerator, training, settings)
    started = time.perf_counter()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    if accelerator.is_main_process:
        logging.getLogger("gpt1_scratch").setLevel(logging.INFO)
    set_seed(training.seed)

    # Data
    with accelerator.main_process_first():
        train_texts, validation_texts = load_corpus(text)
        # Learning a vocabulary breaks ties differently each time: it is learned once, by one process, and loaded.
        checkpoint = checkpoint_to_resume(training)
        if checkpoint is None and accelerator.is_main_process:
            make_tokenizer(train_texts, vocabulary).save_pretrained(output_dir)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint or output_dir, trust_remote_code=False)
        config = make_config(model_settings, tokenizer)
        tokenizer.model_max_length = config.max_position_embeddings
        block_size = text.block_size or config.max_position_embeddings
        if block_size > config.max_position_embeddings:
            raise ValueError(
                f"block_size is {block_size}, but max_position_embeddings is {config.max_position_embeddings}."
            )
        if sampling.num_samples and sampling.sample_prompt_tokens >= config.max_position_embeddings:
            raise ValueError(
                f"sample_prompt_tokens is {sampling.sample_prompt_tokens}; it must be below max_position_embeddings, "
                f"{config.max_position_embeddings}, or nothing can be added."
            )
        pack = partial(pack_split, tokenizer=tokenizer, block_size=block_size, text=text)
        packed = pack("validation", validation_texts)
        if text.streaming:
            blocks = stream_blocks(
                train_texts,
                tokenizer,
                block_size,
                separate_documents=text.separate_documents,
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
            )
        else:
            packed_train = pack("train", train_texts)
            blocks = packed_train.blocks
            report_corpus(accelerator, "train", packed_train)
        report_corpus(accelerator, "validation", packed)

    # Model
    model = GPT1ForCausalLM(config)
    accelerator.print(f"GPT-1 with {model.num_parameters():,} parameters, vocabulary {len(tokenizer):,}")
    if accelerator.is_main_process:
        write_run_record(output_dir, accelerator, settings, parameters=model.num_parameters())

    # Training
    def save_model(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    run_evaluation = partial(evaluate, accelerator=accelerator, packed=packed, text=text)
    continue_texts = partial(continuations, tokenizer=tokenizer, texts=validation_texts)
    peak = measure_matrix_peak(accelerator) * accelerator.num_processes
    flops_per_token = training_flops_per_token(model, block_size)
    loop = TrainingLoop(
        accelerator,
        model,
        training_batches(blocks, block_size, text, training, accelerator),
        training,
        optimization,
        evaluate=partial(
            run_evaluation,
            write_samples=lambda model: write_samples(continue_texts(model, sampling=sampling), output_dir),
        ),
        save_model=save_model,
        after_save=push_of_checkpoints(repository, hub),
        count_tokens=count_predicted_tokens,
        rates=lambda tokens_per_second: {
            "model_flops_utilization_percent": 100 * tokens_per_second * flops_per_token / peak
        },
    )
    few = dataclasses.replace(sampling, num_samples=min(1, sampling.num_samples), sample_new_tokens=1)
    rehearse_evaluation(
        model,
        partial(run_evaluation, write_samples=partial(continue_texts, sampling=few), limit=1),
        training.metric_for_best_model,
    )
    results = loop.train()

    # Evaluation
    final = loop.scores(model)
    results |= {f"eval_{name}": value for name, value in final.items()}
    results["wall_seconds"] = round(time.perf_counter() - started, 1)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        write_card(output_dir)
    accelerator.print(
        HOW_TO_USE.format(
            folder=output_dir, quoted=shlex.quote(str(output_dir)), seconds=results["wall_seconds"], **final
        )
    )
    push_at_end(repository, output_dir)


HOW_TO_USE = """
Done after {seconds:.0f} s: {bits_per_byte:.3f} bits per byte on text never seen. The model is in {folder}. To use it:

python recipes/generate_text.py --model_name_or_path {quoted} --prompt "Once upon a time"
"""


def load_corpus(text: TextSettings) -> tuple[Dataset | IterableDataset, Dataset]:
    """Rows of text to train and to validate on."""
    row = "line" if text.row_is_line else "document"
    load = partial(load_texts, text_column=text.text_column, row=row)
    if text.dataset_name is not None:
        load = partial(load, text.dataset_name, name=text.dataset_config_name, revision=text.dataset_revision)
        train = load(text.train_split, streaming=text.streaming)
        # The library stores all splits of a data set to give one, so the validation split is read from a stream too.
        # It cannot stream a slice.
        if text.streaming and "[" not in text.validation_split:
            return train, Dataset.from_list(list(load(text.validation_split, streaming=True)))
        return train, load(text.validation_split)
    return load(text.train_file, streaming=text.streaming), load(text.validation_file)


def make_tokenizer(train: Dataset | IterableDataset, settings: VocabularySettings) -> PreTrainedTokenizerFast:
    """The tokenizer named, or one learned from the training text."""
    if settings.tokenizer_name is not None:
        return AutoTokenizer.from_pretrained(settings.tokenizer_name, trust_remote_code=False)
    if settings.vocabulary_file is not None and settings.merges_file is not None:
        return published_tokenizer(settings.vocabulary_file, settings.merges_file)
    rows = train.take(settings.tokenizer_samples)
    return train_tokenizer((row["text"] or "" for row in rows), merges=settings.num_merges)


def make_config(model_settings: ModelSettings, tokenizer: PreTrainedTokenizerFast | None = None) -> GPT1Config:
    """The model's configuration; without a tokenizer, one to see whether the settings make a model at all.

    Raises:
        ValueError: if they do not.
    """
    from_tokenizer = {}
    if tokenizer is not None:
        from_tokenizer = {
            "vocab_size": len(tokenizer),
            **{f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")},
        }
    try:
        return GPT1Config(**vars(model_settings), **from_tokenizer)
    except StrictDataclassError as error:
        raise ValueError(f"gpt1: {error.__cause__ or error}") from error


def pack_split(
    split: str, texts: Dataset, tokenizer: PreTrainedTokenizerFast, block_size: int, text: TextSettings
) -> PackedTexts:
    """The blocks of a split.

    Raises:
        ValueError: there is not enough text for one block; the message names the split and its file.
    """
    try:
        return pack_blocks(tokenize_texts(texts, tokenizer), block_size, separate_documents=text.separate_documents)
    except ValueError as error:
        raise ValueError(f"{getattr(text, f'{split}_file') or text.dataset_name}, {split}: {error}") from error


def report_corpus(accelerator: Accelerator, split: str, packed: PackedTexts) -> None:
    """One line on what a corpus became."""
    without_text = f" ({packed.empty_rows:,} without text)" if packed.empty_rows else ""
    accelerator.print(
        f"{split}: {packed.rows:,} rows{without_text}, {packed.words:,} words, {packed.tokens:,} tokens in "
        f"{len(packed.blocks):,} blocks; the last {packed.dropped_tokens:,} tokens fill no block"
    )


def collate_blocks(examples: list[dict[str, Any]]) -> Batch:
    """(B, block_size) tensors; every token is a label, and the model shifts them."""
    batch = {
        name: torch.from_numpy(np.array([example[name] for example in examples], dtype=np.int64))
        for name in examples[0]
    }
    return batch | {"labels": batch["input_ids"]}


def count_predicted_tokens(batch: Batch) -> TokenCounts:
    """Each block's first token has nothing before it and is not predicted; nothing is padding."""
    rows, length = batch["input_ids"].shape
    return TokenCounts(target_tokens=rows * (length - 1), tokens=rows * length, slots=rows * length)


def training_batches(
    blocks: Dataset | IterableDataset,
    block_size: int,
    text: TextSettings,
    training: TrainingSettings,
    accelerator: Accelerator,
) -> LengthBucketBatches | StreamBatches:
    """Blocks in the seed's order, in batches of one length."""
    max_tokens_per_batch = text.per_device_train_batch_size * block_size
    if text.streaming:
        # The stream is this process's own share already.
        return StreamBatches(
            blocks,
            lambda block: [block_size],
            collate_blocks,
            max_tokens_per_batch=max_tokens_per_batch,
            seed=training.seed,
            window=1000,
        )
    lengths = np.full((len(blocks), 1), block_size)
    if text.short_block_size is not None:
        blocks = PartlyCutBlocks(
            blocks,
            text.short_block_size,
            text.short_block_share,
            text.per_device_train_batch_size,
            training.seed,
            text.repeated_block_share,
        )
        lengths = blocks.lengths
    return LengthBucketBatches(
        blocks,
        lengths,
        collate_blocks,
        max_tokens_per_batch=max_tokens_per_batch,
        seed=training.seed,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=training.dataloader_num_workers,
    )


def training_flops_per_token(model: PreTrainedModel, block_size: int) -> float:
    """Of forward and backward, as usually counted (Chowdhery et al. 2022, appendix B): 6 N + 12 L D T.

    N leaves out the position table, which multiplies nothing; the token table counts as the softmax. The second term
    is attention's, which an LSTM has none of.
    """
    config = model.config
    matrices = model.num_parameters() - config.max_position_embeddings * config.hidden_size
    attention = 12 * config.num_hidden_layers * config.hidden_size * block_size if config.lstm_size is None else 0
    return 6 * matrices + attention


def evaluate(
    model: PreTrainedModel,
    *,
    accelerator: Accelerator,
    packed: PackedTexts,
    text: TextSettings,
    write_samples: Callable[[PreTrainedModel], Any],
    limit: int | None = None,
) -> dict[str, float]:
    """Loss and perplexity per token, and two measures in which vocabularies compare: per word and per byte.

    Args:
        limit: only so many blocks, from the first, are read, as a rehearsal.
    """
    blocks = packed.blocks
    limits = [number for number in (text.max_eval_blocks, limit) if number is not None]
    if limits:
        blocks = blocks.select(range(min(*limits, len(blocks))))
    length = len(blocks[0]["input_ids"])
    batches = batches_for_evaluation(
        blocks,
        np.full((len(blocks), 1), length),
        collate_blocks,
        max_tokens_per_batch=text.per_device_eval_batch_size * length,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    scores = evaluate_loss(
        accelerator, model, batches, count_tokens=count_predicted_tokens, loss_arguments={"logits_to_keep": 1}
    )
    nats = scores["loss"] * packed.tokens
    scores["word_perplexity"] = math.exp(min(nats / packed.words, 700.0))
    scores["bits_per_byte"] = nats / packed.bytes / math.log(2)
    if accelerator.is_main_process:
        with accelerator.autocast():
            write_samples(model)
    return scores


def continuations(
    model: PreTrainedModel, *, tokenizer: PreTrainedTokenizerFast, texts: Dataset, sampling: SampleSettings
) -> list[str]:
    """Beginnings of validation texts, each with what the model adds."""
    blocks = []
    openings = (row["text"] for row in texts if has_visible_text(row["text"] or ""))
    for opening in itertools.islice(openings, sampling.num_samples):
        prompt = tokenizer(opening[:2000], return_tensors="pt", verbose=False).input_ids[
            :, : sampling.sample_prompt_tokens
        ]
        output = model.generate(
            prompt.to(model.device),
            attention_mask=torch.ones_like(prompt).to(model.device),
            max_new_tokens=sampling.sample_new_tokens,
            do_sample=True,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
        )
        beginning, going_on = tokenizer.decode(prompt[0]), tokenizer.decode(output[0, prompt.shape[1] :])
        blocks.append(f"[{beginning}] {going_on}")
    return blocks


def write_samples(blocks: list[str], output_dir: Path) -> None:
    """Appends the samples of an evaluation to `samples.txt`."""
    with (output_dir / "samples.txt").open("a", encoding="utf-8") as file:
        file.write("\n\n".join(blocks) + "\n\n----\n\n")
