"""What GPT-1 adds to the library's `generate()`: fast forms on CPU, the limit of learned positions and stop strings.

Skip this file on first reading. It extends methods of `GenerationMixin`, three of which are private; a test fails if
their signatures change in the library.
"""

import functools
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteriaList
from transformers.generation import GenerationMixin
from transformers.utils import logging

from .cpu_generation import TokenStep, preallocate_cache
from .library_arguments import CACHE_NAME, name_cache_for_library, name_cache_for_peft
from .library_version import check_generation
from .packed_linear import packed_weights
from .plain_forms import plain_forms_are_on
from .stop_strings import StopStrings

logger = logging.get_logger(__name__)


class GPT1GenerationMixin(GenerationMixin):
    """The library's `GenerationMixin` with GPT-1's own preparations.

    The model's `make_token_step` returns a `TokenStep`, or `None` if the modules must be called. The model's `forward`
    uses `_token_step` while `generate()` runs.
    """

    _token_step: TokenStep | None = None

    # Extends GenerationMixin.generate by the fast forms and by cleaning up after early exit. The library's own
    # extension point, generate(custom_generate=function), replaces the decoding loop, which is not what differs here,
    # and every caller would have to pass it, pipelines included.
    @functools.wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        kwargs = name_cache_for_library(kwargs)
        check_generation(self, args, kwargs)
        layers, outer_step = self.config.num_hidden_layers, self._token_step
        exit_layer = kwargs.get("assistant_early_exit")
        if exit_layer is not None and not 1 <= exit_layer <= layers:
            raise ValueError(
                f"assistant_early_exit is {exit_layer}; it must be from 1 to {layers}, the model's number of layers."
            )
        try:
            # The library compiles the modules as they are. Packed weights are other functions in every call.
            if plain_forms_are_on() or kwargs.get("compile_config") is not None:
                return super().generate(*args, **kwargs)
            with packed_weights(self):
                self._token_step = self.make_token_step()
                return super().generate(*args, **kwargs)
        finally:
            # Early exit calls generate() again within itself with fewer layers. After an error they would stay fewer.
            self.config.num_hidden_layers, self._token_step = layers, outer_step

    # Extends GenerationMixin.prepare_inputs_for_generation: under PEFT, the cache gets the name that PEFT looks for.
    @functools.wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return name_cache_for_peft(self, super().prepare_inputs_for_generation(*args, **kwargs))

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Extends `GenerationMixin._prepare_cache_for_generation`: preallocates a cache that the library creates."""
        given = model_kwargs.get(CACHE_NAME)
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get(CACHE_NAME)
        if cache is not given and not plain_forms_are_on():
            preallocate_cache(cache)

    def _prepare_generated_length(
        self,
        generation_config: GenerationConfig,
        *,
        model_input_name: str,
        input_ids_length: int,
        inputs_tensor: torch.Tensor,
        **kwargs: Any,
    ) -> GenerationConfig:
        """Extends `GenerationMixin._prepare_generated_length`: limits the length to the number of positions.

        Positions are learned, so `generate()` would end in an IndexError beyond the last one.
        """
        names = {"model_input_name": model_input_name, "input_ids_length": input_ids_length}
        generation_config = super()._prepare_generated_length(
            generation_config, **names, inputs_tensor=inputs_tensor, **kwargs
        )
        positions = self.config.max_position_embeddings
        # The library does not count embeddings that are given in place of tokens.
        uncounted = inputs_tensor.shape[1] - input_ids_length if model_input_name == "inputs_embeds" else 0
        limit = positions - uncounted
        if input_ids_length >= limit:
            raise ValueError(
                f"The prompt has {input_ids_length + uncounted} tokens, padding included, and max_position_embeddings "
                f"is {positions}: no position is left for a new token. Shorten the prompt."
            )
        if generation_config.max_length > limit:
            logger.warning(
                f"Generation of up to {generation_config.max_length + uncounted} tokens is requested; it will stop at "
                f"{positions}, the model's max_position_embeddings, prompt included."
            )
            generation_config.max_length = limit
        return generation_config

    def _get_stopping_criteria(
        self,
        generation_config: GenerationConfig,
        stopping_criteria: StoppingCriteriaList | None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> StoppingCriteriaList:
        """Extends `GenerationMixin._get_stopping_criteria`: finds stop strings in the decoded text."""
        strings = generation_config.stop_strings
        if not strings or tokenizer is None:  # without a tokenizer, the library raises an error that says so
            return super()._get_stopping_criteria(generation_config, stopping_criteria, tokenizer)
        generation_config.stop_strings = None
        try:
            criteria = super()._get_stopping_criteria(generation_config, stopping_criteria, tokenizer)
        finally:
            generation_config.stop_strings = strings
        criteria.append(StopStrings(tokenizer, strings))
        return criteria
