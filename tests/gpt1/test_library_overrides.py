"""The signatures of the library's methods that GPT-1 extends or mirrors; if one changes, the code must be reviewed.

Each signature is the one that the code was written against, in versions 5.23 and 5.24 of transformers.
"""

import inspect

import pytest
from transformers.cache_utils import DynamicLayer
from transformers.generation import GenerationMixin
from transformers.pipelines import TextClassificationPipeline, TextGenerationPipeline

from gpt1_scratch.cpu_generation import PreallocatedLayer
from gpt1_scratch.generation_gpt1 import GPT1GenerationMixin
from gpt1_scratch.library_arguments import CACHE_NAME
from gpt1_scratch.pipeline_text_classification import GPT1TextClassificationPipeline
from gpt1_scratch.pipeline_text_generation import GPT1TextGenerationPipeline

EXTENDED = [
    (
        GPT1GenerationMixin,
        GenerationMixin,
        "generate",
        "self inputs generation_config logits_processor stopping_criteria prefix_allowed_tokens_fn synced_gpus "
        "assistant_model streamer negative_prompt_ids negative_prompt_attention_mask custom_generate **kwargs",
    ),
    (
        GPT1GenerationMixin,
        GenerationMixin,
        "prepare_inputs_for_generation",
        f"self input_ids next_sequence_length {CACHE_NAME} attention_mask inputs_embeds is_first_iteration **kwargs",
    ),
    (
        GPT1GenerationMixin,
        GenerationMixin,
        "_prepare_cache_for_generation",
        "self generation_config model_kwargs generation_mode batch_size max_cache_length",
    ),
    (
        GPT1GenerationMixin,
        GenerationMixin,
        "_prepare_generated_length",
        "self generation_config has_default_max_length has_default_min_length model_input_name input_ids_length "
        "inputs_tensor",
    ),
    (
        GPT1GenerationMixin,
        GenerationMixin,
        "_get_stopping_criteria",
        "self generation_config stopping_criteria tokenizer",
    ),
    (PreallocatedLayer, DynamicLayer, "update", "self key_states value_states *args **kwargs"),
    (PreallocatedLayer, DynamicLayer, "lazy_initialization", "self key_states value_states"),
    (
        GPT1TextGenerationPipeline,
        TextGenerationPipeline,
        "postprocess",
        "self model_outputs return_type clean_up_tokenization_spaces continue_final_message skip_special_tokens tools",
    ),
    (
        GPT1TextClassificationPipeline,
        TextClassificationPipeline,
        "postprocess",
        "self model_outputs function_to_apply top_k _legacy",
    ),
]


@pytest.mark.parametrize(("ours", "library", "method", "written_against"), EXTENDED, ids=lambda value: str(value)[:40])
def test_the_signature_of_an_extended_method_has_not_changed(ours, library, method, written_against):
    assert issubclass(ours, library)
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(getattr(library, method)).parameters.values()
    found = " ".join(stars.get(parameter.kind, "") + parameter.name for parameter in parameters)
    assert found == written_against, (
        f"transformers has changed {library.__name__}.{method}: its parameters are now ({found}). Read what it does, "
        f"adapt {ours.__module__}, and then correct this test."
    )
