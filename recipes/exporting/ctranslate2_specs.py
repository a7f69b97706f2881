"""Describes our Transformer and GPT-1 as CTranslate2's specifications, with their weights.

A specification is a tree of layers whose attributes are arrays. CTranslate2 runs it in C++.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papers_to_gpt.exporting.formats import ACTIVATIONS

if TYPE_CHECKING:  # an extra, which is imported where it is used
    from ctranslate2 import specs
    from ctranslate2.specs import common_spec

# Rows of the table of sinusoids, which our model computes for any length. A model with more positions has more rows.
LEAST_SINUSOIDS = 1024

# The default of torch.nn.LayerNorm, which the Transformer uses.
LAYER_NORM_EPS = 1e-5


def positions_of(model: PreTrainedModel) -> int:
    """Returns the number of tokens that a text may have in the export: rows of the table of positions."""
    positions = model.config.max_position_embeddings
    sinusoidal = getattr(model.config, "position_embedding_type", "learned") == "sinusoidal"
    return max(positions, LEAST_SINUSOIDS) if sinusoidal else positions


def transformer_model_spec(
    model: PreTrainedModel, source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
) -> "specs.TransformerSpec":
    """Returns the specification of a `TransformerForConditionalGeneration`."""
    from ctranslate2 import specs
    from ctranslate2.specs import common_spec, transformer_spec

    config = model.config
    kind = {"pre_norm": config.pre_norm, "activation": common_spec.Activation[ACTIVATIONS[config.activation_function]]}
    encoder = transformer_spec.TransformerEncoderSpec(config.encoder_layers, config.encoder_attention_heads, **kind)
    decoder = transformer_spec.TransformerDecoderSpec(config.decoder_layers, config.decoder_attention_heads, **kind)
    rows = positions_of(model)
    for stack, ours in ((encoder, model.model.encoder), (decoder, model.model.decoder)):
        embeddings = stack.embeddings[0] if isinstance(stack.embeddings, list) else stack.embeddings
        embeddings.weight = _array(ours.embed_tokens.weight)
        stack.scale_embeddings = np.dtype("float32").type(math.sqrt(config.d_model))
        # Written out, because the columns of CTranslate2's own table have another order.
        stack.position_encodings.encodings = _array(_positions(ours.embed_positions, rows))
        if config.pre_norm:
            _set_norm(stack.layer_norm, ours.final_norm)
        for layer, our_layer in zip(stack.layer, ours.layers, strict=True):
            attention = our_layer.self_attention
            _set_joined(layer.self_attention.linear[0], attention.q_proj, attention.k_proj, attention.v_proj)
            _set_joined(layer.self_attention.linear[1], attention.out_proj)
            _set_norm(layer.self_attention.layer_norm, our_layer.self_attention_add_norm.norm)
            _set_joined(layer.ffn.linear_0, our_layer.feed_forward.inner)
            _set_joined(layer.ffn.linear_1, our_layer.feed_forward.outer)
            _set_norm(layer.ffn.layer_norm, our_layer.feed_forward_add_norm.norm)
            if stack is decoder:
                attention = our_layer.cross_attention
                _set_joined(layer.attention.linear[0], attention.q_proj)
                _set_joined(layer.attention.linear[1], attention.k_proj, attention.v_proj)
                _set_joined(layer.attention.linear[2], attention.out_proj)
                _set_norm(layer.attention.layer_norm, our_layer.cross_attention_add_norm.norm)
    _set_joined(decoder.projection, model.lm_head)
    spec = specs.TransformerSpec(encoder, decoder)
    spec.config.layer_norm_epsilon = LAYER_NORM_EPS
    _set_tokens(spec.config, target_tokenizer, config.bos_token_id, _first(config.eos_token_id))
    spec.config.decoder_start_token = target_tokenizer.convert_ids_to_tokens(config.decoder_start_token_id)
    spec.register_source_vocabulary(vocabulary(source_tokenizer, config.vocab_size))
    spec.register_target_vocabulary(vocabulary(target_tokenizer, config.decoder_vocab_size))
    return spec


def gpt1_model_spec(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "specs.TransformerDecoderModelSpec":
    """Returns the specification of a `GPT1ForCausalLM`."""
    from ctranslate2 import specs
    from ctranslate2.specs import common_spec

    config, ours = model.config, model.model
    spec = specs.TransformerDecoderModelSpec.from_config(
        config.num_hidden_layers,
        config.num_attention_heads,
        pre_norm=False,
        activation=common_spec.Activation.GELUTanh,
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = _array(ours.tokens_embed.weight)
    decoder.position_encodings.encodings = _array(ours.positions_embed.weight)
    for layer, block in zip(decoder.layer, ours.blocks, strict=True):
        _set_joined(layer.self_attention.linear[0], block.attention.query_key_value)
        _set_joined(layer.self_attention.linear[1], block.attention.out_proj)
        _set_norm(layer.self_attention.layer_norm, block.attention_norm)
        _set_joined(layer.ffn.linear_0, block.mlp.expand)
        _set_joined(layer.ffn.linear_1, block.mlp.contract)
        _set_norm(layer.ffn.layer_norm, block.mlp_norm)
    _set_joined(decoder.projection, model.lm_head)
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    end = _first(model.generation_config.eos_token_id)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    _set_tokens(spec.config, tokenizer, start, end)
    spec.register_vocabulary(vocabulary(tokenizer, config.vocab_size))
    return spec


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """Returns the tokens in the order of their ids, with names for embeddings that no token has."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [*tokens, *(f"<unused {number}>" for number in range(len(tokens), size))]


def _set_tokens(config: Any, tokenizer: PreTrainedTokenizerBase, start: int | None, end: int | None) -> None:
    tokens = tokenizer.convert_ids_to_tokens
    config.unk_token = tokenizer.unk_token or tokens(0)
    # CTranslate2 needs both. Where a model has none, the runners name no end, so it is never looked for.
    config.bos_token = tokens(0 if start is None else start)
    config.eos_token = tokens(0 if end is None else end)


def _first(ids: int | list[int] | None) -> int | None:
    return ids[0] if isinstance(ids, list) else ids


@torch.no_grad()
def _positions(positions: nn.Module, rows: int) -> torch.Tensor:
    """Returns the first rows of a table of positions, (rows, D)."""
    return positions(torch.arange(rows)[None], rows)[0]


def _array(tensor: torch.Tensor) -> np.ndarray:
    # A copy, because CTranslate2 quantizes in place, and the model is still needed for the comparison.
    return tensor.detach().float().cpu().clone(memory_format=torch.contiguous_format).numpy()


def _set_joined(linear: "common_spec.LinearSpec", *layers: nn.Linear) -> None:
    """Sets a linear layer to ours; the outputs of several follow each other."""
    linear.weight = _array(torch.cat([layer.weight for layer in layers]))
    if layers[0].bias is not None:
        linear.bias = _array(torch.cat([layer.bias for layer in layers]))


def _set_norm(spec: "common_spec.LayerNormSpec", norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)
