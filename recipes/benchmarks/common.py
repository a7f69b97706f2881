"""What the contenders of `benchmark.py` share: configurations, vocabularies, the measurement of decoding.

All translators train on the same sentence pairs with the same vocabulary, with models of the same sizes, dropout 0.1
and label smoothing 0.1. Each fills its batches and takes its steps in its own way: ours with the recipe's loop,
`MarianMTModel` with the `Seq2SeqTrainer` of transformers' translation example, JoeyNMT with its `TrainManager`, eole
with its `Trainer`. Where a peer leaves a choice, the benchmark chooses in the peer's favour:

- `MarianMTModel` trains on batches of 96 sentences, which have about as much padding as the others' batches. The
  example's command uses 4.
- eole prepares its batches in the training process, most of them before the clock starts. Its default is two more
  processes, which would compete for the cores. Its bucket is the training set; a larger one would hold copies.
- eole, like ours and `MarianMTModel`, applies no dropout to attention weights. JoeyNMT has one rate for everything.
- JoeyNMT supports half precision on GPUs only. The benchmark opens the autocast region that it uses there.

For decoding, all contenders load the weights of one Transformer that we trained, so that they search for the same
translations. Each function imports its own library, because peers are optional and a process that is measured should
hold no other contender's code.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from papers_to_gpt.benchmarks.gpts import MatrixPeak
from papers_to_gpt.benchmarks.workload import Stopwatch
from papers_to_gpt.engine.operations import training_flops
from papers_to_gpt.settings.benchmarking import Workload

# Number of test sentences that Marian and JoeyNMT translate together, in the order of the file; JoeyNMT's default.
DECODING_BATCH_SIZE = 64

# An update that no measurement reaches, and a token that no vocabulary has.
NEVER = 10**9


def transformer_config(work: Workload, vocab_size: int) -> Any:
    """Returns the configuration of our Transformer in the workload's size, with dropout 0.1."""
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
    """Returns the configuration of our attention model of 2014 in the workload's size, with every dropout at 0.1."""
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


def rnn_seq2seq_config(work: Workload, vocab_size: int) -> Any:
    """Returns the configuration of our LSTM of 2014, with the layers of the workload and dropout 0.1."""
    from seq2seq_scratch import RNNSeq2SeqConfig

    return RNNSeq2SeqConfig(
        vocab_size=vocab_size,
        decoder_vocab_size=vocab_size,
        embedding_size=work.embedding_size,
        hidden_size=work.hidden_size,
        num_hidden_layers=work.num_layers,
        dropout=0.1,
    )


def subwords(sentences: Sequence[str], tokenizer: Any) -> list[str]:
    """Returns sentences with spaces between their subwords, the form that JoeyNMT and eole read."""
    rows = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    return [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in rows]


def write_vocabulary(path: Path, tokenizer: Any) -> None:
    """Writes the vocabulary with one entry per line, in the order of the ids."""
    entries = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")


def measure_decoding(
    work: Workload,
    folder: Path,
    model: nn.Module | None,
    tokenizer: Any,
    translate: Callable[[list[str]], list[str]],
    **batch: int,
) -> dict[str, Any]:
    """Clocks the translation of the test sentences, after a first batch that is not clocked.

    Args:
        work: limits the number of sentences.
        folder: the prepared data.
        model: the translator, for its number of parameters; None if it is no module.
        tokenizer: counts the tokens of the translations.
        translate: function from sentences to their translations.
        batch: `batch_tokens` or `batch_sentences`, the largest number of a batch.

    Returns:
        What the stopwatch measured, where `items` are sentences, `mean_output_tokens` and the size of a batch. A
        translation of a forced length has that many tokens, whatever becomes of them in the text.
    """
    sentences = json.loads((folder / "test_sentences.json").read_text(encoding="utf-8"))[: work.max_sentences]
    translate(sentences[:DECODING_BATCH_SIZE])
    watch = Stopwatch(device=work.device)
    watch.start()
    translations = translate(sentences)
    watch.stop()
    watch.count(len(sentences))
    mean = work.output_tokens
    if mean is None:
        lengths = [len(ids) for ids in tokenizer(translations)["input_ids"]]
        mean = sum(lengths) / len(lengths)
    return watch.result(model) | {"mean_output_tokens": mean, **batch}


def translator_utilization(work: Workload, watch: Stopwatch, model: nn.Module) -> dict[str, float]:
    """Returns the share of a GPU's peak that the clocked updates of a translator reach; nothing on the CPU.

    The peak is measured after the updates. On a CPU, whose speed changes meanwhile, it would be another one.
    """
    if not work.is_on_gpu:
        return {}
    peak = MatrixPeak(device=work.device)
    peak.measure()
    return peak.utilization(training_flops(model, watch.tokens - watch.items, watch.items), watch.clocked)


def forced_length(work: Workload) -> dict[str, int]:
    """Returns the arguments of transformers' `generate()` that give every translation the workload's length.

    No token ends it, because `eos_token_id` is none that exists. With `min_new_tokens`, the search would spend a
    quarter of its time on forbidding the end.
    """
    return {} if work.output_tokens is None else {"eos_token_id": NEVER, "max_new_tokens": work.output_tokens}


def length_penalty_of(generation_config: Any) -> float:
    """Returns a model's length penalty; 1, which is the default of `generate()`, if it was saved without one."""
    saved = generation_config.length_penalty
    return 1.0 if saved is None else saved


def check_transplantable(config: Any) -> None:
    """Raises ValueError for a Transformer whose weights do not fit the peers' models."""
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
            f"have { ({name: needed[name] for name in wrong}) }. Name another model, or leave model_name_or_path out."
        )


def renamed(name: str, replacements: dict[str, str]) -> str:
    """Returns a weight's name with every replacement made, in their order."""
    for ours, theirs in replacements.items():
        name = name.replace(ours, theirs)
    return name
