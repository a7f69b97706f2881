"""Pre-trains GPT-1 on contiguous text: vocabulary, blocks, training, evaluation, samples."""

import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from gpt1_scratch.configuration_gpt1 import GPT1Config
from gpt1_scratch.data.text_lines import numbered_lines
from gpt1_scratch.data.visible_text import has_visible_text
from gpt1_scratch.finetuning.models import load_with_tokenizer
from gpt1_scratch.modeling_gpt1 import GPT1ForCausalLM
from gpt1_scratch.pretraining.packing import PackedTexts, StreamPacker
from papers_to_gpt.engine.batching import batches_for_evaluation
from papers_to_gpt.engine.data_fingerprint import Fingerprint, fingerprint_files
from papers_to_gpt.engine.evaluation import evaluate_loss, rehearse_evaluation
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.model_folder import LANGUAGE_MODEL, check_folder
from papers_to_gpt.engine.output_folder import RunStart, finish_run, plan_run
from papers_to_gpt.engine.process_watch import stops_together
from papers_to_gpt.engine.reporting import add_samples, measure_matrix_peak, write_results, write_run_record
from papers_to_gpt.engine.run_length import describe_length
from papers_to_gpt.engine.run_lock import lock_output_dir
from papers_to_gpt.engine.starting_model import (
    FILES_OF_START,
    add_words,
    base_model_entry,
    configuration_changes,
    describe_frozen,
    freeze,
    grow_model,
    read_words,
)
from papers_to_gpt.engine.training import TrainingLoop
from papers_to_gpt.gpt1.pretraining_data import (
    collate_blocks,
    count_predicted_tokens,
    load_corpora,
    make_tokenizer,
    pack_corpora,
    pack_texts,
    report_corpus,
    streamed_batches,
    training_batches,
)
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.sharing import open_repository, push_at_end, push_of_checkpoints
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.corpora import weights_of
from papers_to_gpt.settings.pretraining import ModelSettings, SampleSettings, TextSettings, VocabularySettings
from papers_to_gpt.settings.starting import StartingModelSettings


@stops_together
def run(settings: tuple[Any, ...]) -> None:
    """Pre-trains, evaluates and shares GPT-1.

    Args:
        settings: from `papers_to_gpt.settings.pretraining.parse`.

    Raises:
        ValueError: if the settings make no model, the text cannot be read, or training fails (see `TrainingLoop`).
    """
    model_settings, starting, vocabulary, text, _, _, training, _ = settings
    make_config(model_settings)  # wrong sizes fail here, before data loads
    accelerator = make_accelerator(training)
    with lock_output_dir(accelerator, training):
        start = plan_run(accelerator, training, settings, partial(fingerprint_text, text, vocabulary, starting))
        if start.finished is None:
            train(accelerator, settings, start)


