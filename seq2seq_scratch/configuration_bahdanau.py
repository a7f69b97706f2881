"""Configuration of the attention model; the defaults are the paper's."""

from huggingface_hub.dataclasses import strict

from .configuration_common import TranslationConfig


@strict
class BahdanauConfig(TranslationConfig):
    """RNNsearch of Bahdanau, Cho and Bengio 2014, "Neural Machine Translation by Jointly Learning to Align and
    Translate", section 3 and appendices A and B.

    Args:
        vocab_size: size of the source vocabulary.
        decoder_vocab_size: size of the target vocabulary; by default that of the source.
        share_vocabulary: whether source and target have one vocabulary, so that `resize_token_embeddings` resizes both
            tables. With None, they do if the sizes are equal.
        embedding_size: size of source and target embeddings, m in the paper.
        hidden_size: number of units of each encoder direction and of the decoder, n in the paper.
        attention_size: number of units of the alignment model, n' in the paper.
        maxout_size: number of units of the readout, l in the paper; each is the larger of two.
        use_attention: False makes RNNencdec, the model without attention that the paper compares with (sections 2.2
            and 4.2): the decoder reads one fixed vector at every step, the last states of both encoder directions.
        embedding_dropout: dropout on source and target embeddings. The paper has no dropout, but the 29,000 sentences
            of Multi30k need it.
        encoder_dropout: dropout on the source states that the attention reads.
        readout_dropout: dropout on the readout, before the softmax layer.
        initializer_std: standard deviation of the weights at the start, except for those below. Biases and v_a start
            at 0, recurrent matrices orthogonal.
        attention_initializer_std: standard deviation of W_a and U_a at the start.
        pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id: ids that all translators here agree on.

    Raises:
        ValueError: a size is below 1, a dropout is outside [0, 1), or a standard deviation is negative.
    """

    model_type = "bahdanau"
    # No part of the model works without the softmax layer, so AutoModel loads the whole.
    model_classes = dict.fromkeys(
        ("AutoModelForSeq2SeqLM", "AutoModel"), "modeling_bahdanau.BahdanauForConditionalGeneration"
    )
    keys_to_ignore_at_inference = [
        "cache",
        "past_key_values",
        "decoder_hidden_states",
        "cross_attentions",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
    ]

    vocab_size: int = 30_000
    decoder_vocab_size: int | None = None
    share_vocabulary: bool | None = None
    embedding_size: int = 620
    hidden_size: int = 1000
    attention_size: int = 1000
    maxout_size: int = 500
    use_attention: bool = True
    embedding_dropout: float | int = 0.0
    encoder_dropout: float | int = 0.0
    readout_dropout: float | int = 0.0
    initializer_std: float | int = 0.01
    attention_initializer_std: float | int = 0.001
    pad_token_id: int = 1
    bos_token_id: int = 2
    eos_token_id: int = 3
    decoder_start_token_id: int = 2
    is_encoder_decoder: bool = True
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        if self.decoder_vocab_size is None:
            self.decoder_vocab_size = self.vocab_size
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        names = (
            "vocab_size",
            "decoder_vocab_size",
            "embedding_size",
            "hidden_size",
            "attention_size",
            "maxout_size",
        )
        for name in names:
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1.")

    def validate_dropouts(self):
        for name in ("embedding_dropout", "encoder_dropout", "readout_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1.")

    def validate_initializers(self):
        for name in ("initializer_std", "attention_initializer_std"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0.")


__all__ = ["BahdanauConfig"]
