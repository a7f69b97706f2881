"""Classifiers for `benchmark.py`: our GPT-1 with a classification head, and `OpenAIGPTForSequenceClassification`.

Both take the same plain training steps in bf16 over the same examples. Ours reads them as `finetune_gpt1.py` does, in
batches of similar lengths, and keeps freed memory as our training loop does. The peer reads them as transformers'
text-classification example does, in random batches, padded to the longest text or to that example's default of 128
tokens.

Each function imports its own library, so that a measured process holds no other contender's code.
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
    """Trains a vocabulary on the task and writes the tokenized training examples that a measurement reads.

    Raises:
        ValueError: if the task is not a classification, or has fewer examples than a measurement reads.
    """
    from gpt1_scratch.finetuning.examples import tokenize_task
    from gpt1_scratch.finetuning.loading import load_task
    from gpt1_scratch.tokenization import add_task_template, train_tokenizer

    task, splits = load_task(work.task, data_dir=work.data_dir)
    if task.kind != "classification" or task.is_regression:
        raise ValueError(
            f"task is {work.task}, which is not a classification of texts or pairs. Choose one that is, such as sst2."
        )
    texts = [text for row in splits["train"].texts for text in row]
    tokenizer = add_task_template(train_tokenizer(texts, merges=work.gpt_vocab_size))
    examples = tokenize_task(task, splits["train"], tokenizer, work.context)
    wanted = work.updates * work.task_batch_size
    if wanted > len(examples):
        raise ValueError(
            f"updates x task_batch_size is {wanted}, but {work.task} has {len(examples)} examples. Lower one of them."
        )
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
    """Clocks one update for each batch of the examples; `items` are examples.

    Args:
        work: the sizes and the number of updates.
        folder: the prepared examples.
        kind: "ours" or "openai-gpt".
        auxiliary_loss_weight: weight of the language modeling loss, for ours only.
        pad_to: number of tokens that every text is padded or cut to, at most the context, for the peer only. Default:
            the longest text of each batch.
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
        from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_ROWS, keep_compiled_code
        from papers_to_gpt.engine.memory import keep_freed_memory

        keep_compiled_code(FOR_BATCHES_OF_ROWS)
        keep_freed_memory()
        config = GPT1Config(**sizes, auxiliary_loss_weight=auxiliary_loss_weight)
        epochs = (batches_by_length(stored, work, epoch) for epoch in itertools.count())
    else:
        from transformers import OpenAIGPTConfig

        config = OpenAIGPTConfig(**sizes)
        epochs = (random_batches(stored, work, pad_to and min(pad_to, work.context)) for _ in itertools.count())
    model = AutoModelForSequenceClassification.from_config(config).train().to(work.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    # A whole epoch is clocked, because our batches of similar lengths differ in size within an epoch.
    clocked = next(epochs)
    warm_up = itertools.islice(itertools.chain.from_iterable(epochs), work.warm_up_updates)
    watch = Stopwatch(device=work.device)
    batches = itertools.chain(warm_up, clocked)

    def count(batch: dict[str, torch.Tensor]) -> tuple[int, int, int]:
        return len(batch["labels"]), int(batch["attention_mask"].sum()), batch["input_ids"].numel()

    for batch in watch.over(batches, work, count):
        batch = {name: tensor.to(work.device) for name, tensor in batch.items()}
        with torch.autocast(work.device, torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return watch.result(model)


def batches_by_length(stored: Any, work: Workload, epoch: int) -> Iterable[dict[str, torch.Tensor]]:
    """Returns the batches of an epoch in our recipe's order, by length."""
    from functools import partial

    from gpt1_scratch.finetuning.examples import TaskExamples, collate_examples
    from papers_to_gpt.engine.batching import LengthBucketBatches

    examples = TaskExamples(stored["tokens"], stored["bounds"], choices=None, labels=stored["labels"], cut=0)
    collate = partial(collate_examples, pad_token_id=int(stored["pad_token_id"]))
    return LengthBucketBatches(
        examples, examples.lengths, collate, max_rows_per_batch=work.task_batch_size, seed=42
    ).epoch(epoch)


def random_batches(stored: Any, work: Workload, pad_to: int | None) -> Iterable[dict[str, torch.Tensor]]:
    """Yields the batches of an epoch in the order of transformers' example, at random."""
    tokens, bounds, labels = stored["tokens"], stored["bounds"], torch.from_numpy(stored["labels"])
    for rows in torch.randperm(len(labels)).split(work.task_batch_size):
        sequences = [torch.from_numpy(tokens[bounds[row] : bounds[row + 1]]).long()[:pad_to] for row in rows.tolist()]
        width = pad_to or max(map(len, sequences))
        input_ids = torch.full((len(rows), width), int(stored["pad_token_id"]))
        for row, sequence in enumerate(sequences):
            input_ids[row, : len(sequence)] = sequence
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        mask = (torch.arange(width) < lengths[:, None]).long()
        yield {"input_ids": input_ids, "attention_mask": mask, "labels": labels[rows]}
