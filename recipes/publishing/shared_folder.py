"""Checks a model's folder before it is shared: its files are complete, load on their own, and hold nothing private."""

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from huggingface_hub import get_token
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import custom_object_save, get_relative_import_files

from papers_to_gpt.engine.durable_files import write_durably
from papers_to_gpt.engine.model_folder import (
    EXPORT_FILE,
    OPENAI_GPT,
    WEIGHT_SHARES,
    describe_missing_config,
    describe_shares,
    is_export,
    read_json,
)
from papers_to_gpt.engine.reporting import CARD_FILE, RESULTS_FILE, RUN_FILE
from papers_to_gpt.exporting.formats import LIBRARY_CLASSES
from papers_to_gpt.exporting.onnx_graphs import CONFIG_FILE
from papers_to_gpt.publishing.clean_process import (
    TARGET_TOKENIZER,
    auto_class_of,
    compare_probes,
    load_complete,
    probe_in_clean_process,
    probe_model,
)

INDEX_FILE = "model.safetensors.index.json"

# The files that are shared. Everything else (checkpoints, logs, the record of the run) stays on the machine.
SHARED_NAMES = frozenset(("config.json", "generation_config.json", INDEX_FILE, RESULTS_FILE, CARD_FILE, "LICENSE"))
SHARED_SUFFIXES = frozenset((".safetensors", ".py", ".png", ".svg"))
# Those of an export; `.bin` is CTranslate2's own format and no pickle.
EXPORT_NAMES = frozenset((EXPORT_FILE, "generation_config.json", "config.json", "model.bin", CARD_FILE, "LICENSE"))
EXPORT_NAMES |= {CONFIG_FILE, *(f"{kind}vocabulary.json" for kind in ("", "shared_", "source_", "target_"))}
EXPORT_SUFFIXES = frozenset((".onnx",))
TOKENIZER_NAMES = frozenset(
    ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
)

PICKLE_SUFFIXES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"))
# What transformers' Trainer writes beside a model, or into a checkpoint. It is the state of training, never shared.
TRAINER_FILES = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state(_\d+)?)\.(bin|pt|pth)")
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{20,}")

# Numbers of embeddings are often padded to a multiple of one of these, which GPUs compute faster; 1 is no padding.
PADDED_TO = (1, 8, 16, 32, 64, 128, 256)

# Model types of exports that are transformers' own, whose folders need no code.
LIBRARY_MODELS = frozenset((*OPENAI_GPT.model_types, *LIBRARY_CLASSES))

SAVE_AGAIN = "Load the model with the package that defines it and save it again (save_pretrained)."


def shared_files(folder: Path) -> dict[str, Path]:
    """Returns the files of a model's folder that are shared, by their path relative to the folder.

    A link does not count: what it points to may lie anywhere on the machine.
    """
    files = [path for path in _candidates(folder) if path.is_file() and not _is_link(path, folder)]
    return {path.relative_to(folder).as_posix(): path for path in sorted(files)}


def _candidates(folder: Path) -> list[Path]:
    names, suffixes = (EXPORT_NAMES, EXPORT_SUFFIXES) if is_export(str(folder)) else (SHARED_NAMES, SHARED_SUFFIXES)
    files = [path for path in folder.iterdir() if path.name in names or path.suffix.lower() in suffixes]
    return files + [parent / name for parent in (folder, folder / TARGET_TOKENIZER) for name in TOKENIZER_NAMES]


def _is_link(path: Path, folder: Path) -> bool:
    return path.is_symlink() or (path.parent != folder and path.parent.is_symlink())


@dataclass(frozen=True)
class CheckedFolder:
    """A folder that passed `check_shared_folder`.

    Attributes:
        folder: its path.
        model, tokenizer: the model and its source tokenizer, loaded with the installed package.
        probe: what they compute (see `probe_model`).
        hidden_packages: the packages that the clean process could not import.
    """

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    probe: dict[str, torch.Tensor]
    hidden_packages: tuple[str, ...]


