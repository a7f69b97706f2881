"""Converts published GPT-1 weights: an `openai-gpt` checkpoint to a `GPT1ForCausalLM`, and a model of ours back.

The two models compute the same. They differ in the names of the weights and in the layout of the matrices, whose first
dimension is the input in OpenAI's. Weights are read only from safetensors, because loading a pickle can run any code.
The tokenizer's files and the generation settings of a checkpoint are copied.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from ..configuration_gpt1 import GPT1Config
from ..modeling_gpt1 import GPT1ForCausalLM

# Our name and the published name of every layer in a block. The published matrices are ours transposed.
BLOCK_LAYERS = {
    "attention.query_key_value": "attn.c_attn",
    "attention.out_proj": "attn.c_proj",
    "attention_norm": "ln_1",
    "mlp.expand": "mlp.c_fc",
    "mlp.contract": "mlp.c_proj",
    "mlp_norm": "ln_2",
}
EMBEDDINGS = {"tokens_embed.weight": "tokens_embed.weight", "positions_embed.weight": "positions_embed.weight"}

# Our name and the published name of settings that both configurations have.
SETTINGS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "embedding_dropout": "embd_pdrop",
    "attention_dropout": "attn_pdrop",
    "residual_dropout": "resid_pdrop",
    "layer_norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
}

# Tensors that are skipped: causal masks and position numbers, constants that some published files store, and heads
# other than the language model's.
CONSTANTS = ("attn.bias", "position_ids")
OTHER_HEADS = ("multiple_choice_head.", "score.")

WEIGHTS, WEIGHTS_INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
VOCABULARY_FILES = ("vocab.json", "merges.txt")
TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG, "chat_template.jinja", *VOCABULARY_FILES)


def _names(layers: int) -> dict[str, str]:
    """Returns the published names of the tensors by ours, without the prefix of either model."""
    names = dict(EMBEDDINGS)
    for layer in range(layers):
        for ours, theirs in BLOCK_LAYERS.items():
            for part in ("weight", "bias"):
                names[f"blocks.{layer}.{ours}.{part}"] = f"h.{layer}.{theirs}.{part}"
    return names


def _is_matrix(name: str) -> bool:
    return name.endswith(".weight") and not name.startswith(tuple(EMBEDDINGS)) and "norm" not in name


def from_openai_gpt(config: OpenAIGPTConfig, weights: dict[str, torch.Tensor]) -> GPT1ForCausalLM:
    """Returns our model with the weights of an `openai-gpt` model.

    Args:
        config: the configuration of the published model.
        weights: its tensors by their names in the checkpoint, with or without the prefix `transformer.`.

    Returns:
        The model in evaluation mode, in the precision of the weights. It computes the logits of the published model.

    Raises:
        ValueError: if the activation is not the tanh form of GELU, tensors are missing, unknown or of another shape
            than the configuration requires, or the output layer differs from the token table.
    """
    if config.afn != "gelu":
        raise ValueError(
            f"The checkpoint's activation (afn) is {config.afn!r}; this model has GPT-1's 'gelu', in its tanh form."
        )
    weights = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    # A checkpoint may store either of the two tied tensors, or both.
    output = weights.pop("lm_head.weight", None)
    if output is not None and not torch.equal(output, weights.setdefault("tokens_embed.weight", output)):
        raise ValueError(
            "lm_head.weight differs from tokens_embed.weight; GPT-1's softmax is tied to its token table."
        )
    settings = {ours: getattr(config, theirs) for ours, theirs in SETTINGS.items()}
    names = _names(config.n_layer)
    unknown = [
        name
        for name in weights
        if name not in names.values() and not name.endswith(CONSTANTS) and not name.startswith(OTHER_HEADS)
    ]
    missing = [name for name in names.values() if name not in weights]
    if missing or unknown:
        raise ValueError(
            "The weights are not those of the language model that config.json describes. "
            f"Missing: {_some(missing)}; unknown: {_some(unknown)}."
        )
    with torch.device("meta"):
        model = GPT1ForCausalLM(GPT1Config(**settings))
    converted = {}
    for ours, theirs in names.items():
        tensor = weights[theirs].T.contiguous() if _is_matrix(ours) else weights[theirs]
        expected = model.model.get_parameter(ours).shape
        if tensor.shape != expected:
            raise ValueError(
                f"{theirs} has the shape {tuple(weights[theirs].shape)}; by config.json it should be "
                f"{tuple(expected[::-1] if _is_matrix(ours) else expected)}."
            )
        converted[f"model.{ours}"] = tensor
    converted["lm_head.weight"] = converted["model.tokens_embed.weight"]
    model.load_state_dict(converted, assign=True)
    model.tie_weights()
    return model.eval()


def to_openai_gpt(model: GPT1ForCausalLM) -> OpenAIGPTLMHeadModel:
    """Returns transformers' `openai-gpt` model with the weights of our model, in evaluation mode.

    Raises:
        ValueError: if the model is an LSTM, its feed-forward layers are not four times as wide as the model (that
            class has no other width), or its softmax is not tied to the token table.
    """
    config = model.config
    if config.lstm_size is not None:
        raise ValueError(f"lstm_size is {config.lstm_size}; an openai-gpt model is a Transformer.")
    if config.intermediate_size != 4 * config.hidden_size:
        raise ValueError(
            f"intermediate_size is {config.intermediate_size}; an openai-gpt model's is always 4 x hidden_size, here "
            f"{4 * config.hidden_size}."
        )
    if not config.tie_word_embeddings:
        raise ValueError("tie_word_embeddings is False; an openai-gpt model's softmax is tied to its token table.")
    converted = OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(**{theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()})
    )
    converted.to(model.dtype)
    with torch.no_grad():
        for ours, theirs in _names(config.num_hidden_layers).items():
            tensor = model.model.get_parameter(ours)
            converted.transformer.get_parameter(theirs).copy_(tensor.T if _is_matrix(ours) else tensor)
    return converted.eval()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"


def find_checkpoint(source: str | Path, revision: str | None = None) -> Path:
    """Returns the folder of a checkpoint. If `source` is not a folder, it is downloaded from the Hub.

    Args:
        source: a folder, or a model's id on the Hub.
        revision: a branch, tag or commit on the Hub.

    Raises:
        ValueError: if neither exists, or the checkpoint has no configuration or no weights in safetensors.
    """
    folder = Path(source)
    if not folder.is_dir():
        try:
            patterns = ["*.json", "*.jinja", "*.safetensors", "merges.txt"]
            folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
        except (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError) as error:
            raise ValueError(f"{source} is neither a folder nor a model that the Hub has: {error}") from error
    if not (folder / "config.json").is_file():
        raise ValueError(f"{source} has no config.json, so it is not a checkpoint.")
    if not (folder / WEIGHTS).is_file() and not (folder / WEIGHTS_INDEX).is_file():
        pickled = (
            f" Its {PICKLE} is a pickle, which may run any code and is not read." if (folder / PICKLE).exists() else ""
        )
        raise ValueError(
            f"{source} has no {WEIGHTS}.{pickled} Load the model with the library it was saved with and save it again "
            "with save_pretrained, which writes safetensors."
        )
    return folder


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Reads all tensors of a checkpoint, which may have one safetensors file or several."""
    files = [folder / WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        index = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))
        files = [folder / file for file in sorted(set(index["weight_map"].values()))]
    weights = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                weights |= {name: tensors.get_tensor(name) for name in tensors.keys()}
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    return weights


