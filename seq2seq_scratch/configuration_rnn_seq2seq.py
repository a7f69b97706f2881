"""Settings of the LSTM sequence-to-sequence model; the defaults are the paper's."""

from huggingface_hub.dataclasses import strict

from .configuration_common import TranslationConfig


@strict
class RNNSeq2SeqConfig(TranslationConfig):
    """The model of Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning with Neural Networks", section 3.4.

    Args:
        vocab_size: source vocabulary.
        decoder_vocab_size: target vocabulary; None means as many as in the source.
        embedding_size: of source and target embeddings.
        hidden_size: LSTM cells per layer.
        num_hidden_layers: of the encoder and of the decoder. The numbers are equal because each decoder layer starts
            from the final state of the same encoder layer.
        reverse_source: the encoder reads the source from its last token to its first (section 3.3).
        dropout: on every connection that is not recurrent: embeddings, between layers, before the softmax
            (Zaremba, Sutskever and Vinyals 2014). The paper has none.
        initializer_range: all parameters start uniform in [-initializer_range, initializer_range].
        forget_gate_bias: added to the forget gates' biases at the start; the paper adds nothing. With 1 (Jozefowicz,
            Zaremba and Sutskever 2015) a state outlives more steps before training has taught it to.
        tie_word_embeddings: the target embeddings are the softmax weights too.

    Raises:
        ValueError: a size below 1, a dropout outside [0, 1), a negative range, tied embeddings of unequal size.
    """

    model_type = "rnn_seq2seq"
    # There is no part of it that stands without the softmax.
    model_classes = dict.fromkeys(
        ("AutoModelForSeq2SeqLM", "AutoModel"), "modeling_rnn_seq2seq.RNNSeq2SeqForConditionalGeneration"
    )
    keys_to_ignore_at_inference = [
        "cache",
        "past_key_values",
        "decoder_hidden_states",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
    ]

    vocab_size: int = 160_000
    decoder_vocab_size: int | None = 80_000
    embedding_size: int = 1000
    hidden_size: int = 1000
    num_hidden_layers: int = 4
    reverse_source: bool = True
    dropout: float | int = 0.0
    initializer_range: float | int = 0.08
    forget_gate_bias: float | int = 0.0
    tie_word_embeddings: bool = False
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
        for name in ("vocab_size", "decoder_vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1")

    def validate_dropout(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")

    def validate_initializer_range(self):
        if self.initializer_range < 0:
            raise ValueError(f"initializer_range is {self.initializer_range}; it must not be negative")

    def validate_tied_sizes(self):
        if self.tie_word_embeddings and self.embedding_size != self.hidden_size:
            raise ValueError(
                f"tie_word_embeddings needs embedding_size ({self.embedding_size}) and hidden_size "
                f"({self.hidden_size}) to be equal; make them so or set tie_word_embeddings to false"
            )


__all__ = ["RNNSeq2SeqConfig"]
