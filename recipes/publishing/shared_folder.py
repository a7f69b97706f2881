"""The folder of a model as it is shared: which files, whether they are complete, and what must not be among them."""

import json
import re
import shutil
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

from papers_to_gpt.engine.reporting import CARD_FILE, RESULTS_FILE, RUN_FILE
from papers_to_gpt.publishing.fresh_process import (
    TARGET_TOKENIZER,
    auto_class_of,
    compare_computed,
    computed_by,
    computed_elsewhere,
    load_whole,
)

INDEX_FILE = "model.safetensors.index.json"

# What is shared of a folder; all else (checkpoints, logs, the record of the run) stays on the machine.
SHARED_NAMES = frozenset(("config.json", "generation_config.json", INDEX_FILE, RESULTS_FILE, CARD_FILE, "LICENSE"))
SHARED_SUFFIXES = frozenset((".safetensors", ".py", ".png", ".svg"))
TOKENIZER_NAMES = frozenset(
    ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
)

PICKLE_SUFFIXES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"))
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{20,}")

SAVE_AGAIN = "Load the model with the package that it belongs to and save it again (save_pretrained)."


def shared_files(folder: Path) -> dict[str, Path]:
    """The files of a model's folder that are shared, by their path in it."""
    files = [path for path in folder.iterdir() if path.name in SHARED_NAMES or path.suffix.lower() in SHARED_SUFFIXES]
    files += [place / name for place in (folder, folder / TARGET_TOKENIZER) for name in TOKENIZER_NAMES]
    return {path.relative_to(folder).as_posix(): path for path in sorted(files) if path.is_file()}


@dataclass(frozen=True)
class CheckedFolder:
    """A folder that `check_shared_folder` found complete.

    Attributes:
        model, tokenizer: as loaded by the package that is installed here.
        computed: what they compute (see `computed_by`).
        hidden_packages: what a process without our packages lacks.
    """

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    computed: dict[str, torch.Tensor]
    hidden_packages: tuple[str, ...]


def check_shared_folder(folder: Path) -> CheckedFolder:
    """Loads a model twice, with the package here and in a process that has only the folder, and compares.

    Raises:
        ValueError: for what is missing, does not fit together, or does not load; it says what to do.
    """
    config = _check_config(folder)
    _check_weights(folder)
    _check_code(folder, config)
    auto_class = getattr(transformers, auto_class_of(AutoConfig.from_pretrained(folder, trust_remote_code=False)))
    model = load_whole(auto_class, folder, trust_remote_code=False)
    if model.can_generate() and not (folder / "generation_config.json").is_file():
        raise ValueError(f"{folder} has no generation_config.json. {SAVE_AGAIN}")
    tokenizer, target_tokenizer = _check_tokenizers(folder, model)
    computed = computed_by(model, tokenizer, target_tokenizer)
    if not computed["logits"].isfinite().all():
        raise ValueError(f"{folder}: the model computes numbers that are not finite. Share an earlier checkpoint.")
    package = type(model).__module__.partition(".")[0]
    (elsewhere,) = computed_elsewhere([folder], [package], offline=True)
    compare_computed(elsewhere, computed, f"{folder}, loaded without {package}")
    return CheckedFolder(folder, model, tokenizer, computed, (package,))


def refresh_code(folder: Path) -> None:
    """Replaces the code beside a model's weights by the installed package's.

    Of the other files `config.json` alone is written anew, as it names the classes.

    Raises:
        ValueError: for a folder without a model of ours.
    """
    _check_config(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    auto_class = auto_class_of(config)
    if auto_class is None:
        raise ValueError(f"{folder / 'config.json'}: its auto_map does not name its architecture. {SAVE_AGAIN}")
    with torch.device("meta"):  # without weights, for the class alone
        model = getattr(transformers, auto_class).from_config(config, trust_remote_code=False)
    with tempfile.TemporaryDirectory() as fresh:
        custom_object_save(model, fresh)
        config.save_pretrained(fresh)
        # The configuration last: it may name files that were not there before.
        for path in sorted(Path(fresh).iterdir(), key=lambda path: path.name == "config.json"):
            shutil.copyfile(path, folder / path.name)


def _check_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Name the output_dir of a run, or one of its checkpoints.")
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"The folder {folder} holds no model: config.json is not there.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}. {SAVE_AGAIN}") from error
    if config.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(
            f"{path}: model_type is {config.get('model_type')!r}, which is no model of this repository nor of the "
            "installed transformers. Correct it, or share the model with the code that it was made with."
        )
    return config


