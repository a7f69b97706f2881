"""Where the heads of a Transformer's encoder look."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from seq2seq_scratch.encoding import encode_sources, pad_right

FARTHEST = 3  # tokens


@torch.inference_mode()
def encoder_attention(translator: Any, sentences: Sequence[str]) -> list[np.ndarray]:
    """Returns the attention of the encoder for each sentence, (layers, heads, S, S)."""
    model, tokenizer = translator.model, translator.source_tokenizer
    model.set_attn_implementation("eager")  # the others do not return weights
    found = []
    for ids in encode_sources(tokenizer, list(sentences), None)[0]:
        inputs, _ = pad_right([ids], tokenizer.pad_token_id)
        output = model.get_encoder()(torch.from_numpy(inputs), output_attentions=True)
        found.append(torch.cat(output.attentions).numpy())  # L times 1 H S S -> L H S S
    return found


def describe_heads(attention: Sequence[np.ndarray]) -> dict[tuple[int, int], tuple[float, str, float, float]]:
    """Describes where each head looks, over several sentences.

    Args:
        attention: for each sentence (layers, heads, S, S); each row sums to 1.

    Returns:
        For each layer and head, counted from 0: the mean distance in tokens; of the relative positions up to
        `FARTHEST` tokens away, the one with the most attention, such as -1 for the token before; the mean attention
        there, over the rows that have such a position; the mean entropy of a row in bits.
    """
    layers, head_count = attention[0].shape[:2]
    described = {}
    for layer in range(layers):
        for head in range(head_count):
            matrices = [each[layer, head] for each in attention]
            distances, entropies, by_offset = [], [], {}
            for weights in matrices:
                size = len(weights)
                offsets = np.arange(size)[None] - np.arange(size)[:, None]
                distances.append(float((weights * np.abs(offsets)).sum(axis=1).mean()))
                entropies.append(float(-(weights * np.log2(np.maximum(weights, 1e-12))).sum(axis=1).mean()))
                for offset in range(-FARTHEST, FARTHEST + 1):
                    by_offset.setdefault(offset, []).extend(np.diagonal(weights, offset).tolist())
            means = {offset: statistics.mean(values) for offset, values in by_offset.items() if values}
            best = max(means, key=means.get)
            described[layer, head] = (
                statistics.mean(distances),
                f"{best:+d}" if best else "0",
                means[best],
                statistics.mean(entropies),
            )
    return described
