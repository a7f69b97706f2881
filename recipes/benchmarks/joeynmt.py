"""JoeyNMT as a contender of `benchmark.py`."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from papers_to_gpt.benchmarks.common import (
    DECODING_BATCH_SIZE,
    NEVER,
    check_transplantable,
    length_penalty_of,
    measure_decoding,
    renamed,
    subwords,
    write_vocabulary,
)
from papers_to_gpt.benchmarks.workload import Stopwatch, count_padded
from papers_to_gpt.settings.benchmarking import Workload


def joeynmt_settings(
    work: Workload, folder: Path, model_dir: str, model: dict[str, Any], splits: dict[str, str], **testing: Any
) -> Any:
    """Returns JoeyNMT's settings, which it parses from the structure of its YAML files.

    Args:
        work: the size of a batch.
        folder: the folder of the vocabulary.
        model_dir: JoeyNMT's output folder.
        model: the section of that name.
        splits: the common beginning of each split's file names, by `train`, `dev` or `test`.
        testing: the section of that name.
    """
    from joeynmt.config import parse_global_args

    side = {"level": "word", "lowercase": False, "voc_file": str(folder / "vocabulary.txt")}
    data = {"dataset_type": "plain", "src": side | {"lang": "source"}, "trg": side | {"lang": "target"}}
    training = {
        "optimizer": "adam",
        "adam_betas": [0.9, 0.98],
        "learning_rate": 1e-3,
        "learning_rate_min": 0.0,
        "learning_rate_warmup": 100,
        "scheduling": "warmupinversesquareroot",
        "normalization": "tokens",
        "label_smoothing": 0.1,
        "clip_grad_norm": 1.0,
        "batch_type": "token",
        "batch_size": work.max_tokens_per_batch,
        "epochs": 1,
        "validation_freq": NEVER,
        "logging_freq": NEVER,
    }
    return parse_global_args(
        {
            "name": "benchmark",
            "model_dir": model_dir,
            "use_cuda": False,
            "data": data | splits,
            "model": {"initializer": "xavier_uniform", "embed_initializer": "xavier_uniform", **model},
            "training": training,
            "testing": testing,
        },
        mode="train",
    )


def joeynmt_transformer(config: Any) -> dict[str, Any]:
    """Returns the settings of JoeyNMT's Transformer for the sizes of our configuration."""

    def stack(side: str) -> dict[str, Any]:
        return {
            "type": "transformer",
            "num_layers": getattr(config, f"{side}_layers"),
            "num_heads": getattr(config, f"{side}_attention_heads"),
            "hidden_size": config.d_model,
            "ff_size": getattr(config, f"{side}_ffn_dim"),
            "embeddings": {"embedding_dim": config.d_model, "scale": True, "dropout": config.dropout},
            "dropout": config.dropout,
            "layer_norm": "post",
        }

    return {"encoder": stack("encoder"), "decoder": stack("decoder"), "tied_embeddings": True, "tied_softmax": True}


def joeynmt_recurrent(config: Any) -> dict[str, Any]:
    """Returns the settings of JoeyNMT's GRU translator with attention for the sizes of our configuration."""
    common = {
        "type": "recurrent",
        "rnn_type": "gru",
        "hidden_size": config.hidden_size,
        "num_layers": 1,
        "embeddings": {"embedding_dim": config.embedding_size, "dropout": config.embedding_dropout},
        "dropout": config.encoder_dropout,
    }
    decoder = {"attention": "bahdanau", "init_hidden": "bridge", "hidden_dropout": config.readout_dropout}
    return {
        "encoder": common | {"bidirectional": True},
        "decoder": common | decoder,
        "tied_embeddings": True,
    }


