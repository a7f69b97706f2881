"""GPT-1 from scratch: model, tokenizer, text packing and the conversion of published weights.

Importing the package registers the models with the library's Auto classes, and pipelines for `text-generation` and
`text-classification`. For every other model, a pipeline's class returns the library's own pipeline.
"""

# First: what is imported below may have another name in the versions that this refuses.
from .library_version import check_version  # noqa: F401  # isort: skip

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_gpt1 import GPT1Config
from .modeling_gpt1 import GPT1ForCausalLM, GPT1Model
from .modeling_gpt1_heads import GPT1ForMultipleChoice, GPT1ForSequenceClassification
from .modeling_gpt1_masked import GPT1ForMaskedLM
from .pipeline_text_classification import TASK as CLASSIFICATION
from .pipeline_text_classification import GPT1TextClassificationPipeline
from .pipeline_text_generation import TASK as GENERATION
from .pipeline_text_generation import GPT1TextGenerationPipeline
from .plain_forms import plain_forms
from .renamed import understand_old_names

AutoConfig.register("gpt1", GPT1Config)
AutoModel.register(GPT1Config, GPT1Model)
AutoModelForCausalLM.register(GPT1Config, GPT1ForCausalLM)
AutoModelForMaskedLM.register(GPT1Config, GPT1ForMaskedLM)
AutoModelForMultipleChoice.register(GPT1Config, GPT1ForMultipleChoice)
AutoModelForSequenceClassification.register(GPT1Config, GPT1ForSequenceClassification)

GPT1Config.register_for_auto_class()
GPT1Model.register_for_auto_class("AutoModel")
GPT1ForCausalLM.register_for_auto_class("AutoModelForCausalLM")
GPT1ForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
GPT1ForMultipleChoice.register_for_auto_class("AutoModelForMultipleChoice")
GPT1ForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

# The library warns if a task is registered twice, so its own entry is removed first.
for _name, _class in ((GENERATION, GPT1TextGenerationPipeline), (CLASSIFICATION, GPT1TextClassificationPipeline)):
    _task = PIPELINE_REGISTRY.supported_tasks.pop(_name)
    PIPELINE_REGISTRY.register_pipeline(
        _name, _class, pt_model=_task["pt"], default=_task["default"], type=_task["type"]
    )

understand_old_names()

__all__ = [
    "GPT1Config",
    "GPT1ForCausalLM",
    "GPT1ForMaskedLM",
    "GPT1ForMultipleChoice",
    "GPT1ForSequenceClassification",
    "GPT1Model",
    "GPT1TextClassificationPipeline",
    "GPT1TextGenerationPipeline",
    "plain_forms",
]
