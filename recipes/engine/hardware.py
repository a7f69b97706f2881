"""What the processor offers: bf16 instructions, and oneDNN's cache of compiled code."""

import os

import torch

# How many shapes of a matrix product `keep_compiled_code` keeps, by how batches are filled.
FOR_BATCHES_OF_TOKENS, FOR_BATCHES_OF_ROWS = 64, 8192


def keep_compiled_code(shapes: int) -> None:
    """Sets how many compiled matrix products oneDNN keeps, instead of 1024; call it before the first product.

    oneDNN compiles code for every shape of a product, up to a MB each. Batches that are filled by tokens rarely repeat
    a shape, and neither do the steps of a search, which finished sentences leave: their cached code would outgrow the
    model. Batches with a fixed number of sequences repeat their shapes in every epoch, some dozens for each length;
    with too small a cache, a tenth to a fifth of the time goes into compiling.

    Args:
        shapes: the number of shapes to keep. A value that the environment sets takes precedence.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(shapes))


def processor_has_bf16(use_cpu: bool = False) -> bool:
    """Returns True if the processor has instructions for bf16 matrix products (on CPUs, AMX or AVX-512).

    Args:
        use_cpu: True to ask about the CPU although there is a GPU.
    """
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
