"""Checks whether a folder holds a model that can be loaded, and whether a tokenizer belongs to it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, PreTrainedTokenizerBase

from papers_to_gpt.settings.commands import command

# Where a checkpoint of a sharded run has its weights (see `checkpointing.py`), which only a run reads.
WEIGHT_SHARES = "training_state/weights"

# What `export.py` writes of an export: the engine, the kind and name of the model, its numbers.
EXPORT_FILE = "export.json"

# The engines of such exports, by the format that makes them.
ENGINES = {"ctranslate2": "CTranslate2", "onnx": "onnxruntime"}

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Kind:
    """A kind of model that the scripts make and use.

    Attributes:
        name: the name of the kind in messages.
        script: the script that uses such a model, without its extension.
        model_types: the model types of its configurations.
        heads: the endings of its class names; an empty text for any class.
    """

    name: str
    script: str
    model_types: tuple[str, ...]
    heads: tuple[str, ...] = ("",)

    def holds(self, config: dict[str, Any]) -> bool:
        """Returns True if a config.json is of this kind."""
        return config.get("model_type") in self.model_types and _architecture(config).endswith(self.heads)


TRANSLATOR = Kind("a translator", "translate", ("rnn_seq2seq", "bahdanau", "transformer_seq2seq"))
CLASSIFIER = Kind(
    "a GPT-1 that is fine-tuned for a task",
    "classify",
    ("gpt1",),
    ("ForSequenceClassification", "ForMultipleChoice"),
)
LANGUAGE_MODEL = Kind("a GPT-1 that continues text", "generate_text", ("gpt1",), ("ForCausalLM", "GPT1Model"))
MASKED_MODEL = Kind("a GPT-1 that predicts masked tokens", "finetune_gpt1", ("gpt1",), ("ForMaskedLM",))
OPENAI_GPT = Kind("a checkpoint of openai-gpt", "convert_openai_gpt", ("openai-gpt",))
KINDS = (TRANSLATOR, CLASSIFIER, LANGUAGE_MODEL, MASKED_MODEL, OPENAI_GPT)


def _architecture(config: dict[str, Any]) -> str:
    return (config.get("architectures") or [config.get("model_type") or ""])[0]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model.

    Raises:
        ValueError: it is something else, or cut off.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Copy it again from where the model was trained.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object. Copy it again from where the model was trained.")
    return content


def check_kind(config: dict[str, Any], name: str, kinds: tuple[Kind, ...]) -> None:
    """Raises ValueError if a model is of another kind than the script uses. Models of unknown kinds are accepted.

    Args:
        config: the content of config.json.
        name: the model's folder.
        kinds: the kinds of model that the script uses; an empty tuple for any kind.
    """
    found = next((kind for kind in KINDS if kind.holds(config)), None)
    if kinds and found is not None and found not in kinds:
        needed = " or ".join(kind.name for kind in kinds)
        raise ValueError(
            f"{name} holds a {_architecture(config)}, {found.name}. This script needs {needed}; for "
            f"{found.name} run: {command(found.script)}"
        )


def is_export(name: str) -> bool:
    """Returns True if a folder holds an export for another engine, which only some scripts run."""
    return Path(name, EXPORT_FILE).is_file()


def read_export(folder: Path) -> dict[str, Any]:
    """Returns what `export.py` wrote of an export.

    Raises:
        ValueError: it is not what `export.py` writes.
    """
    record = read_json(folder / EXPORT_FILE)
    is_complete = record.keys() >= {"model_type", "source", "quantization", "positions", "compared"}
    known = record.get("engine") in ENGINES and record.get("kind") in ("translator", "language_model")
    if not (is_complete and known):
        raise ValueError(f"{folder / EXPORT_FILE} is not what export.py writes. Export the model again.")
    return record


def check_export(folder: Path, kind: str) -> dict[str, Any]:
    """Returns what `export.py` wrote of an export.

    Args:
        folder: holds the export.
        kind: "translator" or "language_model", which the script runs.

    Raises:
        ValueError: the export is of another kind, so that another script runs it.
    """
    record = read_export(folder)
    if record["kind"] != kind:
        refuse_export(str(folder))
    return record


def refuse_export(name: str) -> None:
    """Raises ValueError if a folder holds an export, which has no weights that PyTorch loads."""
    if is_export(name):
        export = read_export(Path(name))
        scripts = ("translate", "score_translation") if export["kind"] == "translator" else ("generate_text",)
        commands = " and ".join(command(script) for script in scripts)
        raise ValueError(
            f"{name} is an export of {export['source']} for {ENGINES[export['engine']]}, which this script cannot "
            f"run; it runs in {commands}. Name the model that was exported."
        )


def check_folder(name: str, trust_remote_code: bool = False, kinds: tuple[Kind, ...] = ()) -> None:
    """Checks that a model can be loaded from a local folder, or that the Hub can be asked for it.

    A name of two parts may be a path or an id. It is taken as a path if its first part is an existing folder.

    Args:
        name: a folder, or an id on the Hub.
        trust_remote_code: True if a model_type that is not installed may be defined by code in the folder.
        kinds: the kinds of model that the script uses; an empty tuple for any kind.

    Raises:
        ValueError: if the folder does not exist and its name is no id, or the Hub cannot be reached; or no model can
            be loaded from the folder.
    """
    folder = Path(name)
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"The model {name} is a file. Name the folder that holds the model: the output_dir of a run, or one of "
            "its checkpoints."
        )
    if not folder.is_dir():
        above = folder.parent
        if len(folder.parts) > 2 or name.startswith(".") or folder.is_absolute() or (above.name and above.is_dir()):
            raise ValueError(f"There is no folder {name}. Correct the path, or give the id of a model on the Hub.")
        _check_id(name)
        return
    refuse_export(name)
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(describe_missing_config(folder))
    config = read_json(path)
    for other in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (folder / other).is_file():
            read_json(folder / other)
    check_kind(config, name, kinds)
    ours = any(kind.holds(config) for kind in (TRANSLATOR, CLASSIFIER, LANGUAGE_MODEL, MASKED_MODEL))
    if kinds and ours and not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"The folder {folder} has no tokenizer that can be loaded. Copy the tokenizer.json and "
            "tokenizer_config.json that the model was trained with into it."
        )
    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING and not (trust_remote_code and "auto_map" in config):
        raise ValueError(
            f"{path}: model_type is {model_type!r}, which is not known here. Correct it. If the folder holds the "
            "model's code and you trust it, load it with trust_remote_code."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        if (folder / WEIGHT_SHARES).is_dir():
            raise ValueError(describe_shares(folder))
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


def _check_id(name: str) -> None:
    """Raises ValueError if a name is no id, or the Hub cannot be reached and nothing of the model is in the cache.

    The library finds this out too, but repeats its request for half a minute.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(
            f"There is no folder {name}, and the name is no id of a model on the Hub. Correct the path or the id."
        ) from error
    settings = huggingface_hub.constants
    cached = Path(settings.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"))
    if settings.HF_HUB_OFFLINE or cached.is_dir():
        return
    try:
        HfApi().file_exists(name, "config.json")
    except HfHubHTTPError:
        return  # the Hub answers; loading says what is wrong
    except HTTPError as error:
        raise ValueError(
            f"There is no folder {name}, and {settings.ENDPOINT} cannot be reached ({error}), which may have a model "
            "of this name. Correct the path, or connect to the network."
        ) from error


def describe_missing_config(folder: Path) -> str:
    """Returns the message about a folder without config.json, such as that of an unfinished run."""
    weights = "" if any(folder.glob("*.safetensors")) else ", and it holds no weights"
    return (
        f"The folder {folder} holds no model: config.json is not there{weights}. Give the output_dir of a finished "
        "run, or one of its checkpoints."
    )


def describe_shares(folder: Path) -> str:
    """Returns the message about a folder whose weights lie in shares, with the command that makes a model of it."""
    target = folder.with_name(f"{folder.name}-model")
    return (
        f"The folder {folder} is a checkpoint of an FSDP2 run, with the weights in one share of each process. Make a "
        f"model of it: {command('share', folder, '--consolidate_to', target)}"
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