def train(accelerator: Accelerator, settings: tuple[Any, ...], start: RunStart) -> None:
    """Pre-trains a model, from its beginning or from the checkpoint in the output folder.

    Args:
        accelerator: the accelerator of the run.
        settings: the settings that `run` takes.
        start: the state of the output folder.
    """
    model_settings, starting, vocabulary, text, sampling, optimization, _, hub = settings
    training, output_dir = start.training, start.folder
    repository = open_repository(accelerator, hub, training)
    started = time.perf_counter()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    if accelerator.is_main_process:
        logging.getLogger("gpt1_scratch").setLevel(logging.INFO)
    set_seed(training.seed)

    # Data
    with accelerator.main_process_first():
        corpora, validation_texts = load_corpora(text)
        weights = weights_of(text)
        if text.dataset_name is not None:
            start.check_loaded("dataset_name", {"train": corpora[0], "validation": validation_texts})
        # Training a tokenizer is not deterministic (ties are broken at random): one process trains it, all load it.
        checkpoint, model = start.checkpoint, None
        if starting.init_from is not None and checkpoint is None:
            model, tokenizer = load_starting_model(starting, model_settings)
        if checkpoint is None and accelerator.is_main_process:
            if model is None:
                tokenizer = make_tokenizer(corpora, vocabulary, weights, text.skip_broken_shards)
            start.begin()
            tokenizer.save_pretrained(output_dir)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint or output_dir, trust_remote_code=False)
        if model is not None:
            config = model.config
        elif starting.init_from is not None:  # resumed
            config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
            for name, value in configuration_changes(model_settings).items():
                setattr(config, name, value)
        else:
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
        packed = pack_texts(
            text.validation_file or f"{text.dataset_name}, validation", [validation_texts], tokenizer, block_size, text
        )
        mixture = None
        if not text.streaming:
            packed_corpora, mixture = pack_corpora(corpora, weights, tokenizer, block_size, text, training.seed)
            for name, part in zip(mixture.names, packed_corpora, strict=False):
                report_corpus(accelerator, "train" if len(packed_corpora) == 1 else f"train, {name}", part)
            if mixture.results():
                accelerator.print(f"train: {mixture}")
        report_corpus(accelerator, "validation", packed)
    if mixture is None:
        packer = StreamPacker(tokenizer, block_size, text.separate_documents)
        batches = streamed_batches(corpora, packer, text, training, accelerator)
    else:
        blocks = [part.blocks for part in packed_corpora]
        blocks = blocks[0] if len(blocks) == 1 else concatenate_datasets(blocks)
        batches = training_batches(blocks, mixture, block_size, text, training, accelerator)

    # Model
    if model is None:
        model = GPT1ForCausalLM(config)
    freeze(model, starting.freeze or [])
    size = f"{model.num_parameters():,} parameters{describe_frozen(model, starting.freeze)}"
    accelerator.print(f"GPT-1 with {size}, vocabulary {len(tokenizer):,}")
    if accelerator.is_main_process:
        entries = start.record() | base_model_entry(output_dir, starting)
        write_run_record(output_dir, accelerator, settings, parameters=model.num_parameters(), **entries)

    # Training
    def save_model(folder: Path, state_dict: dict[str, Any] | None = None) -> None:
        model.save_pretrained(folder, state_dict=state_dict)
        tokenizer.save_pretrained(folder)

    trained = False
    run_evaluation = partial(evaluate, accelerator=accelerator, packed=packed, text=text)
    continue_texts = partial(continuations, tokenizer=tokenizer, texts=validation_texts)
    peak = measure_matrix_peak(accelerator) * accelerator.num_processes
    flops_per_token = training_flops_per_token(model, block_size)
    loop = TrainingLoop(
        accelerator,
        model,
        batches,
        training,
        optimization,
        evaluate=partial(
            run_evaluation,
            write_samples=lambda model: write_samples(
                continue_texts(model, sampling=sampling), output_dir, None if trained else loop.progress.update
            ),
        ),
        save_model=save_model,
        after_save=push_of_checkpoints(repository, hub),
        count_tokens=count_predicted_tokens,
        rates=lambda tokens_per_second: {
            "model_flops_utilization_percent": 100 * tokens_per_second * flops_per_token / peak
        },
    )
    accelerator.print(describe_length(loop.total_updates, loop.eval_steps, training, optimization))
    few = dataclasses.replace(sampling, num_samples=min(1, sampling.num_samples), sample_new_tokens=1)
    rehearse_evaluation(
        model,
        partial(run_evaluation, write_samples=partial(continue_texts, sampling=few), limit=1),
        training.metric_for_best_model,
    )
    results = loop.train()
    trained = True
    results |= batches.results() if mixture is None else mixture.results()

    # Evaluation
    final = loop.scores(model)
    results |= {f"eval_{name}": value for name, value in final.items()}
    results["wall_seconds"] = round(time.perf_counter() - started + loop.earlier_seconds, 1)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        write_card(output_dir)
        finish_run(output_dir, loop.progress, loop.total_updates)
    generate = command("generate_text", "--model_name_or_path", output_dir, "--prompt", "Once upon a time")
    accelerator.print(
        HOW_TO_USE.format(folder=output_dir, generate=generate, seconds=results["wall_seconds"], **final)
    )
    push_at_end(repository, output_dir)


