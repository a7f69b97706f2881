"""Translation models trained from scratch: the LSTM of 2014, attention of 2014, the Transformer of 2017.

Importing this package registers the models, so that transformers' auto classes load them without remote code, and the
task `translation` of its `pipeline()`.
"""

# First: what is imported below may have another name in the versions that this refuses.
from .library_version import check_version  # noqa: F401  # isort: skip

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS

from .configuration_bahdanau import BahdanauConfig
from .configuration_rnn_seq2seq import RNNSeq2SeqConfig
from .configuration_transformer import TransformerConfig
from .modeling_bahdanau import BahdanauForConditionalGeneration
from .modeling_rnn_seq2seq import RNNSeq2SeqForConditionalGeneration
from .modeling_transformer import TransformerForConditionalGeneration, TransformerModel
from .pipeline_translation import TASK, TranslationPipeline
from .plain_forms import plain_forms
from .renamed import understand_old_names

TRANSLATION_MODELS = {
    RNNSeq2SeqConfig: RNNSeq2SeqForConditionalGeneration,
    BahdanauConfig: BahdanauForConditionalGeneration,
    TransformerConfig: TransformerForConditionalGeneration,
}
TRANSLATION_CONFIGS = {config.model_type: config for config in TRANSLATION_MODELS}

for _config, _model in TRANSLATION_MODELS.items():
    AutoConfig.register(_config.model_type, _config)
    AutoModelForSeq2SeqLM.register(_config, _model)
    # From now on they are saved with their code.
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModelForSeq2SeqLM")
AutoModel.register(RNNSeq2SeqConfig, RNNSeq2SeqForConditionalGeneration)
AutoModel.register(BahdanauConfig, BahdanauForConditionalGeneration)
AutoModel.register(TransformerConfig, TransformerModel)
TransformerModel.register_for_auto_class("AutoModel")

# The library turns this name away before it looks at what is registered.
REMOVED_TASKS.pop(TASK, None)
PIPELINE_REGISTRY.register_pipeline(TASK, TranslationPipeline, pt_model=AutoModelForSeq2SeqLM, type="text")

understand_old_names()

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
    "TranslationPipeline",
    "plain_forms",
]
