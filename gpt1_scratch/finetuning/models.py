"""From pre-trained GPT-1 weights, ours or published, to a model with a task's head."""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, OpenAIGPTConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..configuration_gpt1 import GPT1Config
from ..modeling_gpt1 import GPT1Model
from ..modeling_gpt1_heads import GPT1ForMultipleChoice, GPT1ForSequenceClassification
from ..pretraining.convert_openai_gpt import find_checkpoint, from_openai_gpt, read_weights
from ..tokenization import WORD_END, add_task_template, published_tokenizer
from .tasks import Task, config_of_task


def load_pretrained(name: str, revision: str | None = None) -> tuple[GPT1Model, PreTrainedTokenizerFast]:
    """A pre-trained body, in float32, and its tokenizer with the tasks' template.

    The tokenizer's `model_max_length` is the body's number of positions, so that `truncation=True` cuts to them.

    Args:
        name: folder or Hub id of a GPT-1 with any head or none, or of an `openai-gpt` checkpoint, which is converted.
        revision: a branch, tag or commit on the Hub.

    Raises:
        ValueError: a checkpoint of another kind, incomplete, or without its tokenizer.
    """
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    if config.model_type == OpenAIGPTConfig.model_type:
        backbone = from_openai_gpt(config, read_weights(find_checkpoint(name, revision))).model.float()
    elif config.model_type == GPT1Config.model_type:
        backbone, found = GPT1Model.from_pretrained(
            name, revision=revision, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        if found["missing_keys"]:
            raise ValueError(f"{name} lacks {len(found['missing_keys'])} weights, {min(found['missing_keys'])} first.")
    else:
        raise ValueError(
            f"{name} is a checkpoint of model_type {config.model_type!r}; fine-tuning starts from "
            f"{GPT1Config.model_type!r} or {OpenAIGPTConfig.model_type!r}."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{name} has no tokenizer that can be loaded. Copy the tokenizer.json and tokenizer_config.json that it "
            f"was trained with into it. ({str(error).splitlines()[0]})"
        ) from error
    if len(tokenizer) > backbone.config.vocab_size:
        raise ValueError(
            f"The tokenizer of {name} has {len(tokenizer):,} entries, but its model has only "
            f"{backbone.config.vocab_size:,}: it is another model's. Put the tokenizer files that this one was "
            "trained with into its folder."
        )
    if tokenizer.cls_token is None:
        tokenizer = with_published_pipeline(tokenizer)
    tokenizer.model_max_length = backbone.config.max_position_embeddings
    return backbone, add_task_template(tokenizer)


def with_published_pipeline(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same vocabulary and merges with the text pipeline of the paper, and the tokens that tasks need behind it.

    The library's own tokenizer for openai-gpt has neither; see `gpt1_scratch.tokenization`.
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
    """A task's head on a pre-trained body, or on as much of it as is to be transferred.

    Args:
        backbone: is left as it is.
        tokenizer: with the template; tokens that the body has no embedding for get new ones, and so do
            those that frame a text unless the body was fine-tuned before (see `draw_task_tokens`).
        from_scratch: whether to take the body's sizes alone and start at random.
        transferred_layers: blocks, from the first, that keep their weights, beside the embeddings (figure 2 of the
            paper); the others start at random. None: all.
        mean_label: of regression, what the head says at the start.
        **settings: of the configuration, in place of the body's.

    Raises:
        ValueError: transferred_layers that the body does not have.
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
        # A head that starts at zero would spend the paper's few small updates on finding the mean.
        torch.nn.init.constant_(model.score.bias, mean_label)
    return model


def was_fine_tuned(backbone: GPT1Model) -> bool:
    """Whether it comes from a checkpoint with a task's head."""
    heads = {head.__name__ for head in (GPT1ForMultipleChoice, GPT1ForSequenceClassification)}
    return not heads.isdisjoint(backbone.config.architectures or ())


def draw_task_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Gives the tokens that frame a task's texts embeddings of N(0, initializer_range), as published.

    Pre-training reads none of them, and its softmax, which shares their embeddings, learns only that they never come
    next: it drives all of them the same way, until start, delimiter and extract can hardly be told from each other.
    """
    rows = [tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id]
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table[rows] = torch.randn(len(rows), table.shape[1]) * model.config.initializer_range
