"""Classifiers for `benchmark.py`: our GPT-1 with a task's head, transformers' `OpenAIGPTForSequenceClassification`.

All take the same plain training steps in bf16 over the same examples. Ours gets them as `finetune_gpt1.py` does, in
batches of like lengths and with memory treated as our training loop treats it; the peer as the library's
text-classification example does, in random batches, padded to the longest or, that example's default, to 128 tokens.

Each function imports what it needs, because nobody's memory should hold another's code.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from papers_to_gpt.benchmarks.workload import Stopwatch
from papers_to_gpt.settings.benchmarking import Workload

EXAMPLES_FILE = "examples.npz"


def prepare_examples(work: Workload, folder: Path) -> None:
    """Writes as many of the task's training examples as a measurement reads, in the tokens of a new vocabulary."""
    from gpt1_scratch.finetuning.examples import tokenize_task
    from gpt1_scratch.finetuning.loading import load_task
    from gpt1_scratch.tokenization import add_task_template, train_tokenizer

    task, splits = load_task(work.task, data_dir=work.data_dir)
    if task.kind != "classification" or task.is_regression:
        raise ValueError(f"task is {work.task}; the benchmark trains classifiers of texts or pairs, such as sst2.")
    texts = [text for row in splits["train"].texts for text in row]
    tokenizer = add_task_template(train_tokenizer(texts, merges=work.gpt_vocab_size))
    examples = tokenize_task(task, splits["train"], tokenizer, work.context)
    wanted = work.updates * work.task_batch_size
    if wanted > len(examples):
        raise ValueError(f"updates x task_batch_size is {wanted}, but {work.task} has {len(examples)} examples.")
    chosen = np.random.default_rng(42).permutation(len(examples))[:wanted]
    sequences = [examples.tokens[examples.bounds[index] : examples.bounds[index + 1]] for index in chosen]
    np.savez(
        folder / EXAMPLES_FILE,
        tokens=np.concatenate(sequences),
        bounds=np.cumsum([0, *map(len, sequences)]),
        labels=examples.labels[chosen],
        classes=len(task.labels),
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )


def train_classifier(
    work: Workload, folder: Path, kind: str, auxiliary_loss_weight: float = 0.0, pad_to: int | None = None
) -> dict[str, Any]:
    """One update for each batch of the examples; `items` are examples.

    Args:
        kind: "ours" or "openai-gpt".
        auxiliary_loss_weight: of ours.
        pad_to: tokens to which every text is padded, or cut, if the context is not less; left out, the longest of the
            batch.
    """
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(42)
    stored = np.load(folder / EXAMPLES_FILE)
    sizes = {
        "vocab_size": int(stored["vocab_size"]),
        "n_positions": work.context,
        "n_embd": work.gpt_hidden_size,
        "n_layer": work.gpt_layers,
        "n_head": work.gpt_heads,
        "num_labels": int(stored["classes"]),
        "pad_token_id": int(stored["pad_token_id"]),
    }
    if kind == "ours":
        from gpt1_scratch import GPT1Config
        from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_ROWS, keep_compiled_code, use_memory_again

        keep_compiled_code(FOR_BATCHES_OF_ROWS)
        use_memory_again()
        config = GPT1Config(**sizes, auxiliary_loss_weight=auxiliary_loss_weight)
        epochs = (like_lengths(stored, work, epoch) for epoch in itertools.count())
    else:
        from transformers import OpenAIGPTConfig

        config = OpenAIGPTConfig(**sizes)
        epochs = (random_batches(stored, work, pad_to and min(pad_to, work.context)) for _ in itertools.count())
    model = AutoModelForSequenceClassification.from_config(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    # The epoch on the clock is a whole one, since its batches of like lengths differ in size.
    warm_up = itertools.islice(next(epochs), work.warm_up_updates)
    watch = Stopwatch()
    batches = itertools.chain(warm_up, next(epochs))

    def count(batch: dict[str, torch.Tensor]) -> tuple[int, int, int]:
        return len(batch["labels"]), int(batch["attention_mask"].sum()), batch["input_ids"].numel()

    for batch in watch.over(batches, work, count):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return watch.result(model)


def like_lengths(stored: Any, work: Workload, epoch: int) -> Iterable[dict[str, torch.Tensor]]:
    """An epoch as our recipe makes it."""
    from functools import partial

    from gpt1_scratch.finetuning.examples import TaskExamples, collate_examples
    from papers_to_gpt.engine.batching import LengthBucketBatches

    examples = TaskExamples(stored["tokens"], stored["bounds"], choices=None, labels=stored["labels"], cut=0)
    collate = partial(collate_examples, pad_token_id=int(stored["pad_token_id"]))
    return LengthBucketBatches(
        examples, examples.lengths, collate, max_rows_per_batch=work.task_batch_size, seed=42
    ).epoch(epoch)


def random_batches(stored: Any, work: Workload, pad_to: int | None) -> Iterable[dict[str, torch.Tensor]]:
    """An epoch as the library's example makes it."""
    tokens, bounds, labels = stored["tokens"], stored["bounds"], torch.from_numpy(stored["labels"])
    for rows in torch.randperm(len(labels)).split(work.task_batch_size):
        sequences = [torch.from_numpy(tokens[bounds[row] : bounds[row + 1]]).long()[:pad_to] for row in rows.tolist()]
        width = pad_to or max(map(len, sequences))
        input_ids = torch.full((len(rows), width), int(stored["pad_token_id"]))
        for place, sequence in enumerate(sequences):
            input_ids[place, : len(sequence)] = sequence
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        mask = (torch.arange(width) < lengths[:, None]).long()
        yield {"input_ids": input_ids, "attention_mask": mask, "labels": labels[rows]}
