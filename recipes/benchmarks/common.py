"""What the contenders of `benchmark.py` share."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from papers_to_gpt.benchmarks.workload import Stopwatch
from papers_to_gpt.settings.benchmarking import Workload

# Of Marian and JoeyNMT, whose default it is: test sentences translated together, in the order of the file.
DECODING_BATCH_SIZE = 64


# An update that no measurement reaches.
NEVER = 10**9


def transformer_config(work: Workload, vocab_size: int) -> Any:
    """Our Transformer of the size in question, with dropout 0.1."""
    from seq2seq_scratch import TransformerConfig

    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=work.d_model,
        encoder_layers=work.num_layers,
        decoder_layers=work.num_layers,
        encoder_attention_heads=work.num_heads,
        decoder_attention_heads=work.num_heads,
        encoder_ffn_dim=work.d_ff,
        decoder_ffn_dim=work.d_ff,
        dropout=0.1,
    )


def bahdanau_config(work: Workload, vocab_size: int) -> Any:
    """Our attention model of 2014, with dropout 0.1 wherever it has one."""
    from seq2seq_scratch import BahdanauConfig

    return BahdanauConfig(
        vocab_size=vocab_size,
        embedding_size=work.embedding_size,
        hidden_size=work.hidden_size,
        attention_size=work.hidden_size,
        maxout_size=work.hidden_size // 2,
        embedding_dropout=0.1,
        encoder_dropout=0.1,
        readout_dropout=0.1,
    )


def subwords(sentences: Sequence[str], tokenizer: Any) -> list[str]:
    """Sentences with spaces between their subwords, as JoeyNMT and eole read them."""
    rows = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    return [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in rows]


def write_vocabulary(path: Path, tokenizer: Any) -> None:
    """One entry a line in the order of their ids."""
    entries = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")


def measure_decoding(
    work: Workload, folder: Path, model: nn.Module, tokenizer: Any, translate: Callable[[list[str]], list[str]]
) -> dict[str, Any]:
    """Sentences translated, after a first batch off the clock, and how many tokens the translations have."""
    sentences = json.loads((folder / "test_sentences.json").read_text(encoding="utf-8"))[: work.max_sentences]
    translate(sentences[:DECODING_BATCH_SIZE])
    watch = Stopwatch()
    watch.start()
    translations = translate(sentences)
    watch.stop()
    watch.count(len(sentences))
    lengths = [len(ids) for ids in tokenizer(translations)["input_ids"]]
    return watch.result(model) | {"mean_output_tokens": sum(lengths) / len(lengths)}


def length_penalty_of(model: nn.Module) -> float:
    """What `generate()` does with a model that was saved without one."""
    saved = model.generation_config.length_penalty
    return 1.0 if saved is None else saved


def check_transplantable(config: Any) -> None:
    """Raises ValueError for a Transformer whose weights mean something else in the peers' models."""
    needed = {
        "model_type": "transformer_seq2seq",
        "pre_norm": False,
        "position_embedding_type": "sinusoidal",
        "share_encoder_decoder_embeddings": True,
        "d_k": None,
        "d_v": None,
    }
    wrong = {name: getattr(config, name, None) for name in needed}
    wrong = {name: value for name, value in wrong.items() if value != needed[name]}
    if wrong:
        raise ValueError(
            f"model_name_or_path names a model with {wrong}. The peers decode with its weights, for which it must "
            f"have { ({name: needed[name] for name in wrong}) }."
        )


def renamed(name: str, replacements: dict[str, str]) -> str:
    for ours, theirs in replacements.items():
        name = name.replace(ours, theirs)
    return name
