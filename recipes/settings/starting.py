"""Settings of a run that starts from a trained model, whose sizes and vocabulary they then follow."""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from papers_to_gpt.settings.arguments import (
    TRUE_WORDS,
    WORDS_FOR_NO_VALUE,
    CheckedSettings,
    Setting,
    option,
    value_of,
)

PARTS = re.compile(r"embeddings|encoder|decoder|blocks:\d+(-\d+)?")

# Settings of a model that may differ from those of the model that a run starts from: no weight depends on them.
FREE_OF_START = ("dropout", "initializer", "forget_gate_bias", "sinusoidal_positions")

OTHER_VOCABULARIES = ("tokenizer_name", "vocabulary_file", "merges_file")


@dataclass
class StartingModelSettings(CheckedSettings):
    """The trained model that a run starts from, what its vocabulary gains and what is not trained."""

    group = "model"

    init_from: str | None = option(
        None,
        "Folder or Hub id of a trained model to start from: its weights, sizes and vocabulary, with a new optimizer "
        "and schedule; left out, weights are drawn at random.",
    )
    init_revision: str | None = option(None, "Branch, tag or commit of the model to start from on the Hub.")
    add_tokens: str | None = option(
        None,
        "Text file of words, one a line, that the vocabulary gains, on both sides of a translator; each starts as the "
        "mean of its pieces. Needs init_from.",
    )
    freeze: list[str] | None = option(
        None,
        "Parts that keep their weights, some of embeddings, encoder, decoder and blocks:0-3 (blocks of GPT-1, counted "
        "from 0). Needs init_from.",
    )

    def __post_init__(self):
        super().__post_init__()
        given = [name for name in ("init_revision", "add_tokens", "freeze") if getattr(self, name)]
        if given and self.init_from is None:
            raise ValueError(
                f"{' and '.join(given)} {'are' if given[1:] else 'is'} set, but init_from is not: there is no trained "
                "model that it could apply to. Name one (--init_from MODEL), or leave it out."
            )
        for part in self.freeze or []:
            if not PARTS.fullmatch(part):
                raise ValueError(
                    f"freeze is {part!r}; it must be some of embeddings, encoder, decoder and blocks:FIRST-LAST, such "
                    "as blocks:0-3."
                )


