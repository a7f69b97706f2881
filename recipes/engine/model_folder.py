"""Checks whether a folder holds a model that can be loaded, and whether a tokenizer belongs to it."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, PreTrainedTokenizerBase

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_folder(name: str, trust_remote_code: bool = False) -> None:
    """Checks that a model can be loaded from a local folder; ids on the Hub are not checked.

    A name of two parts may be a path or an id. It is taken as a path if its first part is an existing folder.

    Args:
        name: a folder, or an id on the Hub.
        trust_remote_code: True if a model_type that is not installed may be defined by code in the folder.

    Raises:
        ValueError: if the folder does not exist, or no model can be loaded from it.
    """
    folder = Path(name)
    if not folder.is_dir():
        above = folder.parent
        if len(folder.parts) > 2 or name.startswith(".") or folder.is_absolute() or (above.name and above.is_dir()):
            raise ValueError(f"There is no folder {name}. Correct the path, or give the id of a model on the Hub.")
        return
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(describe_missing_config(folder))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Copy it again from where the model was trained.") from error
    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING and not (trust_remote_code and "auto_map" in config):
        raise ValueError(
            f"{path}: model_type is {model_type!r}, which is not known here. Correct it. If the folder holds the "
            "model's code and you trust it, load it with trust_remote_code."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        reason = (
            f" {', '.join(pickles)} is not read: loading a pickle runs the code in it. Ask its author for "
            "safetensors, which save_pretrained writes."
            if pickles
            else " Copy model.safetensors from where the model was trained."
        )
        raise ValueError(f"The folder {folder} holds no weights: model.safetensors is not there.{reason}")
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{file} is cut off or no safetensors file ({error}). Copy or download it again."
            ) from error


def describe_missing_config(folder: Path) -> str:
    """The message about a folder without config.json, such as that of a run that has not ended."""
    weights = "" if any(folder.glob("*.safetensors")) else ", and it holds no weights"
    return (
        f"The folder {folder} holds no model: config.json is not there{weights}. Give the output_dir of a finished "
        "run, or one of its checkpoints."
    )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int, name: str) -> None:
    """Checks that a tokenizer has no more entries than its model has embeddings.

    Args:
        tokenizer: the tokenizer.
        vocab_size: the model's number of embeddings.
        name: the model's name, for the message.

    Raises:
        ValueError: if it has more entries, so that it must belong to another model.
    """
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"The tokenizer of {name} has {len(tokenizer):,} entries, but its model has only {vocab_size:,}: it "
            "belongs to another model. Put the tokenizer files that this model was trained with into its folder."
        )
