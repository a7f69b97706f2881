"""What the models do on a GPU, as far as a CPU shows it: how often the host waits for it, and its precision.

A GPU works through a queue. Whatever reads one of its numbers, or makes a tensor whose shape depends on them, waits
until the queue is empty. The operations that do so are the same on a CPU, where they can be counted.
"""

import pytest
import torch
from tiny_models import PAD, TRANSLATORS, tiny_batch, tiny_model
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gpt1_scratch import lstm_block
from seq2seq_scratch import lstm_runs
from seq2seq_scratch.beam_search import SentenceLengthLimits
from seq2seq_scratch.modeling_transformer import hide_padding

aten = torch.ops.aten
# They read a number, or their result has as many elements as the numbers say.
READING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.equal,
    aten.bincount,
}
# They look for the places of a mask that is an index.
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# Copies between host and device that operators do not show, as both are the CPU here.
COPYING = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.tensor, torch.as_tensor}


class Operators(TorchDispatchMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, operator, types, arguments=(), named=None):
        packet = operator.overloadpacket
        if packet in READING or operator is aten.repeat_interleave.Tensor:
            self.waits.append(str(packet))
        if packet in INDEXING:
            masks = [each for each in arguments[1] if each is not None and each.dtype in (torch.bool, torch.uint8)]
            self.waits.extend(f"{packet} by a mask" for _ in masks)
        return operator(*arguments, **(named or {}))


class Copies(TorchFunctionMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function, types, arguments=(), named=None):
        if function in COPYING:
            self.waits.append(function.__name__)
        return function(*arguments, **(named or {}))


def waits_of(function):
    """The operations of a function that would wait for a GPU, sorted by name."""
    waits = []
    with Copies(waits), Operators(waits):
        function()
    return sorted(waits)


def on_a_gpu(name, **settings):
    """A tiny model with the attention that it has on a GPU."""
    model = tiny_model(name, **settings)
    if name not in ("rnn_seq2seq", "bahdanau"):
        model.set_attn_implementation("sdpa")
    return model


# On a CPU the library looks whether a mask hides anything, once for each of encoder and decoder.
MASKS = ["aten._local_scalar_dense"] * 2
# The loss finds the labels that count; the LSTM's encoder copies the lengths of the sentences.
UPDATES = {
    "rnn_seq2seq": ["aten.nonzero", "tolist"],
    "bahdanau": ["aten.nonzero"],
    "transformer": [*MASKS, "aten.nonzero"],
    "causal_lm": ["aten.nonzero"],
}


@pytest.mark.parametrize("name", UPDATES)
def test_the_waits_of_a_batch_in_training(name):
    model, batch = on_a_gpu(name).train(), tiny_batch(name)
    if name == "causal_lm":  # blocks of text have no padding
        batch = {"input_ids": batch["input_ids"].clamp(min=PAD + 1), "labels": batch["labels"]}
    items = (batch["labels"] != -100).sum()

    def train():
        model(**batch, num_items_in_batch=items).loss.backward()

    assert waits_of(train) == UPDATES[name]


# Every step looks whether a sentence has ended, and on a CPU the Transformer's looks whether the source's mask hides
# anything.
STEPS = {
    "rnn_seq2seq": ["aten._local_scalar_dense"],
    "bahdanau": ["aten._local_scalar_dense"],
    "transformer": ["aten._local_scalar_dense"] * 2,
    "causal_lm": ["aten._local_scalar_dense"],
}


@pytest.mark.parametrize("name", STEPS)
@torch.no_grad()
def test_the_waits_of_a_step_of_decoding(name):
    model, batch = on_a_gpu(name), tiny_batch(name, 2)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}

    def waits_of_steps(count):
        limits = {"min_new_tokens": count, "max_new_tokens": count}
        beams = 3 if name in TRANSLATORS else 1
        return waits_of(lambda: model.generate(**inputs, **limits, num_beams=beams, do_sample=False))

    few, many = waits_of_steps(4), waits_of_steps(7)
    for wait in few:
        many.remove(wait)
    assert many == sorted(STEPS[name] * 3)


def test_the_mask_of_a_source_on_a_gpu_is_made_without_a_look_at_it():
    config = on_a_gpu("transformer").config
    with torch.device("meta"):  # tensors without numbers, so whatever reads one fails
        queries, keys = torch.zeros(2, 3, 16), torch.zeros(2, 5, 16)
        hidden = hide_padding(config, queries, torch.ones(2, 5, dtype=torch.long), keys)
    assert hidden.shape == (2, 1, 3, 5) and hidden.dtype == torch.bool
    assert hide_padding(config, torch.zeros(2, 3, 16), None) is None


def test_the_limits_of_sentences_are_copied_once():
    limits = SentenceLengthLimits([3, 4])
    limits(torch.empty(4, 2, dtype=torch.long, device="meta"), None)
    assert limits.limits.device.type == "meta"


@pytest.fixture
def autocast_of_a_gpu():
    """Sets autocast for GPUs, which a machine without one would leave off."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", dtype)


@pytest.mark.parametrize("call_lstm", [lstm_block.call_lstm, lstm_runs.call_lstm])
@pytest.mark.parametrize("has_state", [False, True])
def test_an_lstm_runs_outside_of_autocast_which_would_make_it_float16(call_lstm, has_state, autocast_of_a_gpu):
    seen = []

    class Watched(nn.LSTM):
        def forward(self, inputs, state=None):
            given = [inputs, *(state or ())]
            seen.extend((torch.is_autocast_enabled("cuda"), tensor.dtype) for tensor in given)

    with FakeTensorMode():  # tensors of a GPU without numbers
        inputs = torch.zeros(3, 4, 5, dtype=torch.bfloat16, device="cuda")
        state = (torch.zeros(1, 3, 6, dtype=torch.bfloat16, device="cuda"),) * 2 if has_state else None
    call_lstm(Watched(5, 6), inputs, state)
    assert seen == [(False, torch.float32)] * (3 if has_state else 1)
    assert torch.is_autocast_enabled("cuda")
