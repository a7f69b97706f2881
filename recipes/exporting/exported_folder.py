"""Reads the folder of an export, whatever engine it is for."""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from papers_to_gpt.engine.model_folder import ENGINES, EXPORT_FILE, read_json

# The packages of each engine, which are extras of this project by its name.
PACKAGES = {"ctranslate2": ("ctranslate2",), "onnx": ("onnx", "onnxruntime", "onnxscript")}


def check_installed(engine: str, *packages: str) -> None:
    """Raises ValueError if an engine's packages are not installed.

    Args:
        engine: the name of the format.
        packages: those of its packages that are needed; all by default.
    """
    missing = [name for name in packages or PACKAGES[engine] if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"The format {engine} needs the package{'s' if missing[1:] else ''} {', '.join(missing)}: pip install "
            f"{' '.join(missing)} (or the extra `{engine}` of papers-to-gpt)."
        )


def fingerprint_export(folder: Path) -> dict[str, str]:
    """Returns a hash of each file of an export that decides its output."""
    names = sorted(path for path in folder.rglob("*") if path.suffix in (".bin", ".onnx", ".json"))
    return {
        f"{path.relative_to(folder)} of the model": hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        for path in names
    }


def refuse_settings(settings: Any, names: Sequence[str], folder: Path) -> None:
    """Raises ValueError if a setting is set that the engine of an export does not have.

    Args:
        settings: those of a script.
        names: the settings that the engine does not have.
        folder: the export.
    """
    given = [name for name in names if getattr(settings, name, None)]
    if given:
        record = read_json(folder / EXPORT_FILE)
        raise ValueError(
            f"{folder} is an export for {ENGINES[record['engine']]}, which does not have {' and '.join(given)}. Leave "
            f"{'them' if given[1:] else 'it'} out, or name the model that was exported: {record['source']}."
        )


def check_tokenizer(folder: Path) -> None:
    """Raises ValueError if an export has no tokenizer."""
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"The folder {folder} has no tokenizer: tokenizer.json is not there. Export the model again.")
