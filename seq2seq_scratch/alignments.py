"""Which source words a translation attends to: soft alignments, and hard ones in Pharaoh format.

Row t of the attention weights, which the decoder uses to predict target token t, is a distribution over the source
tokens (figure 3 of Bahdanau et al. 2014). The attention model has one such row for each token. The Transformer has one
for each layer and head; the mean over the heads of the last layer but one follows hand-made alignments best (Garg et
al. 2019).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .encoding import check_targets, check_texts, encode_sources, pad_right, source_limit
from .tokenization import WORD_START
from .visible_text import has_visible_text


@dataclass(frozen=True)
class Alignment:
    """The alignment of a translation with its source.

    Attributes:
        source_tokens: S tokens of the source, the end token included.
        target_tokens: T tokens of the translation, without the end token.
        weights: (T, S) attention; each row sums to 1.
    """

    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    weights: np.ndarray

    def token_pairs(self) -> list[tuple[int, int]]:
        """Returns the source token with the largest weight and the target token, for each target token.

        A target token that attends most to the end token of the source has no pair.
        """
        pairs = ((int(source), target) for target, source in enumerate(self.weights.argmax(axis=1)))
        return [(source, target) for source, target in pairs if source < len(self.source_tokens) - 1]

    def word_pairs(self) -> list[tuple[int, int]]:
        """Returns the pairs of words, between spaces, that have a pair of tokens."""
        source, target = words_of(self.source_tokens), words_of(self.target_tokens)
        return sorted({(source[first], target[second]) for first, second in self.token_pairs()})


def has_attention(config: PreTrainedConfig) -> bool:
    """Returns True if a translator's decoder attends to the source, so that words can be aligned."""
    return config.model_type != "rnn_seq2seq" and getattr(config, "use_attention", True)


def pharaoh(pairs: Iterable[tuple[int, int]]) -> str:
    """Writes pairs of places, counted from 0, in Pharaoh format: `0-0 1-2`."""
    return " ".join(f"{source}-{target}" for source, target in pairs)


def words_of(tokens: Sequence[str]) -> list[int]:
    """Returns the number of the word that each token is part of."""
    starts = [token.startswith(WORD_START) or place == 0 for place, token in enumerate(tokens)]
    return (np.cumsum(starts) - 1).tolist()


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> tuple[str, ...]:
    """Returns the first tokens of a text, with the mark of a word's start on unknown ones that begin a word.

    A word vocabulary has one token for all unknown words, and it has no mark.
    """
    pieces, unknown = tokenizer.convert_ids_to_tokens(ids), tokenizer.unk_token_id
    if unknown in ids and tokenizer.is_fast:
        offsets = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        for place, (token, (start, _)) in enumerate(zip(ids, offsets, strict=False)):
            if token == unknown and (start == 0 or text[start].isspace() or text[start - 1].isspace()):
                pieces[place] = WORD_START + pieces[place]
    return tuple(pieces)


@torch.inference_mode()
def align(
    model: PreTrainedModel,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    translations: Sequence[str],
    *,
    max_source_length: int | None = None,
    max_tokens_per_batch: int = 4096,
) -> list[Alignment | None]:
    """Computes the attention of each translation to its source, by one forward pass.

    Args:
        model: a translator with attention, in evaluation mode.
        source_tokenizer, target_tokenizer: its tokenizers.
        sources: N sentences; longer ones than `max_source_length` tokens are cut.
        translations: N translations, the model's or others.
        max_source_length: as in `translate`.
        max_tokens_per_batch: number of rows times the longest row that are computed at a time.

    Returns:
        N alignments. None for a pair of which one side has no visible text.

    Raises:
        ValueError: if the model has no attention, a text cannot be read (see `check_texts`), or a translation is
            longer than the model's learned positions.
    """
    sources, translations = check_texts(sources, "sources"), check_texts(translations, "translations")
    max_source_length = source_limit(model, max_source_length)
    pairs = list(zip(sources, translations, strict=True))
    kept = [index for index, pair in enumerate(pairs) if all(map(has_visible_text, pair))]
    alignments: list[Alignment | None] = [None] * len(pairs)
    if not kept:
        return alignments
    source_ids, _ = encode_sources(source_tokenizer, [pairs[index][0] for index in kept], max_source_length)
    target_ids, _ = encode_sources(target_tokenizer, [pairs[index][1] for index in kept], None)
    check_targets(model, [pairs[index][1] for index in kept], target_ids)
    lengths = np.maximum([len(ids) for ids in source_ids], [len(ids) for ids in target_ids])
    order = np.argsort(-lengths, kind="stable").tolist()
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others do not return weights
    try:
        while order:
            size = max(1, max_tokens_per_batch // int(lengths[order[0]]))
            batch, order = order[:size], order[size:]
            weights = _attention(
                model, source_tokenizer, [source_ids[i] for i in batch], [target_ids[i] for i in batch]
            )
            for row, index in zip(weights, batch, strict=True):
                source, target = source_ids[index], target_ids[index][:-1]
                alignments[kept[index]] = Alignment(
                    _pieces(source_tokenizer, pairs[kept[index]][0], source),
                    _pieces(target_tokenizer, pairs[kept[index]][1], target),
                    row[: len(target), : len(source)],
                )
    finally:
        model.set_attn_implementation(implementation)
    return alignments


def _attention(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source_ids: Sequence[Sequence[int]],
    target_ids: Sequence[Sequence[int]],
) -> np.ndarray:
    """Returns the attention weights of B pairs, (B, T, S)."""
    inputs, mask = pad_right(source_ids, tokenizer.pad_token_id)
    labels, _ = pad_right(target_ids, model.config.pad_token_id)
    output = model(
        input_ids=torch.from_numpy(inputs).to(model.device),
        attention_mask=torch.from_numpy(mask).to(model.device, torch.long),
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(torch.from_numpy(labels).to(model.device)),
        output_attentions=True,
        use_cache=False,
    )
    layers = output.cross_attentions
    if not layers:
        raise ValueError(
            f"This {model.config.model_type} has no attention, so it aligns no words: its decoder sees the source as "
            "one vector for each layer (encoder_last_hidden_state). Use a bahdanau model with use_attention, or a "
            "transformer_seq2seq model."
        )
    return layers[max(0, len(layers) - 2)].float().mean(dim=1).cpu().numpy()  # B H T S -> B T S
