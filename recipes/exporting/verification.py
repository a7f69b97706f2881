"""Compares an export with the model that it was made of, on texts that both read.

The comparison has two parts. Log-probabilities of the tokens of given texts depend on no search, so they differ by
rounding alone. Then both search; where the texts that they find differ, their scores must be equal, because a search
may decide a tie either way.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papers_to_gpt.exporting.ctranslate2_generator import ExportedGenerator
from papers_to_gpt.exporting.ctranslate2_translator import ExportedTranslator
from seq2seq_scratch.encoding import encode_sources
from seq2seq_scratch.translation import Hypothesis, translate

# Largest difference of a token's log-probability in fp32, and of the score of a whole text.
TOKEN_TOLERANCE, TEXT_TOLERANCE = 1e-3, 5e-3

# Largest mean difference of a token's log-probability in numbers of fewer bits. An export with a wrong weight differs
# by several units.
MEAN_TOLERANCE = 0.5

LOGIT_TOLERANCE = 1e-3
TEXTS, LONGEST_TEXT, NEW_TOKENS, BEAMS = 16, 20, 40, 4


def random_texts(tokenizer: PreTrainedTokenizerBase, count: int = TEXTS) -> list[str]:
    """Returns texts of up to 20 tokens that are drawn at random, the same at every call, without special tokens."""
    generator = np.random.default_rng(0)
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    texts = []
    for number in range(1000 * count):
        length = 1 + number % LONGEST_TEXT
        text = " ".join(tokenizer.decode(generator.choice(ordinary, length).tolist()).split())
        if text:
            texts.append(text)
        if len(texts) == count:
            break
    return texts


def compare_translators(
    model: PreTrainedModel,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    texts: Sequence[str],
    quantization: str,
) -> str:
    """Compares a translator with its export, by greedy search and beam 4.

    Returns:
        What was found, a sentence.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    exported = ExportedTranslator(folder)
    translate_here = partial(translate, model, source_tokenizer, target_tokenizer)
    searches = search_with_both(translate_here, exported.translate, texts, exported.positions)
    ids, targets = examples_of(searches, source_tokenizer, target_tokenizer, texts, exported.positions)
    differences = _token_differences(model, exported, source_tokenizer, target_tokenizer, ids, targets)
    found = check_tokens(differences, quantization)
    return f"{found} {check_searches(searches, texts, quantization)}"


def search_with_both(
    translate_here: Callable[..., list[list[Hypothesis]]],
    translate_there: Callable[..., list[list[Hypothesis]]],
    texts: Sequence[str],
    positions: int | None,
) -> dict[int, list[tuple[Hypothesis, Hypothesis]]]:
    """Translates texts with a model and with its export.

    Args:
        translate_here, translate_there: take the texts and arguments of `translate`.
        texts: N texts.
        positions: largest number of tokens of a text, None for any.

    Returns:
        For one beam and for several, the best translation of each text by the model and by the export.
    """
    # No longer than the positions, of sources and of translations.
    limits = {"max_source_length": min(256, positions or 256), "max_new_tokens": min(NEW_TOKENS, positions or 256)}
    searches = {}
    for beams in (1, BEAMS):
        search = {"num_beams": beams, "with_scores": True} | ({"length_penalty": 0.0} if beams > 1 else {})
        found = [translator(texts, **search, **limits) for translator in (translate_here, translate_there)]
        searches[beams] = [(mine, other) for (mine, *_), (other, *_) in zip(*found, strict=True)]
    return searches


def examples_of(
    searches: dict[int, list[tuple[Hypothesis, Hypothesis]]],
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    positions: int | None,
) -> tuple[list[list[int]], list[list[int]]]:
    """Returns ids of the texts, with the end token, and of the model's greedy translations, without start and end."""
    ids, _ = encode_sources(source_tokenizer, texts, min(256, positions or 256))
    targets, _ = encode_sources(target_tokenizer, [mine.text or "." for mine, _ in searches[1]], positions)
    return ids, [row[:-1] for row in targets]


def check_searches(
    searches: dict[int, list[tuple[Hypothesis, Hypothesis]]], texts: Sequence[str], quantization: str
) -> str:
    """Checks translations by a model and by its export, and returns what was found, a sentence.

    Raises:
        ValueError: they differ in float32, where they do not tie.
    """
    if quantization != "float32":
        equal = sum(mine.text == other.text for mine, other in searches[BEAMS])
        return f"{equal} of {len(texts)} translations with {BEAMS} beams are equal."
    for beams, pairs in searches.items():
        for text, (mine, other) in zip(texts, pairs, strict=True):
            if mine.text != other.text and abs(mine.score - other.score) > TEXT_TOLERANCE:
                raise ValueError(
                    f"The export differs from the model: {text[:60]!r} becomes {other.text[:60]!r} with the score "
                    f"{other.score:.4f}, and {mine.text[:60]!r} with {mine.score:.4f} by the model ({beams} beams). "
                    "Nothing was written."
                )
    equal = sum(mine.text == other.text for pairs in searches.values() for mine, other in pairs)
    total = sum(map(len, searches.values()))
    ties = "" if equal == total else "; the others are ties"
    return f"{equal} of {total} translations, greedy and with {BEAMS} beams, are equal{ties}."


