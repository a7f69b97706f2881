"""GPT-1 from scratch: model, tokenizer, text packing and the conversion of published weights.

Importing the package registers the model with the library's Auto classes.
"""

# First: what is imported below may have another name in the versions that this refuses.
from .library_version import check_version  # noqa: F401  # isort: skip

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
)

from .configuration_gpt1 import GPT1Config
from .modeling_gpt1 import GPT1ForCausalLM, GPT1ForMultipleChoice, GPT1ForSequenceClassification, GPT1Model

AutoConfig.register("gpt1", GPT1Config)
AutoModel.register(GPT1Config, GPT1Model)
AutoModelForCausalLM.register(GPT1Config, GPT1ForCausalLM)
AutoModelForMultipleChoice.register(GPT1Config, GPT1ForMultipleChoice)
AutoModelForSequenceClassification.register(GPT1Config, GPT1ForSequenceClassification)

GPT1Config.register_for_auto_class()
GPT1Model.register_for_auto_class("AutoModel")
GPT1ForCausalLM.register_for_auto_class("AutoModelForCausalLM")
GPT1ForMultipleChoice.register_for_auto_class("AutoModelForMultipleChoice")
GPT1ForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
