"""Batches on an accelerator: training queues copies and computing, and reads nothing back within an update."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from papers_to_gpt.engine.batching import LengthBucketBatches
from papers_to_gpt.engine.device_copies import send, send_batch
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.training import TrainingLoop
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings

LENGTHS = np.random.default_rng(0).integers(2, 9, size=(40, 1))
EXAMPLES = [np.random.default_rng(row).integers(4, 20, size=length) for row, (length,) in enumerate(LENGTHS)]


def collate(examples):
    rows = nn.utils.rnn.pad_sequence(list(map(torch.from_numpy, examples)), batch_first=True, padding_value=-100)
    return {"input_ids": rows.clamp(min=0), "labels": rows}


class NextToken(nn.Module):
    """A model whose forward and loss queue all their work; it notes the batches that it gets."""

    config = SimpleNamespace(hidden_size=8)

    def __init__(self):
        super().__init__()
        self.embed, self.lm_head, self.seen = nn.Embedding(20, 8), nn.Linear(8, 20), []

    def forward(self, input_ids, labels, num_items_in_batch):
        self.seen.append((input_ids.device.type, labels.device.type, tuple(input_ids.shape)))
        logits = self.lm_head(self.embed(input_ids))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return SimpleNamespace(loss=loss / num_items_in_batch)


class AcceleratorOnMeta(Accelerator):
    """Its device computes shapes only: whatever reads a number of it raises an error, as there is none."""

    device = torch.device("meta")


def make_loop(accelerator, settings):
    return TrainingLoop(
        accelerator,
        NextToken(),
        LengthBucketBatches(EXAMPLES, LENGTHS, collate, max_tokens_per_batch=20, seed=3),
        settings,
        OptimizationSettings(),
        evaluate=lambda model: {"loss": 1.0},
        save_model=lambda folder, state_dict=None: None,
    )


def test_an_update_reads_nothing_back_from_its_device_and_computes_the_batches_in_order(tmp_path):
    settings = TrainingSettings(
        output_dir=str(tmp_path), max_steps=4, eval_steps=4, bf16=False, use_cpu=True, gradient_accumulation_steps=3
    )
    seen, counted = {}, {}
    for accelerator in (make_accelerator(settings), AcceleratorOnMeta(cpu=True)):
        loop, device = make_loop(accelerator, settings), accelerator.device.type
        for group in loop.batches.updates(0, batches_per_update=3):
            loop._update(group)
        seen[device] = loop.raw_model.seen
        counted[device] = (loop.progress.update, loop.progress.target_tokens)
        assert loop._skipped.total.device.type == loop.window.sums.device.type == device
    shapes = [tuple(batch["input_ids"].shape) for batch in loop.batches.epoch(0)]
    assert seen == {device: [(device, device, shape) for shape in shapes] for device in ("cpu", "meta")}
    assert counted["meta"] == counted["cpu"] == (len(list(loop.batches.updates(0, 3))), int(LENGTHS.sum()))
    with pytest.raises(RuntimeError, match="meta"):  # a log line does read
        loop._check_skipped([])


def test_on_the_cpu_nothing_is_copied():
    batch = collate(EXAMPLES[:3])
    sent = send_batch(batch, torch.device("cpu"))
    assert sent.keys() == batch.keys() and all(sent[name] is batch[name] for name in batch)


@pytest.mark.parametrize(("device", "expected"), [("cuda", (True, True)), ("mps", (False, False))])
def test_only_a_copy_from_pinned_memory_is_not_waited_for(device, expected):
    class Tensor:
        pinned = False

        def pin_memory(self):
            self.pinned = True
            return self

        def to(self, device, non_blocking=False):
            return self.pinned, non_blocking

    assert send(Tensor(), torch.device(device)) == expected
