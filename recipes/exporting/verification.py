"""Compares an export with the model that it was made of, on texts that both read.

The comparison has two parts. What the two compute for the tokens of given texts depends on no search, so it differs by
rounding alone. Then both search; where the texts that they find differ, their scores must be equal, because a search
may decide a tie either way.

This module has the flow. How an export computes and searches is in `ctranslate2_verification`, `onnx_verification`,
`library_classes` and `openai_gpt`.

Dimensions: B batch, T tokens, V vocabulary, N tokens of all texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seq2seq_scratch.encoding import encode_sources, pad_right
from seq2seq_scratch.translation import Hypothesis, translate

# Largest difference of a logit, of a token's log-probability and of the score of a whole text, in fp32.
LOGIT_TOLERANCE, TOKEN_TOLERANCE, TEXT_TOLERANCE = 1e-3, 1e-3, 5e-3

# Largest mean difference of a token's log-probability in numbers of fewer bits. An export with a wrong weight differs
# by several units.
MEAN_TOLERANCE = 0.5

TEXTS, LONGEST_TEXT, LONGEST_SOURCE, NEW_TOKENS, BEAMS = 16, 20, 256, 40, 4

# Texts that are read at once: a file of samples may have many.
BATCH_SIZE = 16

Ids = list[int]


@dataclass(frozen=True)
class Comparison:
    """A model, its export, and the texts that both read.

    Attributes:
        model: the exported model, in fp32 and evaluation mode.
        tokenizers: a translator's tokenizers of sources and of targets, or the tokenizer of a GPT-1.
        folder: the export.
        texts: lines of text.
        quantization: the numbers of the export.
    """

    model: PreTrainedModel
    tokenizers: Sequence[PreTrainedTokenizerBase]
    folder: Path
    texts: Sequence[str]
    quantization: str = "float32"

    @property
    def is_exact(self) -> bool:
        """True if the export may differ from the model by rounding alone."""
        return self.quantization == "float32"


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


@torch.inference_mode()
def compare_translators(
    case: Comparison,
    positions: int | None,
    translate_there: Callable[..., list[list[Hypothesis]]],
    differences_of: Callable[[list[Ids], list[Ids]], Tensor],
    check: Callable[[Tensor], str],
    compare_beams: bool = True,
) -> str:
    """Compares a translator with its export: the tokens of translations, then greedy search and beam 4.

    Args:
        case: what is compared.
        positions: largest number of tokens of a text, None for any.
        translate_there: translates with the export; it takes the texts and arguments of `translate`.
        differences_of: takes the ids of B sources, with the end token, and of their translations, without start and
            end token. Returns how much the two differ at each token, of either sign, and at the end tokens, (N,).
        check: `check_logits` or `check_log_probabilities`, whichever `differences_of` returns.
        compare_beams: False if the engine scores beams in another way with the settings that the model was saved with.

    Returns:
        What was found, two sentences.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    source_tokenizer, target_tokenizer = case.tokenizers
    longest = min(LONGEST_SOURCE, positions or LONGEST_SOURCE)
    limits = {"max_source_length": longest, "max_new_tokens": min(NEW_TOKENS, longest)}
    translate_here = partial(translate, case.model, source_tokenizer, target_tokenizer)
    searches = {}
    for beams in (1, BEAMS) if compare_beams or not case.is_exact else (1,):
        # Without a divisor by length, which some engines have in another form.
        search = {"num_beams": beams, "do_sample": False, "with_scores": True}
        search |= {"length_penalty": 0.0} if beams > 1 else {}
        found = [translator(case.texts, **search, **limits) for translator in (translate_here, translate_there)]
        searches[beams] = [(mine, other) for (mine, *_), (other, *_) in zip(*found, strict=True)]
    sources, _ = encode_sources(source_tokenizer, case.texts, longest)
    targets, _ = encode_sources(target_tokenizer, [mine.text or "." for mine, _ in searches[1]], positions)
    targets = [row[:-1] for row in targets]
    differences = [differences_of(sources[rows], targets[rows]) for rows in batches(len(sources))]
    return f"{check(torch.cat(differences))} {_check_searches(searches, case)}"


def _check_searches(searches: dict[int, list[tuple[Hypothesis, Hypothesis]]], case: Comparison) -> str:
    """Checks the best translation of each text by a model and by its export, and returns what was found, a sentence.

    Args:
        searches: pairs of translations, by the number of beams.

    Raises:
        ValueError: they differ in float32, where they do not tie.
    """
    if not case.is_exact:
        equal = sum(mine.text == other.text for mine, other in searches[BEAMS])
        return f"{equal} of {len(case.texts)} translations with {BEAMS} beams are equal."
    for beams, pairs in searches.items():
        for text, (mine, other) in zip(case.texts, pairs, strict=True):
            if mine.text != other.text and not abs(mine.score - other.score) <= TEXT_TOLERANCE:  # also for NaN
                raise ValueError(
                    f"The export differs from the model: {text[:60]!r} becomes {other.text[:60]!r} with the score "
                    f"{other.score:.4f}, and {mine.text[:60]!r} with {mine.score:.4f} by the model ({beams} beams). "
                    "Nothing was written."
                )
    equal = sum(mine.text == other.text for pairs in searches.values() for mine, other in pairs)
    total = sum(map(len, searches.values()))
    ties = "" if equal == total else "; the others are ties"
    how = f"greedy and with {BEAMS} beams" if BEAMS in searches else "greedy"
    return f"{equal} of {total} translations, {how}, are equal{ties}."


