"""Configuration of the LSTM sequence-to-sequence model; the defaults are the paper's."""

from huggingface_hub.dataclasses import strict

from .configuration_common import TranslationConfig


@strict
class RNNSeq2SeqConfig(TranslationConfig):
    """The model of Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning with Neural Networks", section 3.4.

    Args:
        vocab_size: size of the source vocabulary.
        decoder_vocab_size: size of the target vocabulary; by default 80,000, and with None that of the source.
        share_vocabulary: whether source and target have one vocabulary, so that `resize_token_embeddings` resizes both
            tables. With None, they do if the sizes are equal.
        embedding_size: size of source and target embeddings.
        hidden_size: number of LSTM cells in a layer.
        num_hidden_layers: number of layers of the encoder and of the decoder. They are equal because each decoder
            layer starts from the final state of the same encoder layer.
        reverse_source: whether the encoder reads the source from its last token to its first (section 3.3).
        dropout: dropout on every connection that is not recurrent: embeddings, between layers, before the softmax
            layer (Zaremba, Sutskever and Vinyals 2014). The paper has none.
        initializer_range: all parameters start uniform in [-initializer_range, initializer_range].
        forget_gate_bias: is added to the forget gates' biases at the start; the paper adds nothing. With 1
            (Jozefowicz, Zaremba and Sutskever 2015), cells keep their content for more steps from the start.
        tie_word_embeddings: whether the table of target embeddings is also the matrix of the softmax layer.
        pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id: ids that all translators here agree on.

    Raises:
        ValueError: a size is below 1, the dropout is outside [0, 1), the range is negative, or tied embeddings have
            another size than the hidden states.
    """

    model_type = "rnn_seq2seq"
    # No part of the model works without the softmax layer, so AutoModel loads the whole.
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
    share_vocabulary: bool | None = None
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
                raise ValueError(f"{name} is {size}; it must be at least 1.")

    def validate_dropout(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")

    def validate_initializer_range(self):
        if self.initializer_range < 0:
            raise ValueError(f"initializer_range is {self.initializer_range}; it must be at least 0.")

    def validate_tied_sizes(self):
        if self.tie_word_embeddings and self.embedding_size != self.hidden_size:
            raise ValueError(
                f"tie_word_embeddings needs embedding_size ({self.embedding_size}) and hidden_size "
                f"({self.hidden_size}) to be equal. Make them equal, or set tie_word_embeddings to false."
            )


__all__ = ["RNNSeq2SeqConfig"]
