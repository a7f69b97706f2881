"""Checks the version of transformers, and tests generation once under versions that are newer than the tested ones.

A checkpoint carries its code, so versions of transformers load it that did not exist when it was saved. If one of them
renames an argument, the model may generate nonsense without an error.

The packages do not import each other, and each has this file; a test compares them.
"""

import threading
from typing import Any

import torch
import transformers
from transformers import GenerationConfig
from transformers.utils import logging

# Minor versions: the oldest that is supported, and the newest that the tests have passed with.
OLDEST, NEWEST_TESTED = (5, 23), (5, 24)
INSTALLED = transformers.__version__

NEW_TOKENS = 3
# Largest difference of scores relative to the largest score: for models in fp32 or fp64, and for all others.
TOLERANCE, REDUCED_PRECISION_TOLERANCE = 1e-3, 2e-2

_lock = threading.RLock()
_running = threading.local()
# The result of the check for each model class: an error message, or an empty text if the class passed.
_found: dict[type, str] = {}


def requirement() -> str:
    """Returns the supported versions as a pip specifier."""
    (oldest_major, oldest_minor), (major, minor) = OLDEST, NEWEST_TESTED
    return f">={oldest_major}.{oldest_minor},<{major}.{minor + 1}"


def _command() -> str:
    return f'pip install "transformers{requirement()}"'


def _installed_minor() -> tuple[int, ...]:
    return tuple(map(int, INSTALLED.split(".")[:2]))


def check_version() -> None:
    """Refuses a version that is too old, and warns once about a version that is newer than the tested ones.

    Raises:
        ImportError: if the installed transformers is older than `OLDEST`.
    """
    if _installed_minor() < OLDEST:
        raise ImportError(
            f"transformers {INSTALLED} is installed, but this model needs transformers{requirement()}: {_command()}"
        )
    if _installed_minor() > NEWEST_TESTED:
        # All copies of this file share the library's logger, so only the first of them warns.
        logging.get_logger().warning_once(
            f"transformers {INSTALLED} is newer than the versions that this model's code was tested with "
            f"({requirement()}). The first generate() checks itself; if it fails: {_command()}"
        )


