"""GPT-1 from scratch: model, tokenizer, text packing and the conversion of published weights.

Importing the package registers the model with the library's Auto classes.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_gpt1 import GPT1Config
from .modeling_gpt1 import GPT1ForCausalLM, GPT1Model

AutoConfig.register("gpt1", GPT1Config)
AutoModel.register(GPT1Config, GPT1Model)
AutoModelForCausalLM.register(GPT1Config, GPT1ForCausalLM)

GPT1Config.register_for_auto_class()
GPT1Model.register_for_auto_class("AutoModel")
GPT1ForCausalLM.register_for_auto_class("AutoModelForCausalLM")
