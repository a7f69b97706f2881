"""What a run does with the trained model that it starts from: more entries in its vocabulary, and frozen parts.

A new word becomes an entry like those that the vocabulary was trained with, so text is split into words as before and
decoding gives the word back. In a byte-pair vocabulary it is reached by merges that come after all others: the pieces
"▁Co" "vid" become "▁Covid". Entries between the pieces and the word are new as well, as is a character that the
vocabulary lacks. Each starts as the mean of the pieces that the word had before.
"""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from papers_to_gpt.engine.reporting import read_run_record
from papers_to_gpt.settings.starting import FREE_OF_START, StartingModelSettings

# The files of a model that a run which starts from it depends on.
FILES_OF_START = ("config.json", "tokenizer.json", "target_tokenizer/tokenizer.json", "*.safetensors")

# Sides of the vocabulary tables, by the ends of their names. A language model has only a target.
TABLES = {
    "encoder.embed_tokens.weight": "source",
    "decoder.embed_tokens.weight": "target",
    "tokens_embed.weight": "target",
    "lm_head.weight": "target",
    "lm_head.bias": "target",
}


def read_words(file: str | None, numbered_lines: Callable[[str], Iterable[tuple[int, str]]]) -> dict[str, str]:
    """Returns the words of a file of new tokens, one a line, each with its file and line. Empty lines are passed over.

    Args:
        file: None for no words.
        numbered_lines: function that reads the lines of a file with their numbers.

    Raises:
        ValueError: if a word is given twice, or there is none.
    """
    words: dict[str, str] = {}
    if file is None:
        return words
    for number, line in numbered_lines(file):
        word = line.strip()
        if word in words:
            raise ValueError(f"{file}, line {number}: {word!r} is also in {words[word]}. Remove one.")
        if word:
            words[word] = f"{file}, line {number}"
    if not words:
        raise ValueError(f"add_tokens is {file}, which holds no word. Write one a line, or leave add_tokens out.")
    return words


def configuration_changes(model_settings: Any) -> dict[str, Any]:
    """Returns the settings of a model that may differ from those of the model that the run starts from."""
    return {name: value for name, value in vars(model_settings).items() if any(word in name for word in FREE_OF_START)}


def configuration_of_resumed(checkpoint: Path, model_settings: Any) -> PreTrainedConfig:
    """Returns the configuration of a resumed run that started from a trained model: the checkpoint's, with changes."""
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    for name, value in configuration_changes(model_settings).items():
        setattr(config, name, value)
    return config


def base_model_entry(output_dir: Path, starting: StartingModelSettings) -> dict[str, str]:
    """Returns the entry `base_model` of `run.yaml`, the Hub id of the model that a run started from, if it has one."""
    if starting.init_from is None:
        return {}
    earlier = read_run_record(output_dir) or {}
    resumed = earlier.get("settings", {}).get("init_from") == starting.init_from
    on_hub = "base_model" in earlier if resumed else not Path(starting.init_from).is_dir()
    return {"base_model": starting.init_from} if on_hub else {}


@dataclass
class NewEntries:
    """The entries that a vocabulary has gained.

    Attributes:
        first: the number of the first of them; they are consecutive.
        pieces: for each of them, the numbers of the pieces that it had before.
        known: the words that were entries before.
    """

    first: int
    pieces: list[list[int]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)