def check_generation(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Compares generation with and without the cache, once for each model class, under an untested version.

    `generate()` calls this first. It does nothing under a tested version, without a cache, while a graph is captured,
    and for a model whose weights are not all in memory (sharded, offloaded, or on the meta device).

    Args:
        model: the model that generates.
        args, kwargs: the arguments of `generate()`.

    Raises:
        RuntimeError: if the two disagree, so that generation is wrong under the installed version.
    """
    is_tested = _installed_minor() <= NEWEST_TESTED
    if is_tested or getattr(_running, "here", False) or not _wants_cache(model, args, kwargs):
        return
    model_class = type(model)
    if model_class not in _found:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or not _has_all_weights(model):
            return
        with _lock:
            if model_class not in _found:
                _running.here = True
                try:
                    _found[model_class] = _compare(model)
                finally:
                    _running.here = False
    if _found[model_class]:
        raise RuntimeError(_found[model_class])


def _wants_cache(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    config = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
    configured = (getattr(each, "use_cache", None) for each in (config, model.generation_config))
    return next((each for each in (kwargs.get("use_cache"), *configured) if each is not None), True)


def _has_all_weights(model: Any) -> bool:
    # accelerate's hooks move weights in and out of memory. FSDP's modules and distributed tensors (with a device mesh)
    # hold a part of the weights, and DeepSpeed leaves the parameters empty.
    managed = any(hasattr(each, "_hf_hook") or hasattr(each, "_is_fsdp_managed_module") for each in model.modules())
    return not managed and not any(
        each.is_meta or not each.numel() or hasattr(each, "device_mesh") for each in model.parameters()
    )


def _compare(model: Any) -> str:
    """Returns an error message, or an empty text if the two agree. The model and random generators stay unchanged."""
    device, own_config = model.device, model.generation_config
    training = [module for module in model.modules() if module.training]
    on_device = device.type not in ("cpu", "mps")
    with torch.random.fork_rng([device] if on_device else [], device_type=device.type if on_device else "cuda"):
        model.eval()
        # The model's own configuration is replaced, because the library completes a call's configuration from it.
        model.generation_config = _plain_config(model)
        try:
            plain = model.generate(**_prompts(model), use_cache=False)
            try:
                found = _difference(model.generate(**_prompts(model), use_cache=True), plain)
            except Exception as error:  # any error is due to the cache, because there is none without it
                found = f"with it: {type(error).__name__}: {error}"
        finally:
            model.generation_config = own_config
            for module in training:
                module.training = True
    if isinstance(found, float):
        tolerance = _tolerance(model)
        if found <= tolerance:
            return ""
        found = f"scores differ by {found:.2g} of the largest; {tolerance:.2g} would be rounding"
    return (
        f"transformers {INSTALLED} does not work with {type(model).__name__}: generation with the cache disagrees "
        f"with generation without it ({found}). Versions known to work: {_command()}. Or generate without the cache, "
        "which is slower: use_cache=False."
    )


def _plain_config(model: Any) -> GenerationConfig:
    """Returns the configuration of a greedy search for `NEW_TOKENS` tokens, which no end token stops."""
    names = ("pad_token_id", "bos_token_id", "decoder_start_token_id")
    special = {name: getattr(model.config, name, None) for name in names}
    special["pad_token_id"] = special["pad_token_id"] or 0
    greedy = {"do_sample": False, "num_beams": 1, "max_new_tokens": NEW_TOKENS}
    return GenerationConfig(**greedy, return_dict_in_generate=True, output_scores=True, **special)


def _prompts(model: Any) -> dict[str, torch.Tensor]:
    """Returns rows of 3 and 2 tokens, padded on the right for a translator's source and otherwise on the left.

    A recurrent decoder would read padding on the left as tokens, so both of its rows have 3 tokens.
    """
    config, pad = model.config, model.generation_config.pad_token_id
    special = {pad, *(getattr(config, f"{kind}_token_id", None) for kind in ("bos", "eos", "decoder_start"))}
    ids = [token for token in range(min(config.vocab_size, 64)) if token not in special] or [0]
    first, second = [ids[-1], ids[len(ids) // 2], ids[0]], [ids[len(ids) // 3], ids[-1]]
    if config.is_encoder_decoder:
        rows, mask = [first, [*second, pad]], [[1, 1, 1], [1, 1, 0]]
    elif getattr(model, "_is_stateful", False):
        rows, mask = [first, [*second, ids[0]]], [[1, 1, 1], [1, 1, 1]]
    else:
        rows, mask = [first, [pad, *second]], [[1, 1, 1], [0, 1, 1]]
    prompts = {"input_ids": rows, "attention_mask": mask}
    return {name: torch.tensor(value, device=model.device) for name, value in prompts.items()}


def _difference(cached: Any, plain: Any) -> float:
    """Returns the largest difference of scores at steps after equal tokens, relative to the largest score."""
    largest, difference = 0.0, 0.0
    start = plain.sequences.shape[1] - len(plain.scores)
    for step, (with_cache, without) in enumerate(zip(cached.scores, plain.scores, strict=True)):
        agreeing = (cached.sequences[:, : start + step] == plain.sequences[:, : start + step]).all(dim=1)
        with_cache, without = with_cache[agreeing].double().cpu(), without[agreeing].double().cpu()
        finite = with_cache.isfinite() & without.isfinite()
        if finite.any():
            difference = max(difference, (with_cache - without)[finite].abs().max().item())
            largest = max(largest, without[finite].abs().max().item())
    return difference / largest if largest else difference


def _tolerance(model: Any) -> float:
    reduced = (
        getattr(model, "is_quantized", False)
        or torch.is_autocast_enabled(model.device.type)
        or torch.get_float32_matmul_precision() != "highest"
        or any(each.dtype not in (torch.float32, torch.float64) for each in model.parameters())
    )
    return REDUCED_PRECISION_TOLERANCE if reduced else TOLERANCE


check_version()
