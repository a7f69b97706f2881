"""The versions of transformers that this code is for, and a check of generation under later ones.

A checkpoint carries its code, so it is loaded by versions that did not exist when it was saved. One of them may rename
an argument, and then generate nonsense without an error. The packages do not import each other, and each has this
file; a test compares them.
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
# Largest difference of scores, as a share of the largest score: with all weights in at least 32 bits, and otherwise.
TOLERANCE, REDUCED_PRECISION_TOLERANCE = 1e-3, 2e-2

_lock = threading.RLock()
_running = threading.local()
# By model class: what the check found, an empty text if cached generation agrees with plain generation.
_found: dict[type, str] = {}


def requirement() -> str:
    """The supported versions, as pip takes them."""
    (oldest_major, oldest_minor), (major, minor) = OLDEST, NEWEST_TESTED
    return f">={oldest_major}.{oldest_minor},<{major}.{minor + 1}"


def _command() -> str:
    return f'pip install "transformers{requirement()}"'


def _installed_minor() -> tuple[int, ...]:
    return tuple(map(int, INSTALLED.split(".")[:2]))


def check_version() -> None:
    """Refuses versions that are too old, and warns once of versions that are too new to have been tested.

    Raises:
        ImportError: the installed transformers is older than `OLDEST`.
    """
    if _installed_minor() < OLDEST:
        raise ImportError(
            f"transformers {INSTALLED} is installed, but this model needs transformers{requirement()}: {_command()}"
        )
    if _installed_minor() > NEWEST_TESTED:
        # The library's own logger, which all copies of this file share, so that only the first of them warns.
        logging.get_logger().warning_once(
            f"transformers {INSTALLED} is newer than the versions that this model's code was tested with "
            f"({requirement()}). The first generate() checks itself; if it fails: {_command()}"
        )


def check_generation(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Compares cached with plain generation once for each model class, under a version that was not tested.

    To be called first in `generate()`. It does nothing under a tested version, without a cache, while a graph is
    captured, and for a model whose weights are not all in memory (sharded, offloaded, or on the meta device).

    Args:
        model: the model that generates.
        args, kwargs: of the caller's `generate()`.

    Raises:
        RuntimeError: the model's cached generation is wrong under the installed version.
    """
    if (
        _installed_minor() <= NEWEST_TESTED
        or getattr(_running, "here", False)
        or not _wants_cache(model, args, kwargs)
    ):
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
    asked = [
        kwargs.get("use_cache"),
        *(getattr(each, "use_cache", None) for each in (config, model.generation_config)),
    ]
    return next((each for each in asked if each is not None), True)


def _has_all_weights(model: Any) -> bool:
    # Hooks of accelerate move weights in and out; FSDP's modules and distributed tensors (which have a device mesh)
    # hold a part of them, and so does DeepSpeed, which leaves the parameters empty.
    managed = any(hasattr(each, "_hf_hook") or hasattr(each, "_is_fsdp_managed_module") for each in model.modules())
    return not managed and not any(
        each.is_meta or not each.numel() or hasattr(each, "device_mesh") for each in model.parameters()
    )


def _compare(model: Any) -> str:
    """What is wrong with cached generation, or an empty text; leaves model and random generators as they were."""
    device, own_config = model.device, model.generation_config
    training = [module for module in model.modules() if module.training]
    on_device = device.type not in ("cpu", "mps")
    with torch.random.fork_rng([device] if on_device else [], device_type=device.type if on_device else "cuda"):
        model.eval()
        # In its place, as the library fills what a call leaves open from the model's own: lengths, forced tokens.
        model.generation_config = _plain_config(model)
        try:
            plain = model.generate(**_prompts(model), use_cache=False)
            try:
                found = _difference(model.generate(**_prompts(model), use_cache=True), plain)
            except Exception as error:  # of whatever kind: without the cache there was none
                found = f"with it: {type(error).__name__}: {error}"
        finally:
            model.generation_config = own_config
            for module in training:
                module.training = True
    tolerance = _tolerance(model)
    if isinstance(found, float):
        if found <= tolerance:
            return ""
        found = f"scores differ by {found:.2g} of the largest; {tolerance:.2g} would be rounding"
    return (
        f"transformers {INSTALLED} does not work with {type(model).__name__}: generation with the cache disagrees "
        f"with generation without it ({found}). Versions known to work: {_command()}. Or generate without the cache, "
        "which is slower: use_cache=False."
    )


def _plain_config(model: Any) -> GenerationConfig:
    """Greedy search for `NEW_TOKENS` tokens; no end token, so that all of them are generated."""
    names = ("pad_token_id", "bos_token_id", "decoder_start_token_id")
    special = {name: getattr(model.config, name, None) for name in names}
    if special["pad_token_id"] is None:
        special["pad_token_id"] = 0
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=NEW_TOKENS,
        return_dict_in_generate=True,
        output_scores=True,
        **special,
    )


def _prompts(model: Any) -> dict[str, torch.Tensor]:
    """Two rows of 3 and 2 tokens, padded on the right for a translator's source and else on the left.

    A decoder that carries a state along would read padding on the left: its rows have 3 tokens each.
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
    return {
        "input_ids": torch.tensor(rows, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }


def _difference(cached: Any, plain: Any) -> float:
    """The largest difference of scores, as a share of the largest score, at steps that follow the same tokens."""
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
