"""Compiles a model with `torch.compile`: for training and for decoding, once for all lengths."""

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import CompileConfig, PreTrainedModel, StaticCache

from papers_to_gpt.engine.launching import is_sharded

# Versions of a function's code, for different lengths among others. A function that needs more runs as it is written.
RECOMPILE_LIMIT = 16

# PyTorch's own, which writes C++ for a CPU and Triton for a GPU.
BACKEND = "inductor"

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def check_compiler(device_type: str) -> None:
    """Checks that this machine has what turns a model into machine code.

    Raises:
        ValueError: it lacks a C++ compiler, or on a GPU Triton.
    """
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", default)
    if shutil.which(compiler) is None:
        raise ValueError(
            f"torch_compile needs a C++ compiler, and {compiler} is not on this machine. Install it (on Debian: apt "
            "install g++), name another one in the environment variable CXX, or leave torch_compile out."
        )
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ValueError(
            "torch_compile needs the package triton for a GPU. Install it (pip install triton), or leave the setting "
            "out."
        )


def prepare_compiler(device_type: str) -> None:
    """Checks the compiler, and makes PyTorch keep compiled code between runs.

    The folder is what the environment variable TORCHINDUCTOR_CACHE_DIR names, by default
    `~/.cache/papers_to_gpt/compiled`. PyTorch's own default is a temporary folder, which is left where no other can
    be made: a container may have a home that is read-only, or none.

    Raises:
        ValueError: see `check_compiler`.
    """
    check_compiler(device_type)
    if CACHE_VARIABLE in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # without a home
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "papers_to_gpt" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ[CACHE_VARIABLE] = str(folder)


def compile_model(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Returns a compiled form of a model, which has the same parameters under the name `_orig_mod`.

    Call the result in place of the model, and save, load and evaluate the model itself. All lengths are symbols from
    the first batch on: the code is made for every length at once, so it does not depend on which batch came first, and
    a resumed run computes with the same code as one that was not interrupted. It is kept (see `prepare_compiler`).

    Raises:
        ValueError: the machine has no compiler, or the model is split among processes.
    """
    if is_sharded(accelerator):
        raise ValueError(
            "torch_compile is true, but the launcher asked for FSDP, which these recipes do not compile. Leave one of "
            "them out."
        )
    prepare_compiler(accelerator.device.type)
    return _compile_for_all_lengths(model)


def compile_forward(module: nn.Module, device_type: str) -> None:
    """Compiles the forward of a module in place, for inputs and caches of all lengths; the code is kept.

    Args:
        module: a part of a model, such as a decoder.
        device_type: the type of its device.

    Raises:
        ValueError: the machine has no compiler.
    """
    prepare_compiler(device_type)
    module.forward = _compile_for_all_lengths(module.forward)


def _compile_for_all_lengths(called: Callable[..., Any]) -> Callable[..., Any]:
    import torch._dynamo as dynamo
    import torch.fx.experimental._config as shapes

    dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, dynamo.config.recompile_limit)
    # Otherwise two sizes that are equal in the first batch would be taken for one, and the code made again for others.
    shapes.use_duck_shape = False
    return torch.compile(called, dynamic=True, backend=BACKEND)


class CompiledSteps:
    """Lets a language model's `generate()` run compiled code for every token after the prompt.

    The keys and values of all positions that the model has are allocated once. So a step has the same shapes whatever
    the length of the prompt and of the text, and the code is made once for each number of sequences. The library
    compiles the step, on a GPU as a CUDA graph; the prompt itself is read by the model as it is.

    Args:
        model: a language model with a limited number of positions.

    Raises:
        ValueError: the model is recurrent, or its code cannot be compiled as a whole, or the machine has no compiler.
    """

    def __init__(self, model: PreTrainedModel):
        if getattr(model, "_is_stateful", False) or not model._can_compile_fullgraph:
            raise ValueError(
                f"torch_compile is true, but {type(model).__name__} with this configuration has no step that can be "
                "compiled. Leave the setting out."
            )
        prepare_compiler(model.device.type)
        self.cache = StaticCache(config=model.config, max_cache_len=model.config.max_position_embeddings)
        mode = "reduce-overhead" if model.device.type == "cuda" else "default"
        self.config = CompileConfig(mode=mode, backend=BACKEND)
        self.config._compile_all_devices = True  # the library leaves it to this attribute whether CPUs compile

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of the next call of `generate()`, which must have ended before the one after it."""
        self.cache.reset()
        return {"cache": self.cache, "compile_config": self.config}
