"""Settings of the Transformer of Vaswani et al. 2017, "Attention Is All You Need". The defaults are its base model."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN

from .configuration_common import TranslationConfig


@strict
class TransformerConfig(TranslationConfig):
    """Sizes and options of a Transformer; each option is a row of the paper's Table 3 or what is usual today.

    The big model of Table 3 is `d_model=1024`, both `ffn_dim` 4096, both `attention_heads` 16, `dropout=0.3`.

    Args:
        vocab_size: source vocabulary, and the target's when the two are shared.
        decoder_vocab_size: target vocabulary; `None` takes `vocab_size`.
        share_encoder_decoder_embeddings: one table for source and target tokens (section 3.4); needs a vocabulary
            common to both and `tie_word_embeddings`.
        tie_word_embeddings: the target table is also the matrix before the softmax (section 3.4).
        d_model: width of every sub-layer's output and of the embeddings.
        encoder_layers, decoder_layers: N, layers in each stack.
        encoder_attention_heads, decoder_attention_heads: h, attention heads in each layer of the stack.
        encoder_ffn_dim, decoder_ffn_dim: d_ff, inner width of the feed-forward sub-layers.
        d_k, d_v: width of one head's queries and keys, and of its values (Table 3, rows B); `None` is d_model / h.
        activation_function: between the two feed-forward products, a name of the library's `ACT2FN`.
        pre_norm: LayerNorm before each sub-layer and once after each stack, in place of after each residual sum.
            Easier to train when deep; the paper's model is post-norm.
        position_embedding_type: `"sinusoidal"` for any length, or `"learned"` up to `max_position_embeddings`
            (Table 3, row E).
        max_position_embeddings: rows of the learned table; the sinusoidal one starts with as many and grows.
        dropout: P_drop, on each sub-layer's output and on embedding plus position (section 5.4).
        attention_dropout: on the attention weights; not in the paper.
        activation_dropout: on the inner feed-forward layer; not in the paper.
        use_cache: keep keys and values while generating.
        pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id: ids all translators here agree on.
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
    position_embedding_type: Literal["sinusoidal", "learned"] = "sinusoidal"
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
        """Sizes are at least 1, dropouts in [0, 1); heads divide d_model where d_k or d_v is to follow from it."""
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
                f"d_model is {self.d_model}; sinusoidal positions pair sines with cosines and need an even d_model."
            )
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            heads = getattr(self, name)
            if (self.d_k is None or self.d_v is None) and self.d_model % heads:
                raise ValueError(
                    f"{name} is {heads}, which does not divide d_model {self.d_model}; choose a divisor or set both "
                    "d_k and d_v."
                )

    def validate_activation_function(self) -> None:
        """The activation must be one the library knows."""
        if self.activation_function not in ACT2FN:
            raise ValueError(
                f"activation_function is '{self.activation_function}'; allowed are {', '.join(sorted(ACT2FN))}."
            )

    def validate_vocabularies(self) -> None:
        """A shared table needs one vocabulary, and a softmax that shares it."""
        if not self.share_encoder_decoder_embeddings:
            return
        if self.decoder_vocab_size != self.vocab_size:
            raise ValueError(
                f"decoder_vocab_size is {self.decoder_vocab_size} and vocab_size {self.vocab_size}; a shared table "
                "needs one vocabulary. Make them equal or set share_encoder_decoder_embeddings to false."
            )
        if not self.tie_word_embeddings:
            raise ValueError(
                "tie_word_embeddings is false while share_encoder_decoder_embeddings is true; the shared table is the "
                "softmax matrix as well. Set both to false, or tie_word_embeddings to true."
            )
