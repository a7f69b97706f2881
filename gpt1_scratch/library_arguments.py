"""Maps the names of arguments and outputs that differ between versions of transformers.

Transformers 5.23 and earlier call a cache `past_key_values`, in the arguments that `generate()` passes and in outputs;
5.24 calls it `cache`. The library maps the old name to the new one in the `forward` of its own models, but not for a
model with its own code. If such a `forward` declares one name and takes `**kwargs`, it ignores a cache under the other
name without an error, and generation reads each token without those before it. The models here call it `cache`, and
`understand_arguments` maps the old name. It also refuses unknown arguments, because later versions, which load a
checkpoint with its code, may use further names.

The packages do not import each other, and each has this file; a test compares them.
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

# The name of a cache in the installed version, in outputs and in `model_kwargs`.
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(Seq2SeqLMOutput)} else "past_key_values"

# Arguments that the library may pass to any model, even if its `forward` does not declare them.
LIBRARY_ARGUMENTS = {
    *TransformersKwargs.__annotations__,
    "return_dict",
    # FlashAttention and flex attention:
    *("sliding_window", "softcap", "s_aux", "kernel_options"),
    # continuous batching (`generate_batch`), which calls its `PagedAttentionCache` `cache` in all versions:
    *("read_index", "write_index", "block_table", "logits_indices", "logits_processor_args"),
}


TWO_CACHES = "cache and past_key_values are both given, and are two names of one argument. Give cache."


def understand_arguments(*cache_classes: type, also: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """Decorates a model's `forward` so that it accepts both names of the cache and refuses unknown arguments.

    Args:
        cache_classes: the classes of caches that the model can use; none for a model without a cache.
        also: further arguments that `forward` takes from its `**kwargs`.

    Returns:
        A decorator that keeps the signature. The decorated `forward` raises a ValueError if `cache` and
        `past_key_values` are both given. It raises a TypeError for a cache of another class or under an unknown name,
        and for an unknown argument, unless its value is None or False. It ignores `token_type_ids` with one warning,
        and warns about `past_key_values` if the installed version calls it `cache`. It drops the `tokenizer` that
        `generate()` passes on to every step if it is given one, for stop strings.
    """

    def decorate(forward: Callable) -> Callable:
        parameters = list(inspect.signature(forward).parameters)
        known = {*parameters, *LIBRARY_ARGUMENTS, *also}
        cache_position = parameters.index("cache") - 1 if "cache" in parameters else None  # without self

        @functools.wraps(forward)
        def wrapper(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            kwargs.pop("tokenizer", None)
            if "past_key_values" in kwargs:
                old = kwargs.pop("past_key_values")
                if old is not None:
                    if kwargs.get("cache") is not None:
                        raise ValueError(TWO_CACHES)
                    kwargs["cache"] = old
                    if CACHE_NAME == "cache" and not torch.compiler.is_compiling():
                        message = f"`past_key_values` is deprecated for {type(self).__name__}. Use `cache` instead."
                        warnings.warn(message, FutureWarning, stacklevel=2)
            for name, value in tuple(kwargs.items()):
                if name not in known and name != "cache" and value is not None and value is not False:
                    if name != "token_type_ids":
                        raise TypeError(_describe_unknown(self, name, value))
                    kwargs.pop(name)
                    if not torch.compiler.is_compiling():
                        logger.warning_once(f"{type(self).__name__} has no token types: token_type_ids are ignored.")
            cache = kwargs.get("cache")
            if cache is None and cache_position is not None and len(args) > cache_position:
                cache = args[cache_position]
            if cache is not None and not isinstance(cache, cache_classes):
                raise TypeError(_describe_wrong_cache(self, cache, cache_classes))
            return forward(self, *args, **kwargs)

        return wrapper

    return decorate


def _describe_unknown(model: torch.nn.Module, name: str, value: Any) -> str:
    if isinstance(value, Cache | PagedAttentionCache):
        return (
            f"{type(model).__name__}.forward() got a {type(value).__name__} as {name!r}, a name that it does not know "
            "for a cache. Without the cache, every token would be read without those before it. This version of "
            "transformers is newer than the model's code: install an older one, or set use_cache to False."
        )
    return f"{type(model).__name__}.forward() got an unknown argument {name!r} of type {type(value).__name__}."


def _describe_wrong_cache(model: torch.nn.Module, cache: Any, cache_classes: tuple[type, ...]) -> str:
    names = " or a ".join(known.__name__ for known in cache_classes)
    if not names:
        return f"{type(model).__name__}.forward() takes no cache, but got a {type(cache).__name__}."
    return f"{type(model).__name__}.forward() takes a {names} as cache, but got a {type(cache).__name__}."


def name_cache_for_library(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments of `generate()` in which a cache has the name that the installed version uses.

    Raises:
        ValueError: if `cache` and `past_key_values` are both given.
    """
    names = [name for name in ("cache", "past_key_values") if arguments.get(name) is not None]
    if len(names) == 2:
        raise ValueError(TWO_CACHES)
    return {CACHE_NAME if name in names else name: value for name, value in arguments.items()}


def name_cache_for_peft(model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the result of `prepare_inputs_for_generation` with the cache under the name that PEFT expects.

    PEFT (0.21) replaces that method of the model during `generate()` and passes prefixes as a cache. It looks for the
    current cache under `past_key_values` in all versions of transformers. If it finds none, it passes the prefix again
    with every token.
    """
    if "cache" in inputs and "prepare_inputs_for_generation" in vars(model):
        inputs["past_key_values"] = inputs.pop("cache")
    return inputs
