"""The names of a model's arguments and outputs, which differ between versions of transformers.

Since 5.24 the library calls a cache `cache`: `generate()` passes `cache=`, outputs have a field `cache`, and
`model_kwargs`, `create_masks_for_generate` and `GradientCheckpointingLayer` use that name. Until 5.23 all of these
said `past_key_values`. From 5.24 on the library understands the old name in the `forward` of its own models
(`deprecate_kwarg`, until 5.40) and in every `ModelOutput`, but renames nothing for a model that brings its own code: a
`forward` that declares one name and takes `**kwargs` swallows the other one without a word, and generation reads each
token without the ones before it. The models here call it `cache`, and `understand_arguments` maps the old name.

A model that carries its own code is loaded by versions that did not exist when it was saved, so it must not ignore
what it does not know: `understand_arguments` refuses unknown arguments.

Both packages hold this file, since neither imports the other; a test keeps the two equal.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import TransformersKwargs, logging

logger = logging.get_logger(__name__)

# The installed library's name for a cache, in outputs and in `model_kwargs`.
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(Seq2SeqLMOutput)} else "past_key_values"

# What the library may pass to any model beside the arguments that its `forward` declares.
LIBRARY_ARGUMENTS = {
    *TransformersKwargs.__annotations__,
    "return_dict",
    # Attention implementations: FlashAttention and flex attention.
    *("sliding_window", "softcap", "s_aux", "kernel_options"),
    # Continuous batching (`generate_batch`), whose `PagedAttentionCache` has the name `cache` in all versions.
    *("read_index", "write_index", "block_table", "logits_indices", "logits_processor_args"),
}


def understand_arguments(*cache_classes: type, also: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """Decorates a model's `forward`: understands both names of the cache and refuses unknown arguments.

    Args:
        cache_classes: the classes of caches that the model can continue from; none for a model without a cache.
        also: names that `forward` takes from its `**kwargs`.

    Returns:
        A decorator. The decorated `forward` raises a ValueError if `cache` and `past_key_values` are both given, and a
        TypeError for a cache of another class or under an unknown name, and for an unknown argument that is neither
        None nor False. It ignores `token_type_ids`, with one warning, and warns of `past_key_values` where the library
        calls it `cache`. It keeps the signature of the original.
    """

    def decorate(forward: Callable) -> Callable:
        parameters = list(inspect.signature(forward).parameters)
        known = {*parameters, *LIBRARY_ARGUMENTS, *also}
        cache_position = parameters.index("cache") - 1 if "cache" in parameters else None  # without self

        @functools.wraps(forward)
        def wrapper(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if "past_key_values" in kwargs:
                old = kwargs.pop("past_key_values")
                if old is not None:
                    if kwargs.get("cache") is not None:
                        raise ValueError(
                            "cache and past_key_values are both given, and are two names of one argument. Give cache."
                        )
                    kwargs["cache"] = old
                    if CACHE_NAME == "cache" and not torch.compiler.is_compiling():
                        message = f"`past_key_values` is deprecated for {type(self).__name__}. Use `cache` instead."
                        warnings.warn(message, FutureWarning, stacklevel=2)
            for name, value in tuple(kwargs.items()):
                if name not in known and name != "cache" and value is not None and value is not False:
                    if name == "token_type_ids":
                        _ignore_token_types(self)
                        kwargs.pop(name)
                    else:
                        raise TypeError(_describe_unknown(self, name, value))
            cache = kwargs.get("cache")
            if cache is None and cache_position is not None and len(args) > cache_position:
                cache = args[cache_position]
            if cache is not None and not isinstance(cache, cache_classes):
                raise TypeError(_describe_wrong_cache(self, cache, cache_classes))
            return forward(self, *args, **kwargs)

        return wrapper

    return decorate


def _ignore_token_types(model: torch.nn.Module) -> None:
    if not torch.compiler.is_compiling():
        logger.warning_once(f"{type(model).__name__} has no token types: token_type_ids are ignored.")


def _describe_unknown(model: torch.nn.Module, name: str, value: Any) -> str:
    if isinstance(value, Cache | PagedAttentionCache):
        return (
            f"{type(model).__name__}.forward() got a {type(value).__name__} as {name!r}, a name that it does not know "
            "for a cache: without it, every token would be read without those before it. This version of transformers "
            "is newer than the model's code: install an older one, or set use_cache to False."
        )
    return f"{type(model).__name__}.forward() got an unknown argument {name!r} of type {type(value).__name__}."


def _describe_wrong_cache(model: torch.nn.Module, cache: Any, cache_classes: tuple[type, ...]) -> str:
    names = " or a ".join(known.__name__ for known in cache_classes)
    if not names:
        return f"{type(model).__name__}.forward() takes no cache, but got a {type(cache).__name__}."
    return f"{type(model).__name__}.forward() takes a {names} as cache, but got a {type(cache).__name__}."


def name_cache_for_library(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate()` with a cache under the installed library's own name.

    Raises:
        ValueError: `cache` and `past_key_values` are both given.
    """
    names = [name for name in ("cache", "past_key_values") if arguments.get(name) is not None]
    if len(names) == 2:
        raise ValueError("cache and past_key_values are both given, and are two names of one argument. Give cache.")
    return {CACHE_NAME if name in names else name: value for name, value in arguments.items()}


def name_cache_for_peft(model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """What `prepare_inputs_for_generation` returns, with the cache under the name that PEFT looks for.

    PEFT (0.21) puts its own method in the place of the model's during `generate()`, to hand prefixes over as a cache.
    It looks for the present cache as `past_key_values`, whatever version of transformers is installed, and would give
    the prefix anew at every token where it finds none.
    """
    if "cache" in inputs and "prepare_inputs_for_generation" in vars(model):
        inputs["past_key_values"] = inputs.pop("cache")
    return inputs
