"""A tiny translator, examples for it and what its runs leave, for the tests of the training loop."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from seq2seq_scratch import RNNSeq2SeqConfig, RNNSeq2SeqForConditionalGeneration

LENGTHS = np.random.default_rng(0).integers(2, 7, size=(64, 2))


def collate(examples):
    def pad(key, value):
        rows = [torch.tensor(example[key]) for example in examples]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    inputs = pad("input_ids", 1)
    return {"input_ids": inputs, "attention_mask": (inputs != 1).long(), "labels": pad("labels", -100)}


def tiny_model(dropout=0.2):
    torch.manual_seed(0)
    config = RNNSeq2SeqConfig(
        vocab_size=20, decoder_vocab_size=20, embedding_size=8, hidden_size=12, num_hidden_layers=2, dropout=dropout
    )
    return RNNSeq2SeqForConditionalGeneration(config)


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(left, right):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def log_of(folder):
    """The log's lines without what the clock decides."""
    lines = [json.loads(line) for line in (Path(folder) / "train_log.jsonl").open()]
    return [{name: value for name, value in line.items() if "per_second" not in name} for line in lines]
