"""Compiles a model for training with `torch.compile`, once for batches of all lengths."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

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


def compile_model(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Returns a compiled form of a model, which has the same parameters under the name `_orig_mod`.

    Call the result in place of the model, and save, load and evaluate the model itself. All lengths are symbols from
    the first batch on: the code is made for every length at once, so it does not depend on which batch came first, and
    a resumed run computes with the same code as one that was not interrupted.

    The code is kept between runs, in the folder that the environment variable TORCHINDUCTOR_CACHE_DIR names, by
    default in `~/.cache/papers_to_gpt/compiled`. PyTorch's own default is a temporary folder.

    Raises:
        ValueError: the machine has no compiler, or the model is split among processes.
    """
    if is_sharded(accelerator):
        raise ValueError(
            "torch_compile is true, but the launcher asked for FSDP, which these recipes do not compile. Leave one of "
            "them out."
        )
    check_compiler(accelerator.device.type)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault(CACHE_VARIABLE, str(caches / "papers_to_gpt" / "compiled"))
    import torch._dynamo as dynamo
    import torch.fx.experimental._config as shapes

    dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, dynamo.config.recompile_limit)
    # Otherwise two sizes that are equal in the first batch would be taken for one, and the code made again for others.
    shapes.use_duck_shape = False
    return torch.compile(model, dynamic=True, backend=BACKEND)
