"""Settings of GPT-1 (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training")."""

# First: what is imported below may have another name in the versions that this refuses.
from .library_version import check_version  # noqa: F401  # isort: skip

import os
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


@strict
class GPT1Config(PreTrainedConfig):
    """The settings of a GPT-1; the defaults are those of the published model, which has 116,534,784 parameters.

    Args:
        vocab_size: number of token embeddings and outputs of the softmax; 40,478 for the published 40,000 merges.
        max_position_embeddings: the longest sequence; positions are learned, so there are no embeddings beyond.
        hidden_size: model width D, a multiple of `num_attention_heads`.
        num_hidden_layers: number of blocks.
        num_attention_heads: number of heads H of each block.
        intermediate_size: inner width of the feed-forward layers; by default 4 x `hidden_size`.
        embedding_dropout: dropout on the sum of token and position embeddings.
        attention_dropout: dropout on the attention weights.
        residual_dropout: dropout on the outputs of attention and feed-forward layers.
        layer_norm_eps: added to the variance in layer normalisation.
        initializer_range: standard deviation of the initial weight matrices and embeddings; biases start at 0.
        sinusoidal_positions: whether the position embeddings, which are learned in any case, start as sinusoids
            (Vaswani et al. 2017, section 3.5) with the standard deviation `initializer_range`. Then a head can attend
            to neighbours from the start, while it must first learn which random vectors belong to adjacent positions.
        use_cache: whether inference returns keys and values for the next call.
        tie_word_embeddings: whether the softmax uses the token embeddings, as in equation 2 of the paper.
        pad_token_id, bos_token_id, eos_token_id: not in the published vocabulary; a tokenizer of
            `gpt1_scratch.tokenization` adds them.
        classifier_dropout: dropout on the state that a head reads.
        auxiliary_loss_weight: the paper's lambda, the weight of the language model's loss in fine-tuning; 0 turns it
            off. By default 0.5, and 0 with bidirectional attention, for which there is no such loss.
        lstm_size: number of cells of the LSTM layer that replaces each block, as in table 5 of the paper (one layer of
            2048); `None` for Transformer blocks.
        both_orders: whether `GPT1ForSequenceClassification` reads a pair of texts in both orders and adds the states,
            as the paper does for similarity.
        delimiter_token_id: the token between the texts of a pair; required by `both_orders`.
        attention: "causal", as in the paper, or "bidirectional": every position attends to the whole text, as in BERT
            (Devlin et al. 2018). Such a model predicts masked tokens (`GPT1ForMaskedLM`) and cannot generate text.

    Raises:
        StrictDataclassClassValidationError: `hidden_size` is not a multiple of `num_attention_heads`, a size is less
            than 1, a dropout is not in [0, 1), `auxiliary_loss_weight` is negative, `both_orders` is set without
            `delimiter_token_id`, or bidirectional attention is combined with `lstm_size` or an auxiliary loss.
    """

    model_type = "gpt1"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {
        "n_positions": "max_position_embeddings",
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
    }

    vocab_size: int = 40478
    max_position_embeddings: int = 512
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    embedding_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    residual_dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    sinusoidal_positions: bool = False
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    classifier_dropout: float | int = 0.1
    auxiliary_loss_weight: float | int | None = None
    lstm_size: int | None = None
    both_orders: bool = False
    delimiter_token_id: int | None = None
    attention: Literal["causal", "bidirectional"] = "causal"

    def __post_init__(self, **kwargs: Any):
        if self._is_installed():
            # The installed package has registered its pipeline. With this entry, `pipeline()` would ignore it and ask
            # whether to trust the folder's own code.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)
        # After super(), which reads the other names of the sizes.
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.auxiliary_loss_weight is None:
            self.auxiliary_loss_weight = 0.5 if self.attention == "causal" else 0.0

    def _is_installed(self) -> bool:
        """Returns True if this class comes from the installed package and not from a checkpoint's folder."""
        return not type(self).__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}.")

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes `config.json`, and beside it the code of all classes, since a checkpoint loads into every head.

        The names of classes in a loaded config may point to the repository on the Hub that the model came from. The
        names written here point into the folder itself. A language model also names its pipeline for
        `text-generation`, and a classifier with any number of labels for a text its pipeline for
        `text-classification`.
        """
        # The library copies every file that the file of a saved class imports, within functions too. These imports
        # make it copy the code of all classes, whichever of them is saved.
        from .modeling_gpt1 import GPT1ForCausalLM, GPT1Model
        from .modeling_gpt1_heads import GPT1ForMultipleChoice, GPT1ForSequenceClassification
        from .modeling_gpt1_masked import GPT1ForMaskedLM
        from .pipeline_text_classification import TASK as CLASSIFICATION
        from .pipeline_text_classification import GPT1TextClassificationPipeline
        from .pipeline_text_generation import TASK, GPT1TextGenerationPipeline

        def name_of(code: type) -> str:
            return f"{code.__module__.rpartition('.')[2]}.{code.__name__}"

        self.auto_map = {
            "AutoConfig": name_of(type(self)),
            "AutoModel": name_of(GPT1Model),
            "AutoModelForCausalLM": name_of(GPT1ForCausalLM),
            "AutoModelForMaskedLM": name_of(GPT1ForMaskedLM),
            "AutoModelForMultipleChoice": name_of(GPT1ForMultipleChoice),
            "AutoModelForSequenceClassification": name_of(GPT1ForSequenceClassification),
        }
        if self.architectures == ["GPT1ForCausalLM"]:
            pipeline = {"impl": name_of(GPT1TextGenerationPipeline), "pt": ["AutoModelForCausalLM"], "type": "text"}
            self.custom_pipelines = {TASK: pipeline}
        elif (self.architectures, self.problem_type) == (
            ["GPT1ForSequenceClassification"],
            "multi_label_classification",
        ):
            pipeline = {"impl": name_of(GPT1TextClassificationPipeline), "type": "text"}
            self.custom_pipelines = {CLASSIFICATION: pipeline | {"pt": ["AutoModelForSequenceClassification"]}}
        elif hasattr(self, "custom_pipelines"):  # from the checkpoint that a head started from
            del self.custom_pipelines
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        if self._is_installed() and hasattr(self, "custom_pipelines"):
            del self.custom_pipelines

    def validate_sizes(self) -> None:
        for name in (
            "vocab_size",
            "max_position_embeddings",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "lstm_size",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads}), because all heads have the same width."
            )

    def validate_dropout(self) -> None:
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and less than 1.")

    def validate_auxiliary_loss_weight(self) -> None:
        weight = self.auxiliary_loss_weight
        if not weight >= 0:
            raise ValueError(f"auxiliary_loss_weight is {weight}; it must be at least 0.")
        if weight and self.attention == "bidirectional":
            raise ValueError(
                f"auxiliary_loss_weight is {weight}, but attention is 'bidirectional': the next token, which that "
                "loss predicts, is visible. Set auxiliary_loss_weight to 0."
            )

    def validate_attention(self) -> None:
        if self.lstm_size is not None and self.attention == "bidirectional":
            raise ValueError(
                f"lstm_size is {self.lstm_size}, but attention is 'bidirectional': an LSTM reads from left to right. "
                "Leave lstm_size out, or set attention to 'causal'."
            )

    def validate_both_orders(self) -> None:
        if self.both_orders and self.delimiter_token_id is None:
            raise ValueError(
                "both_orders needs delimiter_token_id, the token between the texts of a pair: set it to the "
                "tokenizer's sep_token_id."
            )


__all__ = ["GPT1Config"]
