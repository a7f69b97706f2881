"""Writes a Transformer as one of transformers' own classes, which load it without this project's code.

Three classes of the library compute what our Transformer computes, each for one kind of it:

| class | layers | positions | tables |
|---|---|---|---|
| MarianMTModel | post-norm, as in the paper | sinusoids | shared, or one each for source, target and softmax |
| PegasusForConditionalGeneration | pre-norm | sinusoids | shared |
| BlenderbotForConditionalGeneration | pre-norm | learned | shared |

The others were compared with ours and differ: BART, mBART, PLBart and BlenderbotSmall normalize the embeddings, M2M100
and FSMT have sinusoids of other rates, T5 has relative positions.

Dimensions: D model width.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    GenerationConfig,
    MarianConfig,
    MarianMTModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
)

from papers_to_gpt.exporting.verification import (
    Comparison,
    Ids,
    check_logits,
    compare_translators,
    logit_differences,
    pad,
)
from seq2seq_scratch.file_modes import give_umask_permissions
from seq2seq_scratch.translation import translate

CLASSES = {
    "marian": (MarianConfig, MarianMTModel),
    "pegasus": (PegasusConfig, PegasusForConditionalGeneration),
    "blenderbot": (BlenderbotConfig, BlenderbotForConditionalGeneration),
}

# Settings with one name and meaning in both.
SAME_SETTINGS = (
    "vocab_size",
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "activation_function",
    "max_position_embeddings",
    "tie_word_embeddings",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
)

# Names of modules: ours and the library's. The library's attention layers have projections with our names.
LAYER_NAMES = {
    "self_attention": "self_attn",
    "self_attention_add_norm.norm": "self_attn_layer_norm",
    "cross_attention": "encoder_attn",
    "cross_attention_add_norm.norm": "encoder_attn_layer_norm",
    "feed_forward.inner": "fc1",
    "feed_forward.outer": "fc2",
    "feed_forward_add_norm.norm": "final_layer_norm",
}

# Layers that read the D numbers of a position: the columns of their weights belong to these numbers. Of all other
# layers, which write them, it is the rows.
READERS = ("q_proj", "k_proj", "v_proj", "inner", "embed_tokens", "embed_positions", "lm_head")


def to_library_class(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Returns a Transformer as a model of the library, with the same numbers in fp32.

    Args:
        model: a `TransformerForConditionalGeneration` in fp32 whose configuration `formats_of` accepts.
        name: one of `CLASSES`.
    """
    config, (config_class, model_class) = model.config, CLASSES[name]
    settings = {each: getattr(config, each) for each in SAME_SETTINGS}
    settings |= {"scale_embedding": True, "forced_eos_token_id": None}
    if name == "marian":
        settings |= {
            each: getattr(config, each) for each in ("decoder_vocab_size", "share_encoder_decoder_embeddings")
        }
    if name == "blenderbot":
        settings["encoder_no_repeat_ngram_size"] = 0
    converted = model_class(config_class(**settings)).eval()
    # The library has all sines of a position before all cosines; ours alternate. Any order of the D numbers gives the
    # same model, if all weights have it.
    order = torch.arange(config.d_model)
    if config.position_embedding_type == "sinusoidal":
        order = torch.cat([order[0::2], order[1::2]])
    with torch.no_grad():
        for ours, theirs in _names(model):
            tensor = model.get_parameter(ours)
            converted.get_parameter(theirs).copy_(_reorder(ours, tensor, order))
    converted.generation_config = _generation_config(model)
    return converted


def _names(model: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """Yields the name of each of our parameters, and that of the parameter of the library that it becomes."""
    for ours, _ in model.named_parameters(remove_duplicate=False):
        theirs = ours.replace(".final_norm.", ".layer_norm.")
        if ".layers." in ours:
            stack, rest = ours.split(".layers.")
            index, rest = rest.split(".", 1)
            mine = max((each for each in LAYER_NAMES if rest.startswith(f"{each}.")), key=len)
            theirs = f"{stack}.layers.{index}.{LAYER_NAMES[mine]}{rest.removeprefix(mine)}"
        yield ours, theirs


def _reorder(name: str, tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Returns a parameter with the D numbers of a position in another order; what does not touch them is unchanged."""
    *_, layer, kind = name.split(".")
    if layer in READERS:
        return tensor[:, order] if kind == "weight" else tensor
    return tensor[order]


def _generation_config(model: PreTrainedModel) -> GenerationConfig:
    """Returns the parameters of the search that the model was saved with, and a limit that its positions allow.

    The library takes `max_length` 20 if nothing is set. Saved, it becomes `max_new_tokens`, which does not count the
    start token; our search obeys both.
    """
    defaults = model.generation_config
    of_model = [defaults.max_new_tokens, defaults.max_length and defaults.max_length - 1]
    limit = min([model.config.max_position_embeddings - 1, *(value for value in of_model if value is not None)])
    saved = defaults.to_diff_dict()
    saved = {each: value for each, value in saved.items() if each not in ("max_length", "transformers_version")}
    return GenerationConfig(**saved | {"max_new_tokens": limit})


def write_library_class(model: PreTrainedModel, name: str, folder: Path) -> None:
    """Writes a Transformer as a model of the library: weights, configuration and parameters of the search."""
    to_library_class(model, name).save_pretrained(folder)
    give_umask_permissions(folder)


def compare_library_class(case: Comparison) -> str:
    """Loads an export without this project's code and compares it: logits, greedy search and beams.

    Args:
        case: a Transformer and the folder of its export.

    Returns:
        What was found, two sentences.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    exported = AutoModelForSeq2SeqLM.from_pretrained(case.folder, dtype=torch.float32, use_safetensors=True).eval()
    start = case.model.config.decoder_start_token_id

    def differences_of(sources: list[Ids], targets: list[Ids]) -> torch.Tensor:
        ids, mask = pad(sources)
        read, is_token = pad([[start, *row] for row in targets])
        inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": read}
        return logit_differences(case.model(**inputs).logits, exported(**inputs).logits, is_token)

    translate_there = partial(translate, exported, *case.tokenizers)
    positions = case.model.config.max_position_embeddings
    return compare_translators(case, positions, translate_there, differences_of, check_logits)