def _check_weights(folder: Path) -> None:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ValueError(
            f"{folder} holds {', '.join(pickles)}: to load a pickle is to run what is in it. Save the weights as "
            "safetensors (save_pretrained does) and remove the file."
        )
    shards = {"model.safetensors"}
    if (folder / INDEX_FILE).is_file():
        shards = set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values())
    for name in sorted(shards):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no weights: {name} is not there.")
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{folder / name} is cut off or no safetensors file: {error}. Take the weights of a checkpoint, or "
                "copy the file again."
            ) from error


def _check_code(folder: Path, config: dict[str, Any]) -> None:
    """Every file that config.json refers to is there, with all that it imports from beside it."""
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
            raise ValueError(f"{folder} lacks {Path(error.filename).name}, which {file.name} imports.") from error


def _check_tokenizers(
    folder: Path, model: PreTrainedModel
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase | None]:
    config, loaded = model.config, []
    sizes = [("vocab_size", folder), ("decoder_vocab_size", folder / TARGET_TOKENIZER)]
    for field, place in sizes:
        if place != folder and not place.is_dir():
            loaded.append(None)
            continue
        lacking = sorted(name for name in ("tokenizer.json", "tokenizer_config.json") if not (place / name).is_file())
        if lacking:
            raise ValueError(f"{place} holds no tokenizer: {' and '.join(lacking)} not there.")
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        size = getattr(config, field)
        if len(tokenizer) != size:
            raise ValueError(
                f"{place}: the tokenizer has {len(tokenizer)} entries, but {field} in config.json is {size}. It is "
                "another model's; put this one's there."
            )
        for kind in ("pad", "bos", "eos"):
            id_in_config, id_of_token = (getattr(each, f"{kind}_token_id", None) for each in (config, tokenizer))
            if id_in_config is not None and id_of_token is not None and id_in_config != id_of_token:
                raise ValueError(
                    f"{place}: the tokenizer's {kind}_token_id is {id_of_token}, that of config.json {id_in_config}. "
                    "It is another model's; put this one's there."
                )
        loaded.append(tokenizer)
    source, target = loaded
    return source, target


def refuse_private(folder: Path, files: dict[str, Path]) -> None:
    """Raises ValueError if a file holds a token, or a path that means something on this machine only."""
    token = get_token()
    places = [folder.resolve(), Path.cwd(), Path.home(), Path(tempfile.gettempdir()), *_paths_of_run(folder)]
    paths = {f"{place}" for place in places if len(place.parts) > 1}
    for name, file in files.items():
        if file.suffix == ".safetensors":
            continue
        content = file.read_bytes()
        if TOKEN.search(content) or (token and token.encode() in content):
            raise ValueError(f"{folder / name} holds a token of the Hub. Take it out; better, revoke it too.")
        for path in sorted(paths, key=len, reverse=True):
            if re.search(rb"(?<![\w.:/-])" + re.escape(path.encode()) + rb"(?=[/\"'\s]|$)", content):
                raise ValueError(
                    f"{folder / name} names the path {path}, which is of this machine. Take it out before sharing."
                )


def _paths_of_run(folder: Path) -> Iterable[Path]:
    """Absolute paths among the settings of the run that left the folder."""
    record = folder / RUN_FILE
    settings = yaml.safe_load(record.read_text(encoding="utf-8"))["settings"] if record.is_file() else {}
    return [Path(value) for value in settings.values() if isinstance(value, str) and Path(value).is_absolute()]