@torch.inference_mode()
def _token_differences(
    model: PreTrainedModel,
    exported: ExportedTranslator,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[list[int]],
    targets: Sequence[list[int]],
) -> np.ndarray:
    """Returns the differences of the log-probabilities of all tokens of given translations, of either sign."""
    theirs = exported.score(
        [source_tokenizer.convert_ids_to_tokens(row) for row in sources],
        [target_tokenizer.convert_ids_to_tokens(row) for row in targets],
    )
    differences = []
    start, end = model.config.decoder_start_token_id, target_tokenizer.eos_token_id
    for source, target, other in zip(sources, targets, theirs, strict=True):
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *target]])).logits
        differences.append(_chosen(logits[0], [*target, end]) - np.array(other))
    return np.concatenate(differences)


@torch.inference_mode()
def compare_generators(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    texts: Sequence[str],
    quantization: str,
) -> str:
    """Compares a GPT-1 with its export, by greedy continuations.

    Returns:
        What was found, a sentence.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    exported = ExportedGenerator(folder)
    kept = max(2, exported.positions // 2)
    rows = [row[:kept] for row in tokenizer(list(texts), verbose=False)["input_ids"]]
    differences, equal = [], 0
    for ids in rows:
        room = min(NEW_TOKENS, exported.positions - len(ids))
        prompt = torch.tensor([ids])
        mask = torch.ones_like(prompt)
        mine = model.generate(prompt, attention_mask=mask, max_new_tokens=room, do_sample=False, num_beams=1)[
            0
        ].tolist()
        (other,) = exported.generate(ids, room)
        equal += mine == other
        logits = model(torch.tensor([mine[:-1]])).logits[0]
        differences.append(_chosen(logits, mine[1:]) - np.array(exported.log_probabilities(mine)))
        if quantization == "float32" and mine != other:
            check_tie(model, mine, other, tokenizer, len(ids))
    found = check_tokens(np.concatenate(differences), quantization)
    return f"{found} {equal} of {len(rows)} greedy continuations are equal."


def check_tie(
    model: PreTrainedModel, mine: list[int], other: list[int], tokenizer: PreTrainedTokenizerBase, prompt: int
) -> None:
    """Raises ValueError if the first tokens that differ do not have equal probabilities."""
    pairs = zip(mine[prompt:], other[prompt:], strict=False)
    place = next((place for place, (a, b) in enumerate(pairs, prompt) if a != b), None)
    if place is not None:
        logits = model(torch.tensor([mine[:place]])).logits[0, -1]
        if abs(float(logits[mine[place]] - logits[other[place]])) <= TEXT_TOLERANCE:
            return
    raise ValueError(
        f"The export differs from the model: {tokenizer.decode(mine[:prompt])[:60]!r} continues with "
        f"{tokenizer.decode(other[prompt:])[:60]!r}, and with {tokenizer.decode(mine[prompt:])[:60]!r} by the model. "
        "Nothing was written."
    )


def check_tokens(differences: np.ndarray, quantization: str) -> str:
    """Checks differences of log-probabilities, and returns what was found, a sentence.

    Raises:
        ValueError: they are too large for these numbers, or not finite.
    """
    largest, mean = float(np.abs(differences).max()), float(np.abs(differences).mean())
    within = largest <= TOKEN_TOLERANCE if quantization == "float32" else mean <= MEAN_TOLERANCE
    if not within:  # also for NaN
        allowed = f"{TOKEN_TOLERANCE:g} at most" if quantization == "float32" else f"{MEAN_TOLERANCE:g} on average"
        advice = "" if quantization == "float32" else " Leave quantization out to keep all digits."
        raise ValueError(
            f"The export differs from the model: log-probabilities of tokens by up to {largest:.4g}, {mean:.4g} on "
            f"average, where {allowed} is allowed in {quantization}. Nothing was written.{advice}"
        )
    return (
        f"Compared with the model in {quantization}: the log-probabilities of {len(differences)} tokens differ by "
        f"{mean:.2g} on average and {largest:.2g} at most."
    )


def _chosen(logits: torch.Tensor, ids: Sequence[int]) -> np.ndarray:
    """Returns the log-probabilities of tokens, (T,), from logits, (T, V)."""
    return torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(ids)[:, None])[:, 0].numpy()
