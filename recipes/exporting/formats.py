"""Says which formats a model can be exported to."""

from typing import Any

# The classes of transformers that are a Transformer: the name, whether layers are pre-norm, and the positions (see
# `library_classes`).
LIBRARY_CLASSES = {
    "marian": ("Marian", False, "sinusoidal"),
    "pegasus": ("Pegasus", True, "sinusoidal"),
    "blenderbot": ("Blenderbot", True, "learned"),
}

# CTranslate2's activation functions by the names of transformers.
ACTIVATIONS = {
    "relu": "RELU",
    "gelu": "GELU",
    "gelu_new": "GELUTanh",
    "gelu_pytorch_tanh": "GELUTanh",
    "silu": "SWISH",
    "swish": "SWISH",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
}

RECURRENT_MODELS = {"rnn_seq2seq": "an LSTM", "bahdanau": "the attention model, a recurrent network"}
TASK_HEADS = ("ForSequenceClassification", "ForMultipleChoice", "ForMaskedLM")


def formats_of(config: Any) -> dict[str, str | None]:
    """Returns for each format why a model does not have it; None if it has it.

    Args:
        config: the configuration of the model.
    """
    classes = {name: _refuse_library_class(config, name) for name in LIBRARY_CLASSES}
    return _refuse_engines_and_openai_gpt(config) | classes


def _refuse_engines_and_openai_gpt(config: Any) -> dict[str, str | None]:
    no_gpt1 = {"openai-gpt": "it is a translator, and openai-gpt is GPT-1"}
    if config.model_type in RECURRENT_MODELS:
        reason = f"it is {RECURRENT_MODELS[config.model_type]}, which this engine does not have"
        return {"ctranslate2": reason, "onnx": None} | no_gpt1
    if config.model_type == "transformer_seq2seq":
        return {"ctranslate2": _refuse_transformer(config), "onnx": None} | no_gpt1
    if config.model_type != "gpt1":
        reason = f"its model_type is {config.model_type}, and only models of this repository are exported"
        return dict.fromkeys(("ctranslate2", "onnx", "openai-gpt"), reason)
    architecture = (config.architectures or [""])[0]
    if architecture.endswith(TASK_HEADS) or config.attention == "bidirectional":
        reason = f"it is a {architecture or 'GPT-1 with bidirectional attention'}, which does not continue text"
        return dict.fromkeys(("ctranslate2", "onnx", "openai-gpt"), reason)
    return {"ctranslate2": _refuse_gpt1(config), "onnx": None, "openai-gpt": _refuse_openai_gpt(config)}


def _refuse_library_class(config: Any, name: str) -> str | None:
    title, pre_norm, positions = LIBRARY_CLASSES[name]
    if config.model_type in RECURRENT_MODELS:
        return f"it is {RECURRENT_MODELS[config.model_type]}, and {title} is a Transformer"
    if config.model_type != "transformer_seq2seq":
        return f"its model_type is {config.model_type}, and {title} is a translator"
    if config.pre_norm is not pre_norm:
        place = "before each sub-layer" if pre_norm else "after each sum"
        return f"pre_norm is {str(config.pre_norm).lower()}, and {title} normalizes {place}"
    if config.position_embedding_type != positions:
        return f"position_embedding_type is {config.position_embedding_type}, and that of {title} is {positions}"
    if name != "marian" and not config.share_encoder_decoder_embeddings:
        return f"share_encoder_decoder_embeddings is false, and {title} has one table for source, target and softmax"
    return _refuse_heads(config, title)


def _refuse_transformer(config: Any) -> str | None:
    if config.position_embedding_type == "absent":
        return "position_embedding_type is absent, and CTranslate2's Transformer has positions"
    if config.activation_function not in ACTIVATIONS:
        return f"activation_function is {config.activation_function}, and CTranslate2 has {', '.join(ACTIVATIONS)}"
    return _refuse_heads(config, "CTranslate2")


def _refuse_heads(config: Any, title: str) -> str | None:
    for name in ("d_k", "d_v"):
        width = getattr(config, name)
        for heads in (config.encoder_attention_heads, config.decoder_attention_heads):
            if width not in (None, config.d_model / heads):
                return f"{name} is {width}, and {title}'s heads have the width d_model / heads"
    return None


def _refuse_gpt1(config: Any) -> str | None:
    if config.lstm_size is not None:
        return f"lstm_size is {config.lstm_size}, and CTranslate2 has no LSTM"
    return None


def _refuse_openai_gpt(config: Any) -> str | None:
    if config.lstm_size is not None:
        return f"lstm_size is {config.lstm_size}, and an openai-gpt model is a Transformer"
    if config.intermediate_size != 4 * config.hidden_size:
        return f"intermediate_size is {config.intermediate_size}, and that of openai-gpt is 4 x hidden_size"
    if not config.tie_word_embeddings:
        return "tie_word_embeddings is false, and openai-gpt's softmax is its token table"
    return None
