"""Settings for training a translator: model, tokenizer, data, decoding and loss."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from papers_to_gpt.settings.arguments import CheckedSettings, Setting, option, read_settings, value_of
from papers_to_gpt.settings.corpora import TRAIN_WEIGHTS_HELP, check_corpora, check_test_sets
from papers_to_gpt.settings.hub import HubSettings
from papers_to_gpt.settings.preset_runs import parse_training_settings
from papers_to_gpt.settings.registries import embedded_pairs, quoted
from papers_to_gpt.settings.starting import (
    ModelFiles,
    StartingModelSettings,
    describe_vocabulary,
    follow_starting_model,
)
from papers_to_gpt.settings.training import (
    OUTPUT,
    OptimizationSettings,
    TrainingSettings,
    check_metric,
    warn_of_same_file,
)

# The scores that an evaluation reports, as in `seq2seq_scratch.data.metrics`. Importing that would import torch.
# sacreBLEU's tokenisers, which takes long to import, without "none", which unsets a setting.
BleuTokenizer = Literal[
    "zh", "13a", "intl", "char", "ja-mecab", "ko-mecab", "spm", "flores101", "flores200", "spBLEU-1K"
]
BLEU_TOKENIZER_HELP = "Tokenizer of sacreBLEU for the scores; left out, the one for target_language."
SCORES_WITHOUT_DECODING = ("loss", "perplexity")
SCORES = (*SCORES_WITHOUT_DECODING, "exact_match", "sacrebleu", "bleu_tokenized_lowercased", "chrf")


@dataclass
class ModelChoice:
    """The model family, one for each of the three papers."""

    group = "model"

    model_type: Literal["rnn_seq2seq", "bahdanau", "transformer_seq2seq"] = option(
        "bahdanau", "Model family; the settings under this heading are those of the family that is chosen."
    )


@dataclass
class RNNSeq2SeqSettings(CheckedSettings):
    """The fields of `RNNSeq2SeqConfig` that do not depend on the tokenizer."""

    group = "model"

    embedding_size: int = option(1000, "Size of the source and target embeddings.")
    hidden_size: int = option(1000, "Cells of each LSTM layer.")
    num_hidden_layers: int = option(4, "LSTM layers in the encoder, and in the decoder.")
    reverse_source: bool = option(True, "Read the source from its last token to its first.")
    dropout: float = option(0.0, "Dropout on the embeddings and between the layers.")
    initializer_range: float = option(0.08, "Weights are drawn uniformly from minus this number to this number.")
    forget_gate_bias: float = option(0.0, "Initial bias of the forget gates.")
    tie_word_embeddings: bool = option(False, "Use the target embeddings as the softmax matrix.")


@dataclass
class BahdanauSettings(CheckedSettings):
    """The fields of `BahdanauConfig` that do not depend on the tokenizer."""

    group = "model"

    embedding_size: int = option(620, "Size of the source and target embeddings (m in the paper).")
    hidden_size: int = option(1000, "Units of each encoder direction and of the decoder (n in the paper).")
    attention_size: int = option(1000, "Units of the alignment model (n' in the paper).")
    maxout_size: int = option(500, "Maxout units of the readout (l in the paper).")
    use_attention: bool = option(True, "Read the source by attention; false makes RNNencdec, with one fixed vector.")
    embedding_dropout: float = option(0.0, "Dropout on the source and target embeddings.")
    encoder_dropout: float = option(0.0, "Dropout on the source states that the attention reads.")
    readout_dropout: float = option(0.0, "Dropout on the readout before the softmax.")
    initializer_std: float = option(0.01, "Standard deviation of the initial weights.")
    attention_initializer_std: float = option(0.001, "Standard deviation of the initial W_a and U_a of the attention.")


@dataclass
class TransformerSettings(CheckedSettings):
    """The fields of `TransformerConfig` that do not depend on the tokenizer."""

    group = "model"

    share_encoder_decoder_embeddings: bool = option(
        True, "Use one table of embeddings for source and target; needs share_vocabulary and tie_word_embeddings."
    )
    tie_word_embeddings: bool = option(True, "Use the target embeddings as the softmax matrix.")
    d_model: int = option(512, "Size of the embeddings and of the output of every sub-layer.")
    encoder_layers: int = option(6, "Layers of the encoder.")
    decoder_layers: int = option(6, "Layers of the decoder.")
    encoder_attention_heads: int = option(8, "Attention heads in each layer of the encoder.")
    decoder_attention_heads: int = option(8, "Attention heads in each layer of the decoder.")
    encoder_ffn_dim: int = option(2048, "Inner size of the feed-forward sub-layers of the encoder.")
    decoder_ffn_dim: int = option(2048, "Inner size of the feed-forward sub-layers of the decoder.")
    d_k: int | None = option(None, "Size of a head's queries and keys; left out, d_model divided by the heads.")
    d_v: int | None = option(None, "Size of a head's values; left out, d_model divided by the heads.")
    activation_function: str = option(
        "relu", "Activation of the feed-forward sub-layers, by its name in the transformers library."
    )
    pre_norm: bool = option(False, "Normalize before each sub-layer and not after it, as the paper does.")
    position_embedding_type: Literal["sinusoidal", "learned", "absent"] = option(
        "sinusoidal", "Position embeddings; without any, the encoder sees a set of tokens."
    )
    max_position_embeddings: int = option(1024, "Rows of the table of positions; sinusoidal tables grow on demand.")
    dropout: float = option(0.1, "Dropout on the output of each sub-layer and on the sum of embeddings.")
    attention_dropout: float = option(0.0, "Dropout on the attention weights.")
    activation_dropout: float = option(0.0, "Dropout inside the feed-forward sub-layers.")


MODEL_SETTINGS = {
    "rnn_seq2seq": RNNSeq2SeqSettings,
    "bahdanau": BahdanauSettings,
    "transformer_seq2seq": TransformerSettings,
}


@dataclass
class TokenizerSettings(CheckedSettings):
    """The vocabulary, trained on the training split unless tokenizer_name is given."""

    group = "tokenizer"

    tokenizer_name: str | None = option(
        None, "Folder or Hub id of an existing tokenizer; left out, one is trained on the training split."
    )
    tokenizer_type: Literal["bpe", "word"] = option("bpe", "Split text into byte-pair subwords or into words.")
    vocab_size: int = option(
        8000, "Vocabulary size including special tokens; of each language if share_vocabulary is false.", at_least=1
    )
    decoder_vocab_size: int | None = option(None, "Vocabulary size of the target; left out, vocab_size.", at_least=1)
    share_vocabulary: bool = option(True, "Train one vocabulary for both languages.")
    lowercase: bool = option(False, "Convert text to lower case.")
    bpe_dropout: float = option(
        0.0,
        "Probability of skipping a merge in training, which segments words differently in every epoch.",
        at_least=0,
        below=1,
    )
    tokenizer_samples: int = option(
        1_000_000, "Number of training pairs, from the first, to train the tokenizer on.", at_least=1
    )

    def __post_init__(self):
        super().__post_init__()
        if self.decoder_vocab_size is not None and self.share_vocabulary:
            raise ValueError(
                f"decoder_vocab_size is {self.decoder_vocab_size}, but it has no effect unless share_vocabulary is "
                "false: vocab_size is the size of the shared vocabulary. Leave one of them out."
            )


@dataclass
class DataSettings(CheckedSettings):
    """The sentence pairs, from a data set or from files."""

    group = "data"

    dataset_name: str | None = option(
        None, f"Data set: {quoted(embedded_pairs())} (embedded), a Hub id, or a folder that `load_dataset` reads."
    )
    dataset_config_name: str | None = option(None, "Configuration of the data set, such as a language pair.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of the data set on the Hub.")
    streaming: bool = option(
        False, "Read the training split as a stream, each file a shard, without storing it; needs max_steps."
    )
    skip_broken_shards: bool = option(
        False, "Leave out the rest of a file of the stream that cannot be read, instead of stopping; each is reported."
    )
    train_file: list[str] = option(
        [],
        "Parquet, JSON (lines or one list), CSV or TSV file, the common prefix of two line-aligned text files, each "
        "also .gz, .xz or .zst, or a folder of them; several are several corpora.",
    )
    train_weights: list[str] = option([], TRAIN_WEIGHTS_HELP)
    validation_file: str | None = option(
        None, "File to validate on, of the kinds of train_file; left out, part of the training pairs."
    )
    test_file: list[str] = option(
        [], "File to translate and score at the end, of the kinds of train_file; several are several test sets."
    )
    source_language: str = option("en", "Language code of the source.")
    target_language: str = option("de", "Language code of the target.")
    source_column: str | None = option(None, "Column of the source, if there is no column `translation`.")
    target_column: str | None = option(None, "Column of the target, if there is no column `translation`.")
    reference_columns: list[str] = option(
        [],
        "Further references of the test sets: columns beside the target's, keys of `translation`, or endings of text "
        "files.",
    )
    max_source_length: int = option(256, "Maximum source tokens; longer training pairs are left out.", at_least=2)
    max_target_length: int = option(256, "Maximum target tokens; longer training pairs are left out.", at_least=2)
    max_train_samples: int | None = option(
        None, "Use only this many training pairs of each train_file, from the first.", at_least=1
    )
    max_eval_samples: int | None = option(None, "Validate on only this many pairs, from the first.", at_least=1)
    validation_size: int = option(
        1000, "Training pairs held out if there is no validation split, at most a tenth of them.", at_least=0
    )
    max_tokens_per_batch: int = option(
        4096, "Maximum number of rows times longest row in a batch, on each side and on each process.", at_least=1
    )

    def __post_init__(self):
        super().__post_init__()
        warn_of_same_file(self)
        files = [name for name in ("train_file", "validation_file", "test_file") if getattr(self, name)]
        if self.dataset_name is not None and files:
            raise ValueError(
                f"dataset_name is {self.dataset_name!r}, but {' and '.join(files)} {'are' if files[1:] else 'is'} set "
                "too. Unset the data set (--dataset_name none) to train on files, or leave the files out."
            )
        check_corpora(self)
        check_test_sets(self)


@dataclass
class DecodingSettings(CheckedSettings):
    """The parameters of the search, which are saved with the model."""

    group = "decoding"

    num_beams: int = option(5, "Beams of the search on the test set, saved with the model.", at_least=1)
    length_penalty: float = option(
        1.0, "Exponent of the length normalization of Wu et al. 2016; 0 turns it off, higher values prefer longer."
    )
    early_stopping: Literal["never", "false", "true"] = option(
        "never",
        "End of the search: `never` stops once no better hypothesis can follow, `true` stops at num_beams hypotheses.",
    )
    tune_length_penalty: bool = option(
        False,
        "Choose the length penalty at the end of the run, by metric_for_best_model (sacrebleu if that is loss or "
        "perplexity) on the validation split, and save it with the model. Each candidate costs a beam search of that "
        "split, which max_eval_samples bounds.",
    )
    length_penalty_candidates: list[float] = option(
        [0.6, 1.0, 1.4, 1.8, 2.2], "Length penalties that tune_length_penalty tries, besides length_penalty itself."
    )
    max_new_tokens: int = option(256, "Maximum number of tokens of a translation.", at_least=1)
    eval_num_beams: int = option(1, "Beams for the scores during training.", at_least=1)
    decode_every: int = option(
        1,
        "Translate the validation text at one in this many evaluations, and at the last one; the others report loss "
        "and perplexity.",
        at_least=1,
    )
    bleu_tokenizer: BleuTokenizer | None = option(None, BLEU_TOKENIZER_HELP)

    def __post_init__(self):
        super().__post_init__()
        if self.num_beams == 1 and self.length_penalty != 1.0:
            raise ValueError(
                f"length_penalty is {self.length_penalty}, but num_beams is 1: it chooses among the beams. "
                "Raise num_beams, or set length_penalty to 1."
            )
        if self.num_beams == 1 and self.tune_length_penalty:
            raise ValueError(
                "tune_length_penalty is true, but num_beams is 1, and a greedy search has no length penalty. Raise "
                "num_beams, or leave tune_length_penalty out."
            )
        if self.tune_length_penalty and not set(self.length_penalty_candidates) - {self.length_penalty}:
            raise ValueError(
                "tune_length_penalty is true, but length_penalty_candidates names no value besides length_penalty, "
                f"{self.length_penalty:g}. Name some, such as 0.6 1.0 1.4."
            )


@dataclass
class TranslationTraining(TrainingSettings):
    """The training settings, and those of the translation loss."""

    label_smoothing_factor: float = option(
        0.0,
        "Label smoothing: probability mass spread uniformly over the vocabulary (0 = off).",
        "optimization",
        at_least=0,
        below=1,
    )
    r_drop_weight: float = option(
        0.0,
        "R-Drop weight: run each batch twice with different dropout masks and add this multiple of their symmetric KL "
        "divergence (0 = off; doubles the compute).",
        "optimization",
        at_least=0,
    )
    project: str = option("papers-to-gpt-translation", "Project in trackers, shared by all runs of a recipe.", OUTPUT)

    def __post_init__(self):
        super().__post_init__()
        check_metric(self.metric_for_best_model, SCORES)


# The settings that a vocabulary was trained with.
VOCABULARY = ("tokenizer_type", "vocab_size", "decoder_vocab_size", "share_vocabulary", "lowercase")


def vocabulary_of(files: ModelFiles, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of the vocabulary of a translator, by its files and its config.json."""
    known = {"vocab_size": config.get("vocab_size")}
    known["share_vocabulary"] = files.path("target_tokenizer/tokenizer_config.json") is None
    if not known["share_vocabulary"]:
        known["decoder_vocab_size"] = config.get("decoder_vocab_size")
    return known | describe_vocabulary(files.json("tokenizer.json"))


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[Any, ...]:
    """Reads preset and command line. The model family decides which model settings exist."""
    settings: list[Setting] = read_settings(arguments)
    settings, reference = follow_starting_model(
        settings,
        tuple(MODEL_SETTINGS),
        lambda model_type: (each.name for each in fields(MODEL_SETTINGS[model_type])),
        vocabulary_of,
        VOCABULARY,
    )
    model_type = value_of(settings, "model_type") or ModelChoice.model_type
    asks_for_help = any(setting.key == "help" for setting in settings)
    if model_type not in MODEL_SETTINGS and not asks_for_help:
        raise ValueError(f"model_type is {model_type!r}; it must be one of {', '.join(MODEL_SETTINGS)}.")
    parsed = parse_training_settings(
        "train_translation",
        settings,
        ModelChoice,
        MODEL_SETTINGS.get(model_type, BahdanauSettings),
        StartingModelSettings,
        TokenizerSettings,
        DataSettings,
        DecodingSettings,
        OptimizationSettings,
        TranslationTraining,
        HubSettings,
        description=description,
        metrics=[f"{split}_{score}" for split in ("eval", "test") for score in SCORES],
    )
    if reference is not None:
        reference.refuse_contradictions(settings, parsed)
    _, model, _, tokenizer, data, decoding, _, training, _ = parsed
    if getattr(model, "position_embedding_type", None) == "learned":
        # A longer pair would end the run, in its first update or after hours.
        data.max_source_length = min(data.max_source_length, model.max_position_embeddings)
        data.max_target_length = min(data.max_target_length, model.max_position_embeddings)
    metric = training.metric_for_best_model
    if decoding.decode_every > 1 and metric not in SCORES_WITHOUT_DECODING:
        raise ValueError(
            f"decode_every is {decoding.decode_every}, but metric_for_best_model is {metric!r}, which the evaluations "
            f"in between do not report. Set it to {' or '.join(SCORES_WITHOUT_DECODING)}, or leave decode_every out."
        )
    if data.skip_broken_shards and not data.streaming:
        raise ValueError(
            "skip_broken_shards is true, but streaming is false: only a stream is read by shards. Set streaming true, "
            "or leave skip_broken_shards out."
        )
    if tokenizer.bpe_dropout and data.streaming:
        raise ValueError(
            f"bpe_dropout is {tokenizer.bpe_dropout}, but streaming is true: it needs examples that can be read by "
            "index. Leave one of them out."
        )
    return parsed
