"""Translation models trained from scratch: the LSTM of 2014, attention of 2014, the Transformer of 2017.

Importing this package registers the models, so that transformers' auto classes load them without remote code.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from .configuration_bahdanau import BahdanauConfig
from .configuration_rnn_seq2seq import RNNSeq2SeqConfig
from .configuration_transformer import TransformerConfig
from .modeling_bahdanau import BahdanauForConditionalGeneration
from .modeling_rnn_seq2seq import RNNSeq2SeqForConditionalGeneration
from .modeling_transformer import TransformerForConditionalGeneration, TransformerModel

TRANSLATION_MODELS = {
    RNNSeq2SeqConfig: RNNSeq2SeqForConditionalGeneration,
    BahdanauConfig: BahdanauForConditionalGeneration,
    TransformerConfig: TransformerForConditionalGeneration,
}
TRANSLATION_CONFIGS = {config.model_type: config for config in TRANSLATION_MODELS}

for _config, _model in TRANSLATION_MODELS.items():
    AutoConfig.register(_config.model_type, _config)
    AutoModelForSeq2SeqLM.register(_config, _model)
AutoModel.register(TransformerConfig, TransformerModel)

__all__ = [
    "TRANSLATION_CONFIGS",
    "TRANSLATION_MODELS",
    "BahdanauConfig",
    "BahdanauForConditionalGeneration",
    "RNNSeq2SeqConfig",
    "RNNSeq2SeqForConditionalGeneration",
    "TransformerConfig",
    "TransformerForConditionalGeneration",
    "TransformerModel",
]
