"""Loads models of CTranslate2, and says what it needs on this machine."""

from pathlib import Path
from typing import Any

import torch

from papers_to_gpt.engine.model_folder import EXPORT_FILE, read_json
from papers_to_gpt.exporting.exported_folder import check_installed

WEIGHTS = "model.bin"


def device_name() -> str:
    """Returns "cuda" if CTranslate2 sees a GPU, otherwise "cpu"."""
    import ctranslate2

    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


def check_quantization(quantization: str) -> None:
    """Raises ValueError if this processor or GPU does not compute with such numbers.

    CTranslate2 itself would run the model in other numbers without a word.
    """
    import ctranslate2

    supported = sorted(ctranslate2.get_supported_compute_types(device_name()))
    if quantization not in supported:
        raise ValueError(
            f"quantization is {quantization}, which CTranslate2 does not compute with on this machine's "
            f"{'GPU' if device_name() == 'cuda' else 'processor'}. It has {', '.join(supported)}."
        )


def load_engine(kind: str, folder: Path) -> Any:
    """Loads a model of CTranslate2 with as many threads as PyTorch has.

    Args:
        kind: "Translator" or "Generator".
        folder: the folder of an export.

    Raises:
        ValueError: the package is missing, or the weights are not there or cannot be read.
    """
    check_installed("ctranslate2")
    import ctranslate2

    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"The folder {folder} has no {WEIGHTS}. Export the model again.")
    check_quantization(read_json(folder / EXPORT_FILE)["quantization"])
    try:
        return getattr(ctranslate2, kind)(str(folder), device=device_name(), intra_threads=torch.get_num_threads())
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"CTranslate2 cannot load {folder}: {error}. Export the model again.") from error


def sampling_options(
    vocabulary: int, temperature: float | None, top_k: int | None, top_p: float | None
) -> dict[str, Any]:
    """Returns CTranslate2's names of temperature, top_k and top_p; those that are None do not limit the distribution.

    Args:
        vocabulary: number of tokens. CTranslate2 refuses a larger top_k, which does not limit the distribution.
        temperature, top_k, top_p: as in transformers' `generate()`.
    """
    top_k = top_k or 0
    return {
        "sampling_temperature": temperature or 1.0,
        "sampling_topk": top_k if top_k < vocabulary else 0,
        "sampling_topp": top_p or 1.0,
    }
