"""Settings for pre-training GPT-1: model, tokenizer, text and samples."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from papers_to_gpt.settings.arguments import CheckedSettings, option, read_settings
from papers_to_gpt.settings.corpora import TRAIN_WEIGHTS_HELP, check_corpora
from papers_to_gpt.settings.hub import HubSettings
from papers_to_gpt.settings.preset_runs import parse_training_settings
from papers_to_gpt.settings.registries import embedded_texts, quoted
from papers_to_gpt.settings.starting import ModelFiles, StartingModelSettings, follow_starting_model
from papers_to_gpt.settings.training import (
    OUTPUT,
    OptimizationSettings,
    TrainingSettings,
    check_metric,
    warn_of_same_file,
)

# The scores that an evaluation reports. Bits per byte are those of a probability of the whole text, which a model that
# predicts masked tokens does not give.
NEXT_TOKEN, MASKED = "next_token", "masked"
SCORES = {
    NEXT_TOKEN: ("loss", "perplexity", "word_perplexity", "bits_per_byte"),
    MASKED: ("loss", "perplexity", "accuracy"),
}

# Dividing logits by a smaller number makes them overflow, and their softmax becomes nan.
LOWEST_TEMPERATURE = 0.0001


@dataclass
class ModelSettings(CheckedSettings):
    """The fields of `GPT1Config` that depend neither on the objective nor on the tokenizer nor on a task."""

    group = "model"

    max_position_embeddings: int = option(512, "Rows of the learned table of positions: the maximum length.")
    hidden_size: int = option(768, "Size of the embeddings and of the residual stream.")
    num_hidden_layers: int = option(12, "Transformer blocks.")
    num_attention_heads: int = option(12, "Attention heads in each block.")
    intermediate_size: int | None = option(
        None, "Inner size of the feed-forward layers; left out, 4 times hidden_size."
    )
    embedding_dropout: float = option(0.1, "Dropout on the sum of token and position embeddings.")
    attention_dropout: float = option(0.1, "Dropout on the attention weights.")
    residual_dropout: float = option(0.1, "Dropout on the outputs of attention and feed-forward layers.")
    layer_norm_eps: float = option(1e-5, "Term added to the variance in layer normalization.")
    initializer_range: float = option(0.02, "Standard deviation of the initial weights.")
    sinusoidal_positions: bool = option(False, "Initialize the learned table of positions with sinusoids.")
    tie_word_embeddings: bool = option(True, "Use the token embeddings as the softmax matrix.")
    lstm_size: int | None = option(
        None, "Cells of the LSTM layer that replaces every block, as in table 5 of the paper; left out, Transformer."
    )


@dataclass
class VocabularySettings(CheckedSettings):
    """The vocabulary: learned from the training text unless an existing one is named."""

    group = "tokenizer"

    num_merges: int = option(40_000, "Number of byte-pair merges to learn.", at_least=1)
    tokenizer_samples: int = option(100_000, "Rows of text, from the first, to train the tokenizer on.", at_least=1)
    tokenizer_name: str | None = option(
        None, "Folder or Hub id of an existing tokenizer; left out, one is trained on the training text."
    )
    vocabulary_file: str | None = option(None, "OpenAI's file encoder_bpe_40000.json; needs merges_file.")
    merges_file: str | None = option(None, "OpenAI's file vocab_40000.bpe; needs vocabulary_file.")

    def __post_init__(self):
        super().__post_init__()
        if (self.vocabulary_file is None) != (self.merges_file is None):
            raise ValueError("vocabulary_file and merges_file go together: set both or none.")


@dataclass
class TextSettings(CheckedSettings):
    """The text and how it is cut into blocks."""

    group = "data"

    dataset_name: str | None = option(None, f"Data set: {quoted(embedded_texts())} (embedded) or a Hub id.")
    dataset_config_name: str | None = option(None, "Configuration of the data set.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of the data set on the Hub.")
    train_split: str = option("train", "Split to train on.")
    validation_split: str = option("validation", "Split to validate on.")
    train_file: list[str] = option(
        [],
        "Text, Parquet, JSON (lines or one list), CSV or TSV file, also .gz, .xz or .zst, or a folder of such files; "
        "several are several corpora.",
    )
    train_weights: list[str] = option([], TRAIN_WEIGHTS_HELP)
    validation_file: str | None = option(None, "File or folder to validate on, of the kinds of train_file.")
    text_column: str = option("text", "Column that holds the text.")
    row_is_line: bool = option(False, "Treat each line of a text file as a document, instead of the file.")
    streaming: bool = option(
        False, "Read the training text as a stream, each file a shard, without storing it; needs max_steps."
    )
    skip_broken_shards: bool = option(
        False, "Leave out the rest of a file of the stream that cannot be read, instead of stopping; each is reported."
    )
    block_size: int | None = option(
        None, "Tokens of a training sequence; left out, max_position_embeddings.", at_least=2
    )
    short_block_size: int | None = option(
        None, "Cut some of the blocks into shorter ones of this many tokens.", at_least=2
    )
    short_block_share: float = option(
        0.9, "Fraction of the blocks that are cut to short_block_size.", at_least=0, at_most=1
    )
    repeated_block_share: float = option(
        0.0, "Fraction of the short blocks that repeat a single passage.", at_least=0, at_most=1
    )
    separate_documents: bool = option(False, "Mask attention between different documents in a block.")
    per_device_train_batch_size: int = option(8, "Blocks per training batch on each process.", at_least=1)
    per_device_eval_batch_size: int = option(8, "Blocks per evaluation batch on each process.", at_least=1)
    max_eval_blocks: int | None = option(None, "Validate on only this many blocks, from the first.", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        warn_of_same_file(self)
        if self.dataset_name is None and not self.train_file:
            raise ValueError("There is no text to train on: set one of dataset_name and train_file.")
        if self.dataset_name is not None and self.train_file:
            raise ValueError(
                f"dataset_name is {self.dataset_name!r} and train_file is {' '.join(self.train_file)}, but a run "
                "takes one of dataset_name and train_file. Unset the other: --dataset_name none, or --train_file none."
            )
        check_corpora(self)
        if self.dataset_revision is not None and self.dataset_name in (None, *embedded_texts()):
            raise ValueError(
                f"dataset_revision is {self.dataset_revision!r}, but dataset_name is {self.dataset_name!r}: only a "
                "data set on the Hub has revisions. Leave dataset_revision out, or name such a data set."
            )
        if self.train_file and self.validation_file is None:
            raise ValueError("train_file is set, but validation_file is not. Name the text to validate on.")
        if self.skip_broken_shards and not self.streaming:
            raise ValueError(
                "skip_broken_shards is true, but streaming is false: only a stream is read by shards. Set streaming "
                "true, or leave skip_broken_shards out."
            )
        if self.short_block_size is not None and (self.streaming or self.separate_documents):
            other = "streaming" if self.streaming else "separate_documents"
            raise ValueError(f"short_block_size and {other} are both set. Set one, or choose a smaller block_size.")
        if self.repeated_block_share and self.short_block_size is None:
            raise ValueError(
                f"repeated_block_share is {self.repeated_block_share}, a fraction of the short blocks, but there "
                "are none. Set short_block_size."
            )


@dataclass
class SampleSettings(CheckedSettings):
    """The texts that the model continues at every evaluation, as samples to read."""

    group = "decoding"

    num_samples: int = option(3, "Validation texts to continue at every evaluation.", at_least=0)
    sample_prompt_tokens: int = option(8, "Tokens of each text that the model is given.", at_least=1)
    sample_new_tokens: int = option(100, "Tokens that the model adds.", at_least=1)
    temperature: float = option(0.8, "Temperature of sampling.", at_least=LOWEST_TEMPERATURE)
    top_k: int = option(50, "Sample from this many most probable tokens; 0 samples from all.", at_least=0)


@dataclass
class PretrainingSettings(TrainingSettings):
    """The training settings."""

    objective: Literal["next_token", "masked"] = option(
        "next_token",
        "What the model predicts: the next token, with causal attention; or, as in BERT, 15 % of the tokens, most of "
        "them masked, with bidirectional attention. Masked models are for fine-tuning and cannot generate text.",
        "model",
    )
    project: str = option("papers-to-gpt-pretraining", "Project in trackers, shared by all runs of a recipe.", OUTPUT)

    def __post_init__(self):
        super().__post_init__()
        check_metric(self.metric_for_best_model, SCORES[self.objective])


def vocabulary_and_objective_of(files: ModelFiles, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of the vocabulary of a GPT-1 and its objective by its files."""
    return {
        "num_merges": len((files.json("tokenizer.json").get("model") or {}).get("merges") or []),
        "objective": MASKED if config.get("attention") == "bidirectional" else NEXT_TOKEN,
    }


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[Any, ...]:
    """Reads preset and command line."""
    settings, reference = follow_starting_model(
        read_settings(arguments),
        ("gpt1",),
        lambda model_type: (each.name for each in fields(ModelSettings)),
        vocabulary_and_objective_of,
        ("num_merges", "objective"),
    )
    parsed = parse_training_settings(
        "pretrain_gpt1",
        settings,
        ModelSettings,
        StartingModelSettings,
        VocabularySettings,
        TextSettings,
        SampleSettings,
        OptimizationSettings,
        PretrainingSettings,
        HubSettings,
        description=description,
        metrics=[f"eval_{score}" for score in dict.fromkeys(SCORES[NEXT_TOKEN] + SCORES[MASKED])],
    )
    model, training = parsed[0], parsed[6]
    if training.objective == MASKED and model.lstm_size is not None:
        raise ValueError(
            f"objective is masked, but lstm_size is {model.lstm_size}: an LSTM reads from left to right and cannot "
            "use both sides of a token. Leave lstm_size out (--lstm_size none), or set objective to next_token."
        )
    if reference is not None:
        reference.refuse_contradictions(settings, parsed)
    return parsed