@dataclass(frozen=True)
class ModelFiles:
    """The small files of a model in a folder or on the Hub, which are read without loading it.

    Attributes:
        name: the folder or Hub id.
        revision: a branch, tag or commit on the Hub.
    """

    name: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        return Path(self.name).is_dir()

    def path(self, file: str) -> Path | None:
        """Returns the path of a file of the model; None if the model does not have it.

        Raises:
            ValueError: if there is neither such a folder nor such a model on the Hub.
        """
        if self.is_folder:
            path = Path(self.name, file)
            return path if path.is_file() else None
        from huggingface_hub import hf_hub_download  # slow, and a folder does not need it
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.name, file, revision=self.revision))
        except (OSError, ValueError, EntryNotFoundError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return None
            if isinstance(error, LocalEntryNotFoundError) and file != "config.json":
                return None
            raise ValueError(
                f"init_from is {self.name!r}, but there is no such folder, and no such model can be loaded from the "
                f"Hub ({str(error).splitlines()[0]}). Correct it."
            ) from error

    def json(self, file: str) -> dict[str, Any]:
        """Returns the JSON object in a file of the model.

        Raises:
            ValueError: if the model has no such file, or it holds something else.
        """
        path = self.path(file)
        if path is None:
            raise ValueError(
                f"init_from is {self.name}, which has no {file}. Name a model that was saved with its tokenizer: the "
                "output_dir of a finished run, or one of its checkpoints."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"init_from: {path} is not JSON ({error}). Copy it again.") from error
        if not isinstance(content, dict):
            raise ValueError(f"init_from: {path} is no JSON object. Copy it again.")
        return content


@dataclass(frozen=True)
class Reference:
    """The values that a run from a trained model follows.

    Attributes:
        name: the model.
        values: its values by the names of settings.
        asked: for a vocabulary, the values that the model's own run was given: learning may have found fewer entries.
    """

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    def refuse_contradictions(self, settings: Sequence[Setting], parsed: Sequence[Any]) -> None:
        """Refuses settings that contradict the model.

        Args:
            settings: those that were given.
            parsed: the dataclasses that they became.

        Raises:
            ValueError: names each setting with its value, where it was given, and the model's value.
        """
        given = {each.key.removeprefix("no_"): each.origin for each in settings if each.origin != self.name}
        values = {name: value for part in parsed for name, value in vars(part).items()}
        problems = [
            f"{name} is {values[name]!r} ({given[name]}), but the model's is {value!r}"
            for name, value in self.values.items()
            if name in given
            and values[name] not in (value, self.asked.get(name, value))
            and not any(word in name for word in FREE_OF_START)
        ]
        if problems:
            raise ValueError(
                f"init_from is {self.name}, whose sizes and vocabulary a run cannot change: {'; '.join(problems)}. "
                "Leave these settings out (--SETTING none if a preset has them), or leave init_from out."
            )


def follow_starting_model(
    settings: list[Setting],
    model_types: Sequence[str],
    names_of: Callable[[str], Iterable[str]],
    vocabulary_of: Callable[[ModelFiles, dict[str, Any]], dict[str, Any]],
    vocabulary_names: Sequence[str],
) -> tuple[list[Setting], Reference | None]:
    """Gives the settings that were left out the values of the model that `init_from` names.

    A run that is resumed follows its own record, so it no longer needs that model.

    Args:
        settings: those of the preset and the command line.
        model_types: the model types that the script trains.
        names_of: function from a model type to the names of its settings.
        vocabulary_of: function from the files of a model and its config.json to the settings of its vocabulary.
        vocabulary_names: the names of the settings of a vocabulary.

    Returns:
        The settings, and what to compare them with once they are parsed; None if there is nothing to compare.

    Raises:
        ValueError: if there is no such model, or a setting is given that has no meaning with it.
    """
    name = _text(settings, "init_from")
    if name is None or any(setting.key == "help" for setting in settings):
        return settings, None
    output_dir = _text(settings, "output_dir")
    _refuse_what_has_no_meaning(settings, name, output_dir)
    record = {} if output_dir is None else recorded_settings(Path(output_dir))
    resumes = record.get("init_from") == name and not _is_true(settings, "overwrite_output_dir")
    if resumes:
        known = {"model_type", *names_of(record.get("model_type", model_types[0])), *vocabulary_names}
        reference = Reference(name, {key: value for key, value in record.items() if key in known})
    else:
        reference = _reference_of(ModelFiles(name, _text(settings, "init_revision")), model_types, names_of)
        files = ModelFiles(name, _text(settings, "init_revision"))
        reference.values.update(vocabulary_of(files, files.json("config.json")))
        asked = recorded_settings(Path(name))
        if not any(asked.get(other) for other in OTHER_VOCABULARIES):
            reference.asked.update({key: asked[key] for key in vocabulary_names if key in asked})
    given_type = _text(settings, "model_type")
    if given_type is not None and given_type != reference.values.get("model_type", given_type):
        raise ValueError(
            f"model_type is {given_type!r}, but that of {name} (init_from) is {reference.values['model_type']!r}. "
            "Take a preset of that family, or leave init_from out."
        )
    # A setting that is none is one that is left out.
    last = {each.key: each for each in settings}
    unset = {key for key, each in last.items() if key in reference.values and _is_none(each)}
    given = [each for each in settings if each.key not in unset]
    decided = {each.key.removeprefix("no_") for each in given}
    followed = [
        Setting(key, (_as_text(value),), name) for key, value in reference.values.items() if key not in decided
    ]
    if "model_type" in reference.values and len(model_types) == 1:
        followed = [each for each in followed if each.key != "model_type"]
    return followed + given, None if resumes else reference


def _reference_of(
    files: ModelFiles, model_types: Sequence[str], names_of: Callable[[str], Iterable[str]]
) -> Reference:
    config = files.json("config.json")
    model_type = config.get("model_type")
    if model_type not in model_types:
        raise ValueError(
            f"init_from is {files.name}, whose model_type is {model_type!r}; this script starts from "
            f"{' or '.join(model_types)}."
            + (" Convert it first, with convert_openai_gpt.py." if model_type == "openai-gpt" else "")
        )
    values = {name: config[name] for name in names_of(model_type) if name in config}
    return Reference(files.name, {"model_type": model_type} | values)


def describe_vocabulary(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a vocabulary that a tokenizer.json tells, if it is of a kind that is trained here.

    Args:
        tokenizer: the content of tokenizer.json.
    """
    kinds = {"BPE": "bpe", "WordLevel": "word"}
    kind = (tokenizer.get("model") or {}).get("type")
    known = {"tokenizer_type": kinds[kind]} if kind in kinds else {}
    return known | {"lowercase": '"Lowercase"' in json.dumps(tokenizer.get("normalizer"))}


def _refuse_what_has_no_meaning(settings: Sequence[Setting], name: str, output_dir: str | None) -> None:
    for other in OTHER_VOCABULARIES:
        if (value := _text(settings, other)) is not None:
            raise ValueError(
                f"{other} is {value!r}, but init_from is {name}: the embeddings of a trained model belong to its own "
                f"vocabulary. Leave {other} out; add_tokens gives the vocabulary further entries."
            )
    if output_dir is None:
        return
    folder = os.path.realpath(output_dir)
    if os.path.isdir(name) and (os.path.realpath(name) + os.sep).startswith(folder + os.sep):
        raise ValueError(
            f"init_from is {name}, which is in output_dir {output_dir}: the run would replace what it starts from. "
            "Name another output_dir. To continue the run in it, leave init_from out."
        )
    checkpoint = _text(settings, "resume_from_checkpoint")
    if checkpoint not in (None, "last") and os.path.dirname(os.path.realpath(checkpoint)) != folder:
        raise ValueError(
            f"resume_from_checkpoint is {checkpoint}, which is not in output_dir {output_dir}, and init_from is "
            f"{name}: each names the weights to begin with. Leave one out. The same command resumes a run that "
            "began with init_from."
        )


def recorded_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings in the record of a run; empty if there is no readable one."""
    try:
        record = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    found = record.get("settings") if isinstance(record, dict) else None
    return found if isinstance(found, dict) else {}


def _text(settings: Sequence[Setting], key: str) -> str | None:
    value = value_of(settings, key)
    return None if value is None or value.lower() in WORDS_FOR_NO_VALUE else value


def _is_true(settings: Sequence[Setting], key: str) -> bool:
    last = next((each for each in reversed(settings) if each.key == key), None)
    return last is not None and (not last.values or last.values[0].lower() in TRUE_WORDS)


def _is_none(setting: Setting) -> bool:
    return len(setting.values) == 1 and setting.values[0].lower() in WORDS_FOR_NO_VALUE


def _as_text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
