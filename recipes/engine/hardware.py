"""What the hardware offers, and how training treats memory on CPU."""

import ctypes
import os
import sys
from collections.abc import Callable

import torch

# Shapes whose compiled code is worth keeping; see `keep_compiled_code`.
FOR_BATCHES_OF_TOKENS, FOR_BATCHES_OF_ROWS = 64, 8192

# Of glibc's malloc.h, for `mallopt`.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def use_memory_again() -> None:
    """Has this process keep what it frees for its next tensors; called before any are made.

    glibc gets every tensor of a few MB from the system and hands it back when it is freed. The pages come zeroed and
    one by one, for the same tensors in every update: a tenth of the time of GPT-1's.
    """
    if change := _glibc("mallopt"):
        change(M_MMAP_THRESHOLD, 2**30)
        change(M_TRIM_THRESHOLD, 2**31 - 1)


def keep_compiled_code(shapes: int) -> None:
    """Has oneDNN keep the code of so many shapes of a product instead of 1024; called before the first product.

    It compiles for every shape, to a MB at most. Batches that are filled by tokens hardly ever meet theirs again, and
    what is kept for them outgrows the model. Batches of equally many sequences meet theirs in every epoch, some dozens
    of shapes for each length: with too few of them kept, a tenth to a fifth of the time goes into compiling.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(shapes))


def return_freed_memory() -> None:
    """Hands memory that was freed back to the system.

    Where every batch has other shapes, freed tensors of all sizes leave holes in glibc's heap that the next ones do
    not fit: within 500 updates a process came to hold three times what it used.
    """
    if trim := _glibc("malloc_trim"):
        trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library, where that is glibc or one that has it too."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def processor_has_bf16(use_cpu: bool = False) -> bool:
    """Whether bf16 matrix products run on instructions made for them (AMX or AVX-512 on CPUs)."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