def train_joeynmt(
    work: Workload, folder: Path, make_config: Callable, make_model: Callable, bf16: bool
) -> dict[str, Any]:
    """Clocks the training of a JoeyNMT model; `items` are target tokens.

    Args:
        work: the sizes and the number of updates.
        folder: the prepared data.
        make_config: function from the workload and the vocabulary's size to our configuration of the same size.
        make_model: function from that configuration to JoeyNMT's settings of the model.
        bf16: True to train in JoeyNMT's autocast region with bf16.
    """
    from joeynmt.prediction import prepare
    from joeynmt.training import TrainManager

    watch = Stopwatch()
    vocab_size = len((folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")) - 1
    with tempfile.TemporaryDirectory() as model_dir:
        splits = {"train": str(folder / "train"), "dev": str(folder / "validation")}
        settings = joeynmt_settings(work, folder, model_dir, make_model(make_config(work, vocab_size)), splits)
        network, train_data, dev_data, _ = prepare(settings, rank=0, mode="train")
        manager = TrainManager(
            rank=0,
            model=network,
            model_dir=Path(model_dir),
            device=settings.device,
            autocast={"device_type": "cpu", "enabled": bf16, "dtype": torch.bfloat16},
            train_args=settings.train,
            dev_args=settings.test,
        )
        make_loader = train_data.make_iter

        class ClockedLoader:
            """JoeyNMT's loader under a stopwatch; one endless epoch, so that the clock never stops between epochs."""

            def __init__(self, **arguments: Any):
                self.loader = make_loader(**arguments)
                self.batch_sampler = self.loader.batch_sampler

            def __iter__(self) -> Iterator:
                endless = itertools.chain.from_iterable(itertools.repeat(self.loader))
                padding = network.pad_index
                return watch.over(endless, work, lambda batch: count_padded(batch.src, batch.trg, padding, padding))

        train_data.make_iter = ClockedLoader
        manager.train_and_validate(train_data, dev_data)
    return watch.result(network)


# JoeyNMT's names of our modules, in the order of replacement.
JOEYNMT_NAMES = {
    "model.encoder.embed_tokens": "src_embed.lut",
    "model.decoder.embed_tokens": "trg_embed.lut",
    "lm_head": "decoder.output_layer",
    "model.": "",
    "cross_attention_add_norm.norm": "dec_layer_norm",
    "feed_forward_add_norm.norm": "feed_forward.layer_norm",
    "cross_attention": "src_trg_att",
    "q_proj": "q_layer",
    "k_proj": "k_layer",
    "v_proj": "v_layer",
    "out_proj": "output_layer",
    "feed_forward.inner": "feed_forward.pwff_layer.0",
    "feed_forward.outer": "feed_forward.pwff_layer.3",
}

JOEYNMT_NAMES_BY_STACK = {
    "encoder": {"self_attention_add_norm.norm": "layer_norm", "self_attention": "src_src_att"},
    "decoder": {"self_attention_add_norm.norm": "x_layer_norm", "self_attention": "trg_trg_att"},
}


def joeynmt_with_weights(model: nn.Module, settings: Any, vocabulary: Any) -> nn.Module:
    """Returns a JoeyNMT model with the weights of our Transformer, which computes the same."""
    from joeynmt.model import build_model

    check_transplantable(model.config)
    joeynmt = build_model(settings.model, src_vocab=vocabulary, trg_vocab=vocabulary)
    weights = {}
    for name, tensor in model.state_dict().items():
        stack = JOEYNMT_NAMES_BY_STACK["encoder" if name.startswith("model.encoder") else "decoder"]
        weights[renamed(name, stack | JOEYNMT_NAMES)] = tensor
    missing, unexpected = joeynmt.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"encoder.pe.pe", "decoder.pe.pe"}, (missing, unexpected)
    for module in joeynmt.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    return joeynmt.eval()


def decode_joeynmt(work: Workload, folder: Path, num_beams: int) -> dict[str, Any]:
    """Clocks the translation of the test sentences with JoeyNMT; `items` are sentences."""
    from joeynmt.data import load_data
    from joeynmt.prediction import predict

    from seq2seq_scratch.translation import load_translator

    model, tokenizer, _ = load_translator(work.model_name_or_path)
    with tempfile.TemporaryDirectory() as model_dir:
        write_vocabulary(Path(model_dir, "vocabulary.txt"), tokenizer)
        search = {"beam_size": num_beams, "batch_size": DECODING_BATCH_SIZE}
        if num_beams > 1:
            search["beam_alpha"] = length_penalty_of(model.generation_config)
        if work.output_tokens is not None:
            search |= {"min_output_length": work.output_tokens, "max_output_length": work.output_tokens}
        settings = joeynmt_settings(
            work, Path(model_dir), model_dir, joeynmt_transformer(model.config), {"test": ""}, **search
        )
        vocabulary, *_, stream = load_data(settings.data, datasets=["stream"])
    joeynmt = joeynmt_with_weights(model, settings, vocabulary)
    del model

    def translate_all(sentences: list[str]) -> list[str]:
        stream.reset_cache()
        for line in subwords(sentences, tokenizer):
            stream.set_item(line)
        hypotheses = predict(
            model=joeynmt,
            data=stream,
            device=settings.device,
            n_gpu=0,
            compute_loss=False,
            normalization="none",
            args=settings.test,
            autocast={"device_type": "cpu", "enabled": False},
        )[3]
        return [tokenizer.decode(tokenizer.convert_tokens_to_ids(row), skip_special_tokens=True) for row in hypotheses]

    return measure_decoding(work, folder, joeynmt, tokenizer, translate_all, batch_sentences=DECODING_BATCH_SIZE)