def check_shared_folder(folder: Path) -> CheckedFolder:
    """Loads a model with the installed package and in a clean process, and compares what the two compute.

    Raises:
        ValueError: if a file is missing, files do not fit together, or the model does not load; the message says what
            to do.
    """
    config = _check_config(folder)
    _check_weights(folder)
    _check_links(folder)
    is_librarys = config["model_type"] in LIBRARY_MODELS
    if not is_librarys:
        _check_code(folder, config)
    auto_class = getattr(transformers, auto_class_of(AutoConfig.from_pretrained(folder, trust_remote_code=False)))
    model = load_complete(auto_class, folder, trust_remote_code=False)
    if model.can_generate() and not (folder / "generation_config.json").is_file():
        raise ValueError(f"{folder} has no generation_config.json. {SAVE_AGAIN}")
    tokenizer, target_tokenizer = _check_tokenizers(folder, model)
    probe = probe_model(model, tokenizer, target_tokenizer)
    if not probe["logits"].isfinite().all():
        raise ValueError(f"{folder}: the model's outputs are not finite. Share an earlier checkpoint.")
    package = "gpt1_scratch" if is_librarys else type(model).__module__.partition(".")[0]
    (clean,) = probe_in_clean_process([folder], [package], offline=True)
    compare_probes(clean, probe, f"{folder}, loaded without {package}")
    return CheckedFolder(folder, model, tokenizer, probe, (package,))


def refresh_code(folder: Path) -> None:
    """Replaces the code in a model's folder with that of the installed package.

    Of the other files only `config.json`, which names the classes, is rewritten.

    Raises:
        ValueError: if the folder holds no model of this repository.
    """
    _check_config(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    auto_class = auto_class_of(config)
    if auto_class is None or config.model_type in LIBRARY_MODELS:
        raise ValueError(f"{folder / 'config.json'}: its auto_map does not name its architecture. {SAVE_AGAIN}")
    with torch.device("meta"):  # allocates no weights: only the model's class is needed
        model = getattr(transformers, auto_class).from_config(config, trust_remote_code=False)
    with tempfile.TemporaryDirectory() as fresh:
        custom_object_save(model, fresh)
        config.save_pretrained(fresh)
        # config.json is copied last, because it may name files that the folder did not have before.
        for path in sorted(Path(fresh).iterdir(), key=lambda path: path.name == "config.json"):
            write_durably(folder / path.name, path.read_bytes(), then="refresh the code again")


def _check_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Give the output_dir of a run, or one of its checkpoints.")
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(describe_missing_config(folder))
    config = read_json(path)
    for other in ("generation_config.json", RESULTS_FILE, *TOKENIZER_NAMES):
        if other.endswith(".json") and (folder / other).is_file():
            read_json(folder / other)
    if config.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(
            f"{path}: model_type is {config.get('model_type')!r}, which is no model of this repository nor of the "
            "installed transformers. Correct it, or share the model with the code that it was trained with."
        )
    return config


def _check_weights(folder: Path) -> None:
    files = [path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES]
    pickles = sorted(name for name in files if not TRAINER_FILES.fullmatch(name))
    if pickles:
        raise ValueError(
            f"{folder} holds {', '.join(pickles)}: loading a pickle runs the code in it. Save the weights as "
            "safetensors (save_pretrained does) and remove the file."
        )
    if (folder / WEIGHT_SHARES).is_dir() and not any(folder.glob("*.safetensors")):
        raise ValueError(describe_shares(folder))
    shards = {"model.safetensors"}
    if (folder / INDEX_FILE).is_file():
        shards = set(read_json(folder / INDEX_FILE).get("weight_map", {"": "model.safetensors"}).values())
    for name in sorted(shards):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no weights: {name} is not there. {SAVE_AGAIN}")
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{folder / name} is cut off or no safetensors file: {error}. Use the weights of a checkpoint, or "
                "copy the file again."
            ) from error


def _check_links(folder: Path) -> None:
    """Raises ValueError if the weights, the configuration or the tokenizer are links, without which nothing works."""
    needed = [path for path in _candidates(folder) if path.suffix in (".safetensors", ".json") and path.is_file()]
    for path in sorted(needed):
        if path.name != RESULTS_FILE and _is_link(path, folder):
            raise ValueError(
                f"{path} is a link, and links are not shared. Put a copy of the file that it points to in its place."
            )


