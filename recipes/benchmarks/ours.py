"""Our translators as contenders of `benchmark.py`: they train with the recipe's loop and decode with its function."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from papers_to_gpt.benchmarks.common import (
    NEVER,
    forced_length,
    measure_decoding,
    transformer_config,
    translator_utilization,
)
from papers_to_gpt.benchmarks.workload import Stopwatch, count_padded
from papers_to_gpt.settings.benchmarking import Workload


class ClockedBatches:
    """Our training batches under a stopwatch; one endless epoch, so that the clock never stops between epochs."""

    def __init__(self, batches: Any, watch: Stopwatch, work: Workload, padding: int):
        self.batches, self.watch, self.work, self.padding = batches, watch, work, padding

    def updates_per_epoch(self, batches_per_update: int) -> None:
        """Returns None: the epoch has no end."""

    def state_dict(self) -> None:
        """Returns None: a benchmark is not resumed."""

    def updates(self, epoch: int, batches_per_update: int, skip: int = 0, state: None = None) -> Iterator[list[Any]]:
        """Yields updates of one batch each."""
        from papers_to_gpt.engine.batching import LocalBatch

        endless = itertools.chain.from_iterable(self.batches.epoch(number) for number in itertools.count())
        clocked = self.watch.over(
            endless, self.work, lambda batch: count_padded(batch["input_ids"], batch["labels"], self.padding, -100)
        )
        for tensors in clocked:
            yield [LocalBatch(tensors, index=0)]


def run_recipe(
    work: Workload,
    folder: Path,
    make_config: Callable,
    output_dir: Path,
    updates: int,
    watch: Stopwatch | None = None,
    compiled: bool = False,
) -> nn.Module:
    """Trains one of our translators as `train_translation.py` does.

    Args:
        work: the sizes and the number of updates.
        folder: the prepared data.
        make_config: function from the workload and the vocabulary's size to the model's configuration.
        output_dir: receives the trained model.
        updates: number of updates.
        watch: clocks the updates after the warm-up. Default: nothing is clocked.
        compiled: whether `torch.compile` compiles the model.

    Returns:
        The trained model.
    """
    from accelerate.utils import set_seed
    from datasets import load_from_disk
    from transformers import AutoModelForSeq2SeqLM

    from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_TOKENS, keep_compiled_code
    from papers_to_gpt.engine.launching import make_accelerator
    from papers_to_gpt.engine.training import TrainingLoop
    from papers_to_gpt.settings.training import OptimizationSettings
    from papers_to_gpt.settings.translation import DataSettings, TranslationTraining
    from papers_to_gpt.translation.training_data import training_batches
    from seq2seq_scratch.tokenization import load_tokenizers, save_tokenizers

    training = TranslationTraining(
        output_dir=str(output_dir),
        max_steps=updates,
        eval_steps=NEVER,
        label_smoothing_factor=0.1,
        bf16=True,
        use_cpu=not work.is_on_gpu,
        torch_compile=compiled,
    )
    optimization = OptimizationSettings(
        optim="adam", adam_beta2=0.98, learning_rate=1e-3, lr_scheduler_type="inverse_sqrt", warmup_steps=100
    )
    keep_compiled_code(FOR_BATCHES_OF_TOKENS)
    accelerator = make_accelerator(training)
    set_seed(training.seed)
    tokenizers = load_tokenizers(folder)
    model = AutoModelForSeq2SeqLM.from_config(make_config(work, len(tokenizers[0])))
    data = DataSettings(max_tokens_per_batch=work.max_tokens_per_batch)
    batches = training_batches([load_from_disk(folder / "train")], None, tokenizers, 0.0, data, training, accelerator)

    def evaluate(model: nn.Module) -> dict[str, float]:
        # The loop calls this once, after the last update. It reads no further batch, so the clock stops here.
        if watch is not None:
            watch.stop()
        return {"loss": 0.0}

    def save_model(target: Path, state_dict: dict[str, Any] | None = None) -> None:
        model.save_pretrained(target, state_dict=state_dict)
        save_tokenizers(target, *tokenizers)

    TrainingLoop(
        accelerator,
        model,
        batches if watch is None else ClockedBatches(batches, watch, work, tokenizers[0].pad_token_id),
        training,
        optimization,
        evaluate=evaluate,
        save_model=save_model,
        loss_arguments={"smoothing": training.label_smoothing_factor},
    ).train()
    return model


def train_ours(work: Workload, folder: Path, make_config: Callable, compiled: bool = False) -> dict[str, Any]:
    """Clocks the training of one of our translators in bf16; `items` are target tokens."""
    watch = Stopwatch(device=work.device)
    with tempfile.TemporaryDirectory() as output_dir:
        updates = work.warm_up_updates + work.updates
        model = run_recipe(work, folder, make_config, Path(output_dir), updates, watch, compiled)
    return watch.result(model) | translator_utilization(work, watch, model)


def train_model_to_decode(work: Workload, folder: Path) -> dict[str, Any]:
    """Trains the Transformer that all contenders decode with, until it ends its sentences, into `folder / "model"`."""
    (folder / "model").mkdir()
    run_recipe(work, folder, transformer_config, folder / "model", work.decoding_updates)
    return {}


def decode_ours(work: Workload, folder: Path, num_beams: int, bf16: bool) -> dict[str, Any]:
    """Clocks the translation of the test sentences with our model; `items` are sentences."""
    from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_TOKENS, keep_compiled_code
    from papers_to_gpt.engine.model_folder import check_folder
    from seq2seq_scratch.translation import load_translator, translate

    keep_compiled_code(FOR_BATCHES_OF_TOKENS)
    check_folder(work.model_name_or_path)
    translator = load_translator(work.model_name_or_path)
    translator[0].to(work.device)
    tokens = work.tokens_per_decoding_batch

    def translate_all(sentences: list[str]) -> list[str]:
        with torch.autocast(work.device, torch.bfloat16, enabled=bf16):
            found = translate(
                *translator, sentences, num_beams=num_beams, max_tokens_per_batch=tokens, **forced_length(work)
            )
            return [best.text for best, *_ in found]

    return measure_decoding(work, folder, *translator[:2], translate_all, batch_tokens=tokens)