def check_target(target: str | Path) -> None:
    """Raises ValueError if a folder to write has files, or is a file."""
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} already has files. Name a new folder, so that no checkpoint is overwritten.")


def convert(source: str | Path, target: str | Path) -> None:
    """Converts an `openai-gpt` checkpoint to ours and writes it, with its tokenizer, to a folder.

    The generation settings are copied. The tokenizer's `model_max_length` becomes the model's number of positions. A
    tokenizer that has only the published `vocab.json` and `merges.txt` gets a `tokenizer.json`.

    Args:
        source: a checkpoint's folder, or its id on the Hub.
        target: a new or empty folder.

    Raises:
        ValueError: if the target has files, or the source is not an `openai-gpt` checkpoint or cannot be converted.
    """
    target = Path(target)
    check_target(target)
    folder = find_checkpoint(source)
    found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if found != OpenAIGPTConfig.model_type:
        raise ValueError(
            f"{source} is a checkpoint of model_type {found!r}; only one of {OpenAIGPTConfig.model_type!r} is "
            "converted."
        )
    converted = from_openai_gpt(OpenAIGPTConfig.from_pretrained(folder), read_weights(folder))
    converted.save_pretrained(target)
    if (folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(folder / GENERATION_CONFIG, target / GENERATION_CONFIG)
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if TOKENIZER not in names and set(names).issuperset(VOCABULARY_FILES):
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False).save_pretrained(target)
    else:
        for name in names:
            shutil.copyfile(folder / name, target / name)
    if names:
        path = target / TOKENIZER_CONFIG
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        settings["model_max_length"] = converted.config.max_position_embeddings
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":  # this was a command in version 0.1
    print(
        "The commands are papers-to-gpt convert-openai-gpt SOURCE TARGET, and for the way back papers-to-gpt export "
        "MODEL --format openai-gpt --output_dir TARGET.",
        file=sys.stderr,
    )
    sys.exit(2)
