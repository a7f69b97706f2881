"""Loads pre-trained GPT-1 weights, ours or published, and adds a head for a task."""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, OpenAIGPTConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..configuration_gpt1 import GPT1Config
from ..modeling_gpt1 import GPT1ForCausalLM, GPT1Model
from ..modeling_gpt1_heads import GPT1ForMultipleChoice, GPT1ForSequenceClassification
from ..modeling_gpt1_masked import GPT1ForMaskedLM
from ..pretraining.convert_openai_gpt import find_checkpoint, from_openai_gpt, read_weights
from ..tokenization import WORD_END, add_task_template, published_tokenizer
from .tasks import Task, config_of_task


def load_pretrained(name: str, revision: str | None = None) -> tuple[GPT1Model, PreTrainedTokenizerFast]:
    """Loads a pre-trained backbone and its tokenizer, as `load_with_tokenizer`, and adds the template for tasks."""
    backbone, tokenizer = load_with_tokenizer(GPT1Model, name, revision)
    return backbone, add_task_template(tokenizer)


def load_with_tokenizer(
    model_class: type[GPT1Model] | type[GPT1ForCausalLM] | type[GPT1ForMaskedLM],
    name: str,
    revision: str | None = None,
) -> tuple[Any, PreTrainedTokenizerFast]:
    """Loads a pre-trained GPT-1 in float32 and its tokenizer.

    The tokenizer's `model_max_length` is set to the model's number of positions, so `truncation=True` cuts to it.

    Args:
        model_class: the backbone alone, or a language model.
        name: folder or Hub id of a GPT-1, with or without a head, or of an `openai-gpt` checkpoint to be converted.
        revision: a branch, tag or commit on the Hub.

    Raises:
        ValueError: if the checkpoint is of another kind, incomplete, or has no tokenizer or that of another model.
    """
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    if config.model_type == OpenAIGPTConfig.model_type:
        model = from_openai_gpt(config, read_weights(find_checkpoint(name, revision))).float()
        model = model if model_class is GPT1ForCausalLM else model.model
    elif config.model_type == GPT1Config.model_type:
        model, found = model_class.from_pretrained(
            name, revision=revision, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        if found["missing_keys"]:
            raise ValueError(f"{name} lacks {len(found['missing_keys'])} weights, {min(found['missing_keys'])} first.")
    else:
        raise ValueError(
            f"{name} is a checkpoint of model_type {config.model_type!r}; training starts from "
            f"{GPT1Config.model_type!r} or {OpenAIGPTConfig.model_type!r}."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{name} has no tokenizer that can be loaded. Copy the tokenizer.json and tokenizer_config.json that it "
            f"was trained with into it. ({str(error).splitlines()[0]})"
        ) from error
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"The tokenizer of {name} has {len(tokenizer):,} entries, but its model has only "
            f"{model.config.vocab_size:,}: it belongs to another model. Put the tokenizer files that "
            "this model was trained with into its folder."
        )
    if tokenizer.cls_token is None:
        tokenizer = with_published_pipeline(tokenizer)
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model, tokenizer


def with_published_pipeline(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with the same vocabulary, the text pipeline of the paper and the tokens that tasks need.

    The library's tokenizer for openai-gpt has neither that pipeline nor the tokens; see `gpt1_scratch.tokenization`.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model.get("end_of_word_suffix") != WORD_END:
        return tokenizer
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps(model["vocab"]), encoding="utf-8")
        pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        merges.write_text("\n".join(pairs), encoding="utf-8")
        return published_tokenizer(vocabulary, merges)


def make_task_model(
    task: Task,
    backbone: GPT1Model,
    tokenizer: PreTrainedTokenizerFast,
    *,
    from_scratch: bool = False,
    transferred_layers: int | None = None,
    mean_label: float = 0.0,
    **settings: Any,
) -> PreTrainedModel:
    """Makes a model with a task's head from a pre-trained backbone, or from a part of it.

    Args:
        task: decides the head and its labels.
        backbone: the pre-trained backbone, which is not changed.
        tokenizer: a tokenizer with the template for tasks. Tokens without an embedding get a new one. The tokens that
            frame a text get a new one too, unless the backbone was fine-tuned before (see `draw_task_tokens`).
        from_scratch: True to use only the sizes of the backbone and initialize all weights at random.
        transferred_layers: number of blocks, from the first, that keep their weights besides the embeddings (figure 2
            of the paper); the others are initialized at random. Default: all blocks.
        mean_label: the initial prediction of a head for regression.
        **settings: fields of the configuration that replace those of the backbone.

    Raises:
        ValueError: if `transferred_layers` is larger than the number of blocks.
    """
    blocks = len(backbone.blocks)
    kept = blocks if transferred_layers is None else transferred_layers
    if not 0 <= kept <= blocks:
        raise ValueError(f"transferred_layers is {kept}; the model has {blocks} blocks.")
    config = copy.deepcopy(backbone.config)
    config.update(
        config_of_task(task)
        | {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
        | {"delimiter_token_id": tokenizer.sep_token_id}
        | settings
    )
    model = (GPT1ForMultipleChoice if task.kind == "multiple_choice" else GPT1ForSequenceClassification)(config)
    if not from_scratch:
        left_out = tuple(f"blocks.{index}." for index in range(kept, blocks))
        weights = {name: tensor for name, tensor in backbone.state_dict().items() if not name.startswith(left_out)}
        model.model.load_state_dict(weights, strict=not left_out)
    if len(tokenizer) > config.vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if not from_scratch and not was_fine_tuned(backbone):
        draw_task_tokens(model, tokenizer)
    if task.is_regression:
        # From a bias of zero, the paper's few small updates would be spent on learning the mean.
        torch.nn.init.constant_(model.score.bias, mean_label)
    return model


def was_fine_tuned(backbone: GPT1Model) -> bool:
    """Returns True if a backbone comes from a checkpoint with a task's head."""
    heads = {head.__name__ for head in (GPT1ForMultipleChoice, GPT1ForSequenceClassification)}
    return not heads.isdisjoint(backbone.config.architectures or ())


def draw_task_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Draws the embeddings of the tokens that frame texts from N(0, initializer_range), as OpenAI's code does.

    These tokens do not occur in pre-training. Its softmax, which shares the embeddings, only learns that they never
    come next. That moves all of them in the same direction, until start, delimiter and extract are nearly equal.
    """
    rows = [tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id]
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table[rows] = torch.randn(len(rows), table.shape[1]) * model.config.initializer_range
