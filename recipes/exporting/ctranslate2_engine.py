"""Loads models of CTranslate2, and says what it needs on this machine."""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from papers_to_gpt.engine.model_folder import EXPORT_FILE, read_json

WEIGHTS = "model.bin"


def check_installed() -> None:
    """Raises ValueError if CTranslate2 is not installed."""
    if importlib.util.find_spec("ctranslate2") is None:
        raise ValueError(
            "The format ctranslate2 needs the package ctranslate2: pip install ctranslate2 (or the extra "
            "`ctranslate2` of papers-to-gpt)."
        )


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
    check_installed()
    import ctranslate2

    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"The folder {folder} has no {WEIGHTS}. Export the model again.")
    check_quantization(read_json(folder / EXPORT_FILE)["quantization"])
    try:
        return getattr(ctranslate2, kind)(str(folder), device=device_name(), intra_threads=torch.get_num_threads())
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"CTranslate2 cannot load {folder}: {error}. Export the model again.") from error


def fingerprint_export(folder: Path) -> dict[str, str]:
    """Returns a hash of each file of an export that decides its output."""
    names = sorted(path for path in folder.rglob("*") if path.suffix in (".bin", ".json"))
    return {
        f"{path.relative_to(folder)} of the model": hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        for path in names
    }


def refuse_settings(settings: Any, names: Sequence[str], folder: Path) -> None:
    """Raises ValueError if one of the settings is set that CTranslate2 has no counterpart for."""
    given = [name for name in names if getattr(settings, name, None)]
    if given:
        raise ValueError(
            f"{folder} is an export for CTranslate2, which does not have {' and '.join(given)}. Leave "
            f"{'them' if given[1:] else 'it'} out, or name the model that was exported: "
            f"{read_json(folder / EXPORT_FILE)['source']}."
        )


def sampling_options(settings: Any) -> dict[str, Any]:
    """Returns CTranslate2's names of temperature, top_k and top_p; those left out do not limit the distribution."""
    return {
        "sampling_temperature": settings.temperature or 1.0,
        "sampling_topk": settings.top_k or 0,
        "sampling_topp": settings.top_p or 1.0,
    }