HOW_TO_USE = """
Done after {seconds:.0f} s: {bits_per_byte:.3f} bits per byte on the validation text. The model is in {folder}.
To continue a text with it:

{generate}
"""


def load_starting_model(
    starting: StartingModelSettings, model_settings: ModelSettings
) -> tuple[GPT1ForCausalLM, PreTrainedTokenizerFast]:
    """Returns the model that a run starts from and its tokenizer, with the entries of add_tokens.

    Raises:
        ValueError: if there is no such GPT-1, or add_tokens cannot be added to its vocabulary.
    """
    check_folder(starting.init_from, kinds=(LANGUAGE_MODEL,))
    model, tokenizer = load_with_tokenizer(GPT1ForCausalLM, starting.init_from, starting.init_revision)
    words = read_words(starting.add_tokens, numbered_lines)
    tokenizer, added = add_words(tokenizer, words)
    for word in added.known:
        raise ValueError(f"{words[word]}: {word!r} is in the model's vocabulary already. Remove the line.")
    return grow_model(model, {"target": added}, configuration_changes(model_settings)), tokenizer


def fingerprint_text(
    text: TextSettings, vocabulary: VocabularySettings, starting: StartingModelSettings
) -> dict[str, Fingerprint | None]:
    """Returns the fingerprints of the files that the settings of text, vocabulary and starting model name."""
    names = ("train_file", "validation_file", "dataset_name")
    files = {name: fingerprint_files(getattr(text, name)) for name in names}
    files |= {name: fingerprint_files(getattr(vocabulary, name)) for name in ("vocabulary_file", "merges_file")}
    files["init_from"] = fingerprint_files(starting.init_from, within=FILES_OF_START)
    files["add_tokens"] = fingerprint_files(starting.add_tokens)
    return files | {"tokenizer_name": fingerprint_files(vocabulary.tokenizer_name, within=["tokenizer.json"])}


def make_config(model_settings: ModelSettings, tokenizer: PreTrainedTokenizerFast | None = None) -> GPT1Config:
    """Returns the model's configuration. Without a tokenizer it only serves to check the settings.

    Raises:
        ValueError: if the settings make no model.
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


def training_flops_per_token(model: PreTrainedModel, block_size: int) -> float:
    """Returns the FLOP per token of forward and backward, 6 N + 12 L D T (Chowdhery et al. 2022, appendix B).

    N is the number of parameters without the position table, which is only added; the token table counts because it
    is also the softmax matrix. L is the number of layers, D the model width and T the block size. The second term is
    that of attention, so it is 0 for an LSTM.
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
    """Returns loss and perplexity per token, and per word and per byte, which compare across vocabularies.

    `limit` is the number of blocks to read for a rehearsal; None reads all of them.
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
    """Samples continuations of the beginnings of validation texts."""
    positions = model.config.max_position_embeddings
    blocks = []
    openings = (row["text"] for row in texts if has_visible_text(row["text"] or ""))
    for opening in itertools.islice(openings, sampling.num_samples):
        prompt = tokenizer(opening[:2000], return_tensors="pt", verbose=False).input_ids[
            :, : sampling.sample_prompt_tokens
        ]
        output = model.generate(
            prompt.to(model.device),
            attention_mask=torch.ones_like(prompt).to(model.device),
            # Shorter than the setting where the model's positions end, which would otherwise log a warning each time.
            max_new_tokens=max(1, min(sampling.sample_new_tokens, positions - prompt.shape[1])),
            do_sample=True,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
        )
        beginning, continuation = tokenizer.decode(prompt[0]), tokenizer.decode(output[0, prompt.shape[1] :])
        blocks.append(f"[{beginning}] {continuation}")
    return blocks


def write_samples(blocks: list[str], output_dir: Path, update: int | None) -> None:
    """Adds the samples of an evaluation to `samples.txt`; `update` is None for the final model."""
    add_samples(output_dir / "samples.txt", update, "\n\n".join(blocks))
