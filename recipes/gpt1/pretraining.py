"""Pre-trains GPT-1 on contiguous text: vocabulary, blocks, training, evaluation, samples.

What is predicted, next tokens or masked ones, is decided by the run's objective (`objectives.py`).
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import disable_progress_bars
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from gpt1_scratch.configuration_gpt1 import GPT1Config
from gpt1_scratch.data.text_lines import numbered_lines
from gpt1_scratch.finetuning.models import load_with_tokenizer
from gpt1_scratch.pretraining.packing import PackedTexts
from papers_to_gpt.engine.batching import batches_for_evaluation
from papers_to_gpt.engine.data_fingerprint import Fingerprint, fingerprint_files, fingerprint_rows
from papers_to_gpt.engine.evaluation import evaluate_loss, rehearse_evaluation
from papers_to_gpt.engine.expectations import Outcome, compare_with_expected, say_expected
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.model_folder import check_folder
from papers_to_gpt.engine.output_folder import RunStart, finish_run, plan_run
from papers_to_gpt.engine.process_watch import stops_together
from papers_to_gpt.engine.reporting import (
    add_samples,
    measure_matrix_peak,
    track_samples,
    write_results,
    write_run_record,
)
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
from papers_to_gpt.gpt1.objectives import OBJECTIVES, NextToken
from papers_to_gpt.gpt1.pretraining_data import (
    PretrainingData,
    collate_blocks,
    load_corpora,
    make_batches,
    make_tokenizer,
    pack_data,
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
    make_config(model_settings, OBJECTIVES[training.objective])  # wrong sizes fail here, before data loads
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
    _, starting, _, text, sampling, optimization, _, hub = settings
    training, output_dir = start.training, start.folder
    repository = open_repository(accelerator, hub, training)
    started = time.perf_counter()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    if accelerator.is_main_process:
        logging.getLogger("gpt1_scratch").setLevel(logging.INFO)
    set_seed(training.seed)

    model, data = load_model_and_data(accelerator, settings, start)
    batches, count_corpora = make_batches(accelerator, data, text, training)
    record_model(accelerator, settings, start, model, data)

    # Training
    def save_model(folder: Path, state_dict: dict[str, Any] | None = None) -> None:
        model.save_pretrained(folder, state_dict=state_dict)
        data.tokenizer.save_pretrained(folder)

    trained, objective = False, OBJECTIVES[training.objective](data.tokenizer)
    run_evaluation = partial(evaluate, accelerator=accelerator, objective=objective, packed=data.validation, text=text)
    make_samples = partial(objective.samples, texts=data.validation_texts)
    peak = measure_matrix_peak(accelerator) * accelerator.num_processes
    flops_per_target = objective.flops_per_target(model, data.block_size)
    loop = TrainingLoop(
        accelerator,
        model,
        batches,
        training,
        optimization,
        evaluate=partial(
            run_evaluation,
            write_samples=lambda model: write_samples(
                accelerator,
                make_samples(model, sampling=sampling),
                output_dir,
                loop.progress.update,
                final=trained,
            ),
        ),
        save_model=save_model,
        after_save=push_of_checkpoints(repository, hub),
        draw_targets=objective.draw_targets,
        count_tokens=objective.count,
        rates=lambda targets_per_second: {
            "model_flops_utilization_percent": 100 * targets_per_second * flops_per_target / peak
        },
    )
    accelerator.print(describe_length(loop.total_updates, loop.eval_steps, training, optimization))
    few = dataclasses.replace(sampling, num_samples=min(1, sampling.num_samples), sample_new_tokens=1)
    rehearse_evaluation(
        model,
        partial(run_evaluation, write_samples=partial(make_samples, sampling=few), limit=1),
        training.metric_for_best_model,
    )
    results = loop.train() | count_corpora()
    trained = True

    # Evaluation
    final = loop.scores(model)
    results |= {f"eval_{name}": value for name, value in final.items()}
    results["wall_seconds"] = round(time.perf_counter() - started + loop.earlier_seconds, 1)
    outcome = Outcome(results, [results], partial(fingerprint_rows, data.texts()))
    results |= compare_with_expected(start, [outcome], starting.init_from)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        write_card(output_dir)
        finish_run(output_dir, loop.progress, loop.total_updates)
    say_expected(results, accelerator.print)
    accelerator.print(
        HOW_TO_USE.format(
            seconds=results["wall_seconds"],
            summary=objective.summary.format(**final),
            folder=output_dir,
            use=objective.use,
            command=command(objective.script, "--model_name_or_path", output_dir, *objective.arguments),
        )
    )
    push_at_end(repository, output_dir)


def load_model_and_data(
    accelerator: Accelerator, settings: tuple[Any, ...], start: RunStart
) -> tuple[PreTrainedModel, PretrainingData]:
    """Loads the data and makes the model. A new run writes its tokenizer to the output folder.

    Raises:
        ValueError: if the text cannot be read or is too short, or the settings make no model.
    """
    model_settings, starting, vocabulary, text, sampling, *_ = settings
    kind = OBJECTIVES[start.training.objective]
    model, tokenizer = None, None
    with accelerator.main_process_first():
        if starting.init_from is not None and start.checkpoint is None:
            model, tokenizer = load_starting_model(starting, model_settings, kind)
        corpora, validation_texts = load_corpora(text)
        if text.dataset_name is not None:
            start.check_loaded("dataset_name", {"train": corpora[0], "validation": validation_texts})
        # Training a tokenizer is not deterministic (ties are broken at random): one process trains it, all load it.
        if start.checkpoint is None and accelerator.is_main_process:
            if tokenizer is None:
                tokenizer = make_tokenizer(corpora, vocabulary, weights_of(text), text.skip_broken_shards)
                tokenizer = kind.prepare_tokenizer(tokenizer)
            start.begin()
            tokenizer.save_pretrained(start.folder)
        tokenizer = AutoTokenizer.from_pretrained(start.checkpoint or start.folder, trust_remote_code=False)
        if model is not None:
            config = model.config
        elif starting.init_from is not None:
            config = configuration_of_resumed(start.checkpoint, model_settings)
        else:
            config = make_config(model_settings, kind, tokenizer)
        tokenizer.model_max_length = config.max_position_embeddings
        block_size = choose_block_size(config, text, sampling)
        data = pack_data(corpora, validation_texts, tokenizer, block_size, text, start.training.seed)
        for line in data.describe():
            accelerator.print(line)
    if model is None:
        model = kind.model_class(config)
    freeze(model, starting.freeze or [])
    return model, data


def record_model(
    accelerator: Accelerator,
    settings: tuple[Any, ...],
    start: RunStart,
    model: PreTrainedModel,
    data: PretrainingData,
) -> None:
    """Prints what the model is, and writes the record of the run."""
    _, starting, *_ = settings
    size = f"{model.num_parameters():,} parameters{describe_frozen(model, starting.freeze)}"
    accelerator.print(f"GPT-1 with {size}, vocabulary {len(data.tokenizer):,}")
    if accelerator.is_main_process:
        entries = start.record() | base_model_entry(start.folder, starting)
        write_run_record(start.folder, accelerator, settings, parameters=model.num_parameters(), **entries)


HOW_TO_USE = """
Done after {seconds:.0f} s: {summary} The model is in {folder}.
{use}:

{command}
"""


def load_starting_model(
    starting: StartingModelSettings, model_settings: ModelSettings, objective: type[NextToken]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Returns the model that a run starts from and its tokenizer, with the entries of add_tokens.

    Raises:
        ValueError: if there is no such GPT-1 of the objective, or add_tokens cannot be added to its vocabulary.
    """
    check_folder(starting.init_from, kinds=(objective.kind,))
    model, tokenizer = load_with_tokenizer(objective.model_class, starting.init_from, starting.init_revision)
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


def make_config(
    model_settings: ModelSettings, objective: type[NextToken], tokenizer: PreTrainedTokenizerFast | None = None
) -> GPT1Config:
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
        return GPT1Config(**vars(model_settings), **from_tokenizer, attention=objective.attention)
    except StrictDataclassError as error:
        raise ValueError(f"gpt1: {error.__cause__ or error}") from error


def choose_block_size(config: GPT1Config, text: TextSettings, sampling: SampleSettings) -> int:
    """Returns the number of tokens of a block: block_size, or as many as the model has positions.

    Raises:
        ValueError: if blocks, or the prompts of samples, are too long for the model.
    """
    positions = config.max_position_embeddings
    block_size = text.block_size or positions
    if block_size > positions:
        raise ValueError(
            f"block_size is {block_size}, but max_position_embeddings is {positions}. Lower the first, or raise the "
            "second."
        )
    if sampling.num_samples and sampling.sample_prompt_tokens >= positions:
        raise ValueError(
            f"sample_prompt_tokens is {sampling.sample_prompt_tokens}; it must be below max_position_embeddings, "
            f"{positions}, or nothing can be added."
        )
    return block_size


def evaluate(
    model: PreTrainedModel,
    *,
    accelerator: Accelerator,
    objective: NextToken,
    packed: PackedTexts,
    text: TextSettings,
    write_samples: Callable[[PreTrainedModel], Any],
    limit: int | None = None,
) -> dict[str, float]:
    """Returns loss and perplexity per predicted token, and the other scores of the objective.

    `limit` is the number of blocks to read for a rehearsal; None reads all of them.
    """
    blocks = packed.blocks
    limits = [number for number in (text.max_eval_blocks, limit) if number is not None]
    if limits:
        blocks = blocks.select(range(min(*limits, len(blocks))))
    length = len(blocks[0]["input_ids"])
    batches = batches_for_evaluation(
        objective.evaluation_blocks(blocks),
        np.full((len(blocks), 1), length),
        collate_blocks,
        max_tokens_per_batch=text.per_device_eval_batch_size * length,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    scores = evaluate_loss(
        accelerator,
        model,
        batches,
        count_tokens=objective.count,
        loss_arguments=objective.loss_arguments,
        count_correct=objective.count_correct,
    )
    if accelerator.is_main_process:
        with accelerator.autocast():
            write_samples(model)
    return objective.add_scores(scores, packed)


def write_samples(
    accelerator: Accelerator, blocks: list[str], output_dir: Path, update: int, *, final: bool = False
) -> None:
    """Adds the samples of an evaluation to `samples.txt`, and sends them to the trackers unless the run is over."""
    add_samples(output_dir / "samples.txt", None if final else update, "\n\n".join(blocks))
    track_samples(accelerator, update, blocks)