def add_words(
    tokenizer: PreTrainedTokenizerFast, words: Mapping[str, str]
) -> tuple[PreTrainedTokenizerFast, NewEntries]:
    """Gives a vocabulary new entries, so that each of some words becomes one token.

    Args:
        tokenizer: has a byte-pair or a word vocabulary. It is not changed.
        words: each word, with its file and line for messages.

    Returns:
        A tokenizer with the entries, and what they consist of. Words that are entries already are passed over.

    Raises:
        ValueError: if the tokenizer splits a word into several words, or has a vocabulary of another kind.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, vocabulary = state["model"], state["model"].get("vocab")
    if model.get("type") not in ("BPE", "WordLevel") or model.get("continuing_subword_prefix"):
        raise ValueError(
            f"add_tokens is set, but the model's vocabulary is of the kind {model.get('type')}. Only byte-pair and "
            "word vocabularies can have further entries. Leave add_tokens out."
        )
    state |= {"truncation": None, "padding": None}  # which an earlier call left behind, and which change the pieces
    grown = _with(state, tokenizer.backend_tokenizer)
    # The tokens that the vocabulary keeps beside its own would leave gaps in the numbers.
    vocabulary |= {each["content"]: each["id"] for each in state["added_tokens"] if each["content"] not in vocabulary}
    entries, size = NewEntries(len(tokenizer)), len(tokenizer)
    parts: dict[str, list[int]] = {}  # the old pieces of each new entry

    def numbers(entry: str) -> list[int]:
        return parts.get(entry) or [vocabulary[entry]]

    def add(entry: str, pieces: list[int]) -> None:
        if entry not in vocabulary:
            vocabulary[entry] = size + len(parts)
            parts[entry] = pieces

    splits = {word: _split(tokenizer.backend_tokenizer, word, where) for word, where in words.items()}
    entries.known = {word for word in words if _is_entry(grown, word, model.get("unk_token"))}
    missing = [word for word in words if word not in entries.known]
    if model["type"] == "WordLevel":
        for word in missing:
            add(splits[word], grown.encode(word, add_special_tokens=False).ids)
        grown = _with(state, grown)
    else:
        for word in missing:
            for symbol in _symbols(splits[word], model.get("end_of_word_suffix") or ""):
                add(symbol, _pieces_of_symbol(symbol, model, vocabulary, words[word]))
        grown = _with(state, grown)
        merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
        known_merges = set(merges)
        # A merge that is added for one word may cut another one differently; later rounds join what is left of those.
        while left := [word for word in missing if len(grown.encode(word, add_special_tokens=False).ids) > 1]:
            for word in left:
                whole, *others = grown.encode(word, add_special_tokens=False).tokens
                for piece in others:
                    add(whole + piece, numbers(whole) + numbers(piece))
                    if (whole, piece) not in known_merges:
                        known_merges.add((whole, piece))
                        merges.append((whole, piece))
                    whole += piece
            model["merges"] = [list(merge) for merge in merges]
            grown = _with(state, grown)
    entries.pieces = list(parts.values())
    result = copy.deepcopy(tokenizer)
    result._tokenizer = grown
    return result, entries


def _split(backend: Tokenizer, word: str, where: str) -> str:
    """Returns a word in the form that the vocabulary has."""
    text = backend.normalizer.normalize_str(word) if backend.normalizer else word
    parts = [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
    if len(parts) != 1:
        raise ValueError(
            f"{where}: {word!r} is {len(parts)} words for the model's tokenizer ({' '.join(parts)}). Write one word a "
            "line, without spaces and punctuation."
        )
    return parts[0]


def _is_entry(backend: Tokenizer, word: str, unknown: str | None) -> bool:
    tokens = backend.encode(word, add_special_tokens=False).tokens
    return len(tokens) == 1 and tokens[0] != unknown


def _symbols(word: str, suffix: str) -> list[str]:
    return [*word[:-1], word[-1] + suffix]


def _pieces_of_symbol(symbol: str, model: dict[str, Any], vocabulary: dict[str, int], where: str) -> list[int]:
    """Returns the numbers that stand for a character: its own, those of its bytes, or that of the unknown token."""
    if symbol in vocabulary:
        return [vocabulary[symbol]]
    suffix = model.get("end_of_word_suffix") or ""
    character = symbol.removesuffix(suffix) if suffix else symbol
    in_bytes = [vocabulary.get(f"<0x{byte:02X}>") for byte in character.encode()]
    if model.get("byte_fallback") and None not in in_bytes:
        return in_bytes
    if model.get("unk_token") in vocabulary:
        return [vocabulary[model["unk_token"]]]
    raise ValueError(f"{where}: the model's vocabulary has nothing that stands for {character!r}. Remove the word.")


def _with(state: dict[str, Any], old: Tokenizer) -> Tokenizer:
    backend = Tokenizer.from_str(json.dumps(state))
    backend.encode_special_tokens = old.encode_special_tokens
    return backend


def grow_model(
    model: PreTrainedModel, added: Mapping[str, NewEntries], changes: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """Returns a model with the weights of another, in float32, and further entries in its vocabulary tables.

    Args:
        model: the trained model.
        added: the new entries of the sides `source` and `target`; those of tied tables must be the same.
        changes: fields of the configuration that are to have other values, such as dropout.
    """
    config = copy.deepcopy(model.config)
    for name, side in (("vocab_size", "source"), ("decoder_vocab_size", "target")):
        entries = added.get(side, added["target"])
        if getattr(config, name, None) is not None:
            setattr(config, name, max(getattr(config, name), entries.first + len(entries.pieces)))
    for name, value in (changes or {}).items():
        setattr(config, name, value)
    grown = type(model)._from_config(config, dtype=torch.float32)
    weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        side = next((side for end, side in TABLES.items() if name.endswith(end)), None)
        entries = added.get(side)
        if entries is not None and entries.pieces:
            rows = torch.stack([tensor[pieces].mean(0) for pieces in entries.pieces])
            # A model may have had rows without an entry, which are the first that new entries take.
            last = entries.first + len(rows)
            weights[name] = torch.cat([tensor[: entries.first], rows, tensor[last:]])
    grown.load_state_dict(weights)
    return grown


def freeze(model: PreTrainedModel, parts: Iterable[str]) -> None:
    """Excludes parts of a model from training.

    `embeddings` are all tables of embeddings, with the softmax matrix where it is one of them. `encoder`, `decoder`
    and `blocks` are layers without these tables, so that a shared table is frozen only by its own name.

    Raises:
        ValueError: if the model does not have a part, or nothing is left to train.
    """
    body = getattr(model, "model", model)
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    in_tables = {id(table) for table in tables}
    blocks = getattr(body, "blocks", None)
    layers = {name: [getattr(body, name)] for name in ("encoder", "decoder") if hasattr(body, name)}
    has = ["embeddings", *layers, *([] if blocks is None else [f"blocks:0-{len(blocks) - 1}"])]
    parts = list(parts)
    for part in parts:
        name, _, numbers = part.partition(":")
        if name == "blocks" and blocks is not None:
            first, _, last = numbers.partition("-")
            start, end = int(first), int(last or first)
            modules = list(blocks[start : end + 1]) if start <= end < len(blocks) else None
        else:
            modules = [] if part == "embeddings" else layers.get(part)
        if modules is None:
            raise ValueError(
                f"freeze is {part!r}, but the model ({model.config.model_type}) has no such part. It has "
                f"{', '.join(has)}."
            )
        frozen = tables if part == "embeddings" else [p for module in modules for p in module.parameters()]
        for parameter in frozen:
            if part == "embeddings" or id(parameter) not in in_tables:
                parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze is {' '.join(parts)}: no part of the model is left to train. Leave one out.")


def describe_frozen(model: PreTrainedModel, parts: Iterable[str] | None) -> str:
    """Returns what follows the number of parameters in the line about a model: how many of them train."""
    if not parts:
        return ""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f", {trained:,} of them trained (frozen: {', '.join(parts)})"
