"""Fixtures of tests that fine-tune a tiny model by the script."""

import io
import sys

import pytest
import torch
from finetuning_runs import TINY, sentences, write_csv

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt import classify, finetune_gpt1


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """Saves a random model in the form of a pre-trained one."""
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = train_tokenizer([text for text, _ in sentences(60)], merges=80)
    torch.manual_seed(0)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    config = GPT1Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=24,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
        embedding_dropout=0.0,
        attention_dropout=0.0,
        residual_dropout=0.0,
        **ids,
    )
    GPT1ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for split, count, seed in (("train", 71, 1), ("validation", 23, 2), ("test", 10, 3)):
        write_csv(folder / f"{split}.csv", sentences(count, seed))
    return [f"--{split}_file={folder / split}.csv" for split in ("train", "validation", "test")]


@pytest.fixture
def finetune(tmp_path, pretrained, monkeypatch):
    """Runs the script in this process and returns the folder of the model."""

    def start(*arguments, name="run"):
        folder = tmp_path / name
        settings = ["--model_name_or_path", str(pretrained), *TINY, "--output_dir", str(folder), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["finetune_gpt1.py", *settings])
        finetune_gpt1.main()
        return folder

    return start


@pytest.fixture
def predict(monkeypatch, capsys):
    """Runs the prediction script in this process and returns the rows that it prints."""

    def start(folder, *arguments, lines=None):
        monkeypatch.setattr(sys, "argv", ["classify.py", "--model_name_or_path", str(folder), *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines or ())))
        capsys.readouterr()
        classify.main()
        return [line.split("\t") for line in capsys.readouterr().out.splitlines()]

    return start
