"""Whether a folder holds a model that can be loaded, and the tokenizer that belongs to it."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, PreTrainedTokenizerBase

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_folder(name: str, trust_remote_code: bool = False) -> None:
    """Raises ValueError for a local folder that is not there or that no model can be loaded from; Hub ids pass.

    A path of two parts can be either; it is taken for a folder's where the folder above it is there.

    Args:
        name: a folder, or an id on the Hub.
        trust_remote_code: whether a model_type that is not installed may come with its code.
    """
    folder = Path(name)
    if not folder.is_dir():
        above = folder.parent
        if len(folder.parts) > 2 or name.startswith(".") or folder.is_absolute() or (above.name and above.is_dir()):
            raise ValueError(f"There is no folder {name}. Correct the path, or give the id of a model on the Hub.")
        return
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"The folder {folder} holds no model: config.json is not there.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Copy it again from where the model was trained.") from error
    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING and not (trust_remote_code and "auto_map" in config):
        raise ValueError(
            f"{path}: model_type is {model_type!r}, which is not known here. Correct it, or, if the model comes with "
            "its code and you trust that, load it with trust_remote_code."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        reason = (
            f" {', '.join(pickles)} is not read: to load a pickle is to run what is in it. Have the model saved as "
            "safetensors (save_pretrained does) by somebody who trusts it."
            if pickles
            else " Copy model.safetensors there from where the model was trained."
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


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int, name: str) -> None:
    """Raises ValueError for a tokenizer with more entries than its model has embeddings: it is another model's.

    Args:
        vocab_size: of the model.
        name: of the model, for the message.
    """
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"The tokenizer of {name} has {len(tokenizer):,} entries, but its model has only {vocab_size:,}: it "
            "is another model's. Put the tokenizer files that this one was trained with into its folder."
        )