def _check_code(folder: Path, config: dict[str, Any]) -> None:
    """Raises ValueError if a file that config.json refers to, or a file that such a file imports, is missing."""
    auto_map = config.get("auto_map") or {}
    architecture = (config.get("architectures") or [None])[0]
    classes = [reference for reference in auto_map.values() if isinstance(reference, str)]
    if "AutoConfig" not in auto_map or architecture not in [name.rpartition(".")[2] for name in classes]:
        raise ValueError(
            f"{folder / 'config.json'}: its auto_map does not say where the code of {architecture} and of its "
            f"configuration is. {SAVE_AGAIN}"
        )
    classes += [task["impl"] for task in (config.get("custom_pipelines") or {}).values()]
    for module in sorted({name.rpartition(".")[0] for name in classes}):
        file = folder / f"{module}.py"
        if not file.is_file():
            raise ValueError(f"{folder} lacks {file.name}, which its config.json refers to. {SAVE_AGAIN}")
        try:
            get_relative_import_files(file)
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} lacks {Path(error.filename).name}, which {file.name} imports. {SAVE_AGAIN}"
            ) from error


def _check_tokenizers(
    folder: Path, model: PreTrainedModel
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase | None]:
    """Loads the source tokenizer and, if the folder has one, the target tokenizer, and compares them with the model.

    Raises:
        ValueError: if a tokenizer is missing, or has another size than the (padded) model or other special tokens.
    """
    config, loaded = model.config, []
    folders = [("vocab_size", folder), ("decoder_vocab_size", folder / TARGET_TOKENIZER)]
    for field, path in folders:
        if path != folder and not path.is_dir():
            loaded.append(None)
            continue
        missing = sorted(name for name in ("tokenizer.json", "tokenizer_config.json") if not (path / name).is_file())
        if missing:
            raise ValueError(f"{path} holds no tokenizer: {' and '.join(missing)} not there. Copy the model's there.")
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        size = getattr(config, field)
        if not is_padded(len(tokenizer), size):
            raise ValueError(
                f"{path}: the tokenizer has {len(tokenizer)} entries, but {field} in config.json is {size}. It "
                "belongs to another model. Put this model's own tokenizer there."
            )
        for kind in ("pad", "bos", "eos"):
            id_in_config, id_of_token = (getattr(each, f"{kind}_token_id", None) for each in (config, tokenizer))
            if id_in_config is not None and id_of_token is not None and id_in_config != id_of_token:
                raise ValueError(
                    f"{path}: the tokenizer's {kind}_token_id is {id_of_token}, but that of config.json is "
                    f"{id_in_config}. It belongs to another model. Put this model's own tokenizer there."
                )
        loaded.append(tokenizer)
    source, target = loaded
    return source, target


def is_padded(tokens: int, embeddings: int) -> bool:
    """Returns True if a model has as many embeddings as tokens, or the next multiple of a number in `PADDED_TO`.

    `resize_token_embeddings(pad_to_multiple_of=64)` makes such models. With other numbers the tokenizer is likely
    another model's.
    """
    return any(embeddings == -(-tokens // multiple) * multiple for multiple in PADDED_TO)


def refuse_private(folder: Path, files: dict[str, Path]) -> None:
    """Raises ValueError if a file holds a token of the Hub, or a path of this machine.

    Args:
        folder: the folder of the model.
        files: the files to search, as `shared_files` returns them.
    """
    token = get_token()
    local = [folder.resolve(), Path.cwd(), Path.home(), Path(tempfile.gettempdir()), *_paths_of_run(folder)]
    paths = {f"{path}" for path in local if len(path.parts) > 1}
    for name, file in files.items():
        if file.suffix == ".safetensors":
            continue
        content = file.read_bytes()
        if TOKEN.search(content) or (token and token.encode() in content):
            raise ValueError(
                f"{folder / name} holds a token of the Hub. Remove it, and revoke it at "
                "https://huggingface.co/settings/tokens if anybody else may have read it."
            )
        for path in sorted(paths, key=len, reverse=True):
            if re.search(rb"(?<![\w.:/-])" + re.escape(path.encode()) + rb"(?=[/\"'\s]|$)", content):
                raise ValueError(
                    f"{folder / name} names the path {path}, which is of this machine. Remove it before sharing."
                )


def _paths_of_run(folder: Path) -> Iterable[Path]:
    """Returns the absolute paths among the settings of the run that wrote the folder."""
    record = folder / RUN_FILE
    settings = yaml.safe_load(record.read_text(encoding="utf-8"))["settings"] if record.is_file() else {}
    values = [each for value in settings.values() for each in (value if isinstance(value, list) else [value])]
    return [Path(value) for value in values if isinstance(value, str) and Path(value).is_absolute()]
