"""Tiny models of every family as runs leave them, and the script that shares them."""

import json
import sys

import torch
import yaml

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from gpt1_scratch import tokenization as gpt1_tokenization
from papers_to_gpt import share
from seq2seq_scratch import TRANSLATION_CONFIGS, TRANSLATION_MODELS
from seq2seq_scratch import tokenization as seq2seq_tokenization

REPOSITORY = "writer/model"
TINY_TRANSLATORS = {
    "rnn_seq2seq": {"embedding_size": 6, "hidden_size": 8},
    "bahdanau": {"embedding_size": 6, "hidden_size": 8, "attention_size": 6, "maxout_size": 4},
    "transformer_seq2seq": {"hidden_size": 8, "encoder_layers": 1, "decoder_layers": 1, "intermediate_size": 8}
    | {"encoder_attention_heads": 2, "decoder_attention_heads": 2},
}
FAMILIES = (*TINY_TRANSLATORS, "gpt1")
CARD = "---\nlicense: apache-2.0\n---\n# A model\n"


def tiny_model(family, folder):
    """Saves a tiny model and its tokenizers as the recipes do; returns the three."""
    torch.manual_seed(0)
    texts = ["there were two friends", "zwei kleine Freunde waren da"] * 9
    if family == "gpt1":
        tokenizer = gpt1_tokenization.train_tokenizer(texts, merges=20)
        ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 12}
        model, target = GPT1ForCausalLM(GPT1Config(vocab_size=len(tokenizer), **sizes, **ids)), None
        tokenizer.save_pretrained(folder)
    else:
        tokenizer, target = (
            seq2seq_tokenization.train_tokenizer(texts, kind="bpe", vocab_size=size) for size in (270, 280)
        )
        if family == "transformer_seq2seq":
            target = tokenizer  # one vocabulary for both languages
        sizes = {"vocab_size": len(tokenizer), "decoder_vocab_size": len(target), **TINY_TRANSLATORS[family]}
        config = TRANSLATION_CONFIGS[family](**sizes)
        model = TRANSLATION_MODELS[type(config)](config)
        seq2seq_tokenization.save_tokenizers(folder, tokenizer, target)
    model.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "all_results.json").write_text('{"eval_loss": 1.0}\n')
    # What a run leaves besides, and keeps.
    record = {"settings": {"train_file": "/data/secret/train.txt"}, "parameters": 1, "versions": {}}
    record["machine"] = {"device": "a processor", "processes": 1, "threads": 1, "mixed_precision": "no"}
    (folder / "run.yaml").write_text(yaml.safe_dump(record))
    (folder / "checkpoint-2" / "training_state").mkdir(parents=True)
    tokenizer.save_pretrained(folder / "checkpoint-2")
    torch.save({}, folder / "checkpoint-2" / "training_state" / "optimizer.pt")
    return model.eval(), tokenizer, None if target is tokenizer else target


def run_share(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["share.py", *map(str, arguments)])
    share.main()


def spoil(name):
    """Returns a function that changes a JSON file of a folder."""
    return lambda change: (
        lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    )