@torch.inference_mode()
def compare_generators(
    case: Comparison,
    positions: int,
    continue_there: Callable[[Ids, int], Ids],
    differences_of: Callable[[list[Ids]], Tensor],
    check: Callable[[Tensor], str],
    must_be_equal: bool = True,
) -> str:
    """Compares a GPT-1 with its export: greedy continuations, and the tokens of these.

    Args:
        case: what is compared.
        positions: largest number of tokens of a text.
        continue_there: takes the ids of a prompt and a number of new tokens. Returns the ids of the prompt and of its
            greedy continuation by the export.
        differences_of: takes the ids of B texts. Returns how much the two differ at each token after the first one of
            a text, of either sign, (N,).
        check: `check_logits` or `check_log_probabilities`, whichever `differences_of` returns.
        must_be_equal: False if the engine continues texts in another way with the settings that the model was saved
            with.

    Returns:
        What was found, two sentences.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    (tokenizer,) = case.tokenizers
    kept = max(2, positions // 2)
    prompts = [ids[:kept] for ids in tokenizer(list(case.texts), verbose=False)["input_ids"]]
    continued, equal = [], 0
    for ids in prompts:
        room = min(NEW_TOKENS, positions - len(ids))
        mine, other = continue_greedily(case.model, ids, room), continue_there(ids, room)
        equal += mine == other
        if case.is_exact and must_be_equal and mine != other:
            _check_tie(case.model, tokenizer, mine, other, len(ids))
        continued.append(mine)
    found = check(torch.cat([differences_of(continued[rows]) for rows in batches(len(continued))]))
    return f"{found} {equal} of {len(prompts)} greedy continuations are equal."


def continue_greedily(model: PreTrainedModel, ids: Ids, new_tokens: int) -> Ids:
    """Returns the ids of a prompt and of its greedy continuation."""
    prompt = torch.tensor([ids])
    search = {"max_new_tokens": new_tokens, "do_sample": False, "num_beams": 1, "num_return_sequences": 1}
    return model.generate(prompt, attention_mask=torch.ones_like(prompt), **search)[0].tolist()


def _check_tie(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, mine: Ids, other: Ids, prompt_length: int
) -> None:
    """Raises ValueError if the first tokens that differ do not have equal probabilities."""
    pairs = zip(mine[prompt_length:], other[prompt_length:], strict=False)
    place = next((place for place, (a, b) in enumerate(pairs, prompt_length) if a != b), None)
    if place is not None:
        logits = model(torch.tensor([mine[:place]])).logits[0, -1]
        if abs(float(logits[mine[place]] - logits[other[place]])) <= TEXT_TOLERANCE:
            return
    prompt, ours, theirs = (
        tokenizer.decode(ids)[:60] for ids in (mine[:prompt_length], mine[prompt_length:], other[prompt_length:])
    )
    raise ValueError(
        f"The export differs from the model: {prompt!r} continues with {theirs!r}, and with {ours!r} by the model. "
        "Nothing was written."
    )


def batches(count: int) -> list[slice]:
    """Returns the slices of a list that are read at once."""
    return [slice(first, first + BATCH_SIZE) for first in range(0, count, BATCH_SIZE)]


def pad(rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Returns rows of ids, padded with 0 on the right, and their mask with 1 at tokens, (B, T) each."""
    ids, mask = map(torch.from_numpy, pad_right(rows, 0))
    return ids, mask.long()


def logit_differences(ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
    """Returns the largest difference of a logit at each token, (N,), from logits, (B, T, V), and a mask, (B, T)."""
    return (ours - theirs).abs().amax(dim=-1)[mask.bool()]


def check_logits(differences: Tensor, tolerance: float = LOGIT_TOLERANCE) -> str:
    """Checks differences of logits, (N,), in fp32, and returns what was found, a sentence.

    Raises:
        ValueError: they are larger than the tolerance, or not finite.
    """
    largest = float(differences.abs().max())
    if not largest <= tolerance:  # also for NaN
        raise ValueError(
            f"The export differs from the model: logits by up to {largest:.4g}, where {tolerance:g} is allowed. "
            "Nothing was written."
        )
    return f"Compared with the model: the logits of {len(differences)} tokens differ by {largest:.2g} at most."


def check_log_probabilities(differences: Tensor, quantization: str) -> str:
    """Checks differences of tokens' log-probabilities, (N,), and returns what was found, a sentence.

    Raises:
        ValueError: they are too large for these numbers, or not finite.
    """
    largest, mean = float(differences.abs().max()), float(differences.abs().mean())
    is_exact = quantization == "float32"
    if not (largest <= TOKEN_TOLERANCE if is_exact else mean <= MEAN_TOLERANCE):  # also for NaN
        allowed = f"{TOKEN_TOLERANCE:g} at most" if is_exact else f"{MEAN_TOLERANCE:g} on average"
        advice = "" if is_exact else " Leave quantization out to keep all digits."
        raise ValueError(
            f"The export differs from the model: log-probabilities of tokens by up to {largest:.4g}, {mean:.4g} on "
            f"average, where {allowed} is allowed in {quantization}. Nothing was written.{advice}"
        )
    return (
        f"Compared with the model in {quantization}: the log-probabilities of {len(differences)} tokens differ by "
        f"{mean:.2g} on average and {largest:.2g} at most."
    )
