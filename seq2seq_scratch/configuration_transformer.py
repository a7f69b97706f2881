"""Configuration of the Transformer of Vaswani et al. 2017; the defaults are the paper's base model."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN

from .configuration_common import TranslationConfig


@strict
class TransformerConfig(TranslationConfig):
    """Sizes and options of a Transformer; each option is a row of the paper's Table 3 or common today.

    The big model of Table 3 is `d_model=1024`, both `ffn_dim` 4096, both `attention_heads` 16, `dropout=0.3`.

    Args:
        vocab_size: size of the source vocabulary, and of the target's if the two are shared.
        decoder_vocab_size: size of the target vocabulary; by default `vocab_size`.
        share_encoder_decoder_embeddings: whether source and target tokens have one table (section 3.4). This needs one
            vocabulary for both, and `tie_word_embeddings`.
        tie_word_embeddings: whether the table of target embeddings is also the matrix of the softmax layer
            (section 3.4).
        d_model: width of every sub-layer's output and of the embeddings.
        encoder_layers, decoder_layers: number of layers in each stack, N in the paper.
        encoder_attention_heads, decoder_attention_heads: number of attention heads in each layer, h in the paper.
        encoder_ffn_dim, decoder_ffn_dim: inner width of the feed-forward sub-layers, d_ff in the paper.
        d_k, d_v: width of one head's queries and keys, and of its values (Table 3, rows B); by default d_model divided
            by the number of heads.
        activation_function: the function between the two feed-forward products, by its name in the library's `ACT2FN`.
        pre_norm: whether LayerNorm comes before each sub-layer and once after each stack, instead of after each
            residual sum. Deep stacks are easier to train this way; the paper's model is post-norm.
        position_embedding_type: `"sinusoidal"` for sequences of any length, `"learned"` up to
            `max_position_embeddings` (Table 3, row E), or `"absent"`: without positions the encoder sees a set of
            tokens, and the decoder knows order by its causal mask alone.
        max_position_embeddings: number of learned positions; the table of sinusoids starts with this size and grows.
        dropout: dropout on each sub-layer's output and on the sum of embeddings and positions, P_drop (section 5.4).
        attention_dropout: dropout on the attention weights; the paper has none.
        activation_dropout: dropout on the inner feed-forward layer; the paper has none.
        use_cache: whether generation keeps keys and values.
        pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id: ids that all translators here agree on.

    Raises:
        ValueError: a size is below 1, a dropout is outside [0, 1), the number of heads does not divide `d_model`, the
            activation function is unknown, or a shared table is impossible.
    """

    model_type = "transformer_seq2seq"
    model_classes = {
        "AutoModel": "modeling_transformer.TransformerModel",
        "AutoModelForSeq2SeqLM": "modeling_transformer.TransformerForConditionalGeneration",
    }
    keys_to_ignore_at_inference = ["cache", "past_key_values", "encoder_last_hidden_state"]
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 37_000
    decoder_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    tie_word_embeddings: bool = True
    d_model: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_ffn_dim: int = 2048
    d_k: int | None = None
    d_v: int | None = None
    activation_function: str = "relu"
    pre_norm: bool = False
    position_embedding_type: Literal["sinusoidal", "learned", "absent"] = "sinusoidal"
    max_position_embeddings: int = 1024
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    is_encoder_decoder: bool = True
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 3
    decoder_start_token_id: int | None = 2

    def __post_init__(self, **kwargs: Any):
        if self.decoder_vocab_size is None:
            self.decoder_vocab_size = self.vocab_size
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Checks that sizes are at least 1, dropouts in [0, 1), and heads divide d_model if d_k or d_v needs it."""
        for name in (
            "vocab_size",
            "decoder_vocab_size",
            "d_model",
            "encoder_layers",
            "decoder_layers",
            "encoder_attention_heads",
            "decoder_attention_heads",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "d_k",
            "d_v",
            "max_position_embeddings",
        ):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1.")
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            probability = getattr(self, name)
            if not 0 <= probability < 1:
                raise ValueError(f"{name} is {probability}; it must be at least 0 and below 1.")
        if self.position_embedding_type == "sinusoidal" and self.d_model % 2:
            raise ValueError(
                f"d_model is {self.d_model}; it must be even, because sinusoidal positions pair sines with cosines. "
                "Make it even, or set position_embedding_type to learned."
            )
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            heads = getattr(self, name)
            if (self.d_k is None or self.d_v is None) and self.d_model % heads:
                raise ValueError(
                    f"{name} is {heads}, which does not divide d_model {self.d_model}. Choose a divisor, or set both "
                    "d_k and d_v."
                )

    def validate_activation_function(self) -> None:
        """Checks that the library knows the activation function."""
        if self.activation_function not in ACT2FN:
            raise ValueError(
                f"activation_function is '{self.activation_function}'; allowed are {', '.join(sorted(ACT2FN))}."
            )

    def validate_vocabularies(self) -> None:
        """Checks that a shared table has one vocabulary and is also the matrix of the softmax layer."""
        if not self.share_encoder_decoder_embeddings:
            return
        if self.decoder_vocab_size != self.vocab_size:
            raise ValueError(
                f"decoder_vocab_size is {self.decoder_vocab_size} and vocab_size is {self.vocab_size}, but a shared "
                "table needs one vocabulary. Make them equal, or set share_encoder_decoder_embeddings to false."
            )
        if not self.tie_word_embeddings:
            raise ValueError(
                "tie_word_embeddings is false while share_encoder_decoder_embeddings is true; the shared table is the "
                "softmax matrix as well. Set both to false, or tie_word_embeddings to true."
            )
