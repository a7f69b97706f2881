"""The search for the translations of one batch of sentences: `generate()`, with what a whole call has in common.

Dimensions: B sentences, n hypotheses of each, T target length, V target vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from .beam_search import NO_LOG_PROBABILITY, SentenceLengthLimits, length_normalization
from .constraints import BatchConstraints, Constraints, Prefix, Term
from .encoding import learned_positions, pad_right

# "We set the maximum output length during inference to input length + 50, but terminate early when possible."
# (Vaswani et al. 2017, section 6.1)
TOKENS_BEYOND_SOURCE = 50


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Attributes:
        text: one line, without outer or doubled spaces.
        score: in beam search, the log-probability divided by lp of Wu et al. 2016 (see `BeamSearchGenerationMixin`);
            otherwise the log-probability. The end token counts. The bias of a terminology does not, nor do the
            temperature, `top_k` and `top_p` of samples. None if no scores were requested.
    """

    text: str
    score: float | None = None


def length_limits(
    model: PreTrainedModel, max_new_tokens: int | None, source_lengths: Sequence[int]
) -> tuple[dict[str, int], list[int]]:
    """Returns the argument of `generate()` that limits all hypotheses, and the limit of each sentence."""
    saved, positions = model.generation_config, learned_positions(model)
    if max_new_tokens is not None:
        limits = [min([max_new_tokens, *positions])] * len(source_lengths)
    else:
        of_model = [saved.max_new_tokens, saved.max_length and saved.max_length - 1]
        of_model = [value for value in of_model if value is not None]
        limits = [min([length + TOKENS_BEYOND_SOURCE, *of_model, *positions]) for length in source_lengths]
    if saved.max_length is not None and saved.max_new_tokens is None:
        # The library warns of max_new_tokens if the model was saved with max_length, which counts the start token.
        return {"max_length": max(limits) + 1}, limits
    return {"max_new_tokens": max(limits)}, limits


@dataclass(frozen=True)
class BatchSearch:
    """How the sentences of one call are searched; arguments as in `translate`.

    Attributes:
        arguments: those of `generate()` that are the same for all batches.
        max_new_tokens: the limit of the caller, or None.
        length_penalty: the exponent of the length normalisation.
    """

    model: PreTrainedModel
    target_tokenizer: PreTrainedTokenizerBase
    constraints: Constraints | None
    num_beams: int
    num_return_sequences: int
    do_sample: bool
    with_scores: bool
    arguments: dict[str, Any]
    max_new_tokens: int | None
    length_penalty: float

    @classmethod
    def from_arguments(
        cls,
        model: PreTrainedModel,
        target_tokenizer: PreTrainedTokenizerBase,
        constraints: Constraints | None,
        num_return_sequences: int,
        with_scores: bool,
        generate_kwargs: dict[str, Any],
    ) -> "BatchSearch":
        """Reads the arguments of `translate`.

        Raises:
            ValueError: settings of the search contradict each other.
        """
        saved = model.generation_config
        arguments = _settings_of_search(generate_kwargs, num_return_sequences)
        num_beams = arguments.setdefault("num_beams", saved.num_beams or 1)
        do_sample = bool(arguments.get("do_sample", saved.do_sample))
        _check_search(generate_kwargs, num_beams, do_sample, num_return_sequences)
        if with_scores:
            # Beams of this package's models have scores. Those of other models are summed up from those of each step.
            carried = num_beams > 1 and getattr(model, "beams_carry_scores", False)
            arguments |= {"return_dict_in_generate": True, "output_scores": not carried}
            # The logits are the model's: without a bias, a temperature, or a limit of what is drawn.
            if num_beams == 1 and (constraints or do_sample):
                arguments |= {"output_scores": False, "output_logits": True}
        max_new_tokens, max_length = (arguments.pop(name, None) for name in ("max_new_tokens", "max_length"))
        if max_length is not None:
            if max_length < 2:
                raise ValueError(
                    f"max_length is {max_length}; it must be at least 2, because it counts the start token."
                )
            max_new_tokens = max_length - 1
        length_penalty = arguments.get("length_penalty", saved.length_penalty)
        return cls(
            model=model,
            target_tokenizer=target_tokenizer,
            constraints=constraints,
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            do_sample=do_sample,
            with_scores=with_scores,
            arguments=arguments | {"num_return_sequences": num_return_sequences},
            max_new_tokens=max_new_tokens,
            length_penalty=1.0 if length_penalty is None else length_penalty,
        )

    @property
    def rows_each(self) -> int:
        """Number of rows of a batch that a sentence takes."""
        return max(self.num_beams, self.num_return_sequences)

    def run(
        self,
        sources: Sequence[Sequence[int]],
        pad_token_id: int,
        terms: Sequence[Sequence[Term]],
        prefixes: Sequence[Prefix | None],
    ) -> list[list[Hypothesis]]:
        """Translates one batch.

        Args:
            sources: the token ids of B sentences.
            pad_token_id: fills up the shorter ones.
            terms, prefixes: the favoured terms and the prefix of each.

        Returns:
            The translations of each sentence; none if its limits and constraints allow none.
        """
        input_ids, mask = pad_right(sources, pad_token_id)
        limit_argument, limits = length_limits(self.model, self.max_new_tokens, [len(source) for source in sources])
        criteria = StoppingCriteriaList(self.arguments.get("stopping_criteria") or ())
        if min(limits) < max(limits):
            criteria.append(SentenceLengthLimits(limits))
        constraints = self.constraints and self.constraints.for_batch(terms, prefixes, limits)
        processors = LogitsProcessorList(self.arguments.get("logits_processor") or ())
        if constraints:
            processors += constraints.processors
            if self.do_sample:
                processors.append(DrawableEnds(self.constraints.spelling.end_ids))
        rows = len(sources) * self.num_return_sequences
        real = [True] * rows
        arguments = self.arguments | limit_argument | {"stopping_criteria": criteria, "logits_processor": processors}
        try:
            output = self.model.generate(
                input_ids=torch.from_numpy(input_ids).to(self.model.device),
                attention_mask=torch.from_numpy(mask).to(self.model.device, torch.long),
                **arguments,
            )
        except ValueError as error:
            # `TooFewHypotheses` has the others. The code that a checkpoint carries has its own copy of the class.
            output = getattr(error, "output", None)
            if output is None:
                raise
            real = (output.sequences_scores != -torch.inf).tolist()
            output = output if self.with_scores else output.sequences
        sequences = output.sequences if self.with_scores else output
        row_limits = [limit for limit in limits for _ in range(self.num_return_sequences)]
        scores = self._scores(output, row_limits) if self.with_scores else [None] * rows
        if constraints:
            written = _generated(sequences, self.constraints.spelling.end_ids, row_limits)
            real = [
                kept and constraints.hold(tokens, row // self.num_return_sequences)
                for row, (kept, tokens) in enumerate(zip(real, written, strict=True))
            ]
            if self.num_beams > 1:
                scores = _unbiased(scores, written, constraints, self.model, self.length_penalty)
        texts = self.target_tokenizer.batch_decode(sequences, skip_special_tokens=True)
        # Byte tokens can spell line feeds, but a hypothesis must fit in one line of a file.
        hypotheses = [Hypothesis(" ".join(text.split()), score) for text, score in zip(texts, scores, strict=True)]
        starts = range(0, rows, self.num_return_sequences)
        return [
            [hypotheses[row] for row in range(start, start + self.num_return_sequences) if real[row]]
            for start in starts
        ]

    def _scores(self, output: Any, row_limits: Sequence[int]) -> list[float]:
        """Returns the score of each row of what `generate()` returned."""
        if self.num_beams > 1:
            return output.sequences_scores.tolist()
        eos_token_id = self.arguments.get("eos_token_id", self.model.generation_config.eos_token_id)
        steps = output.logits if self.arguments.get("output_logits") else output.scores
        return _sampled_log_probabilities(output.sequences, steps, eos_token_id, row_limits).tolist()


class DrawableEnds(LogitsProcessor):
    """Ends a hypothesis that no token may follow, because there is nothing to draw from scores of -inf alone.

    In a search with beams it leaves by itself. Where tokens are drawn, `BatchConstraints.hold` finds it.

    Args:
        end_ids: the tokens that end a sentence.
    """

    def __init__(self, end_ids: Sequence[int]):
        self.end_ids = list(end_ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Returns the scores (B * n, V) with a finite one for an end token in rows that have none."""
        scores = scores.clone()
        rows = (scores == -torch.inf).all(dim=1).nonzero()[:, 0]
        scores[rows, self.end_ids[0]] = NO_LOG_PROBABILITY
        return scores


def _settings_of_search(generate_kwargs: dict[str, Any], num_return_sequences: int) -> dict[str, Any]:
    """Returns the arguments of `generate()` with the settings of a `generation_config` one by one.

    As in the library, an argument of its own goes before the setting of a configuration.
    """
    own = dict(generate_kwargs)
    given = own.pop("generation_config", None)
    settings = {} if given is None else given.to_diff_dict()
    settings = {name: value for name, value in settings.items() if value is not None and not name.startswith("_")}
    settings.pop("transformers_version", None)
    if settings.pop("num_return_sequences", num_return_sequences) != num_return_sequences:
        raise ValueError(
            f"num_return_sequences is {num_return_sequences}, but that of generation_config is "
            f"{given.num_return_sequences}. Pass it as an argument."
        )
    limits = ("max_new_tokens", "max_length")  # one takes the place of the other
    if "max_new_tokens" in settings or any(own.get(name) is not None for name in limits):
        settings.pop("max_length", None)
    if any(own.get(name) is not None for name in limits):
        settings.pop("max_new_tokens", None)
    return settings | own


def _check_search(arguments: dict[str, Any], num_beams: int, do_sample: bool, num_return_sequences: int) -> None:
    for name, value in (("num_beams", num_beams), ("num_return_sequences", num_return_sequences)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    if num_return_sequences > num_beams and not do_sample:
        raise ValueError(
            f"num_return_sequences is {num_return_sequences}, but num_beams is {num_beams}: a search returns no more "
            "translations than it has beams. Raise num_beams, or set do_sample."
        )
    if num_beams == 1 and arguments.get("length_penalty", 1.0) != 1.0:
        raise ValueError(
            f"length_penalty is {arguments['length_penalty']}, but num_beams is 1: it compares beams. "
            "Raise num_beams, or leave length_penalty out."
        )
    if arguments.get("max_length") is not None and arguments.get("max_new_tokens") is not None:
        raise ValueError("max_length and max_new_tokens are both set. Set one: max_length counts the start token too.")


def _sampled_log_probabilities(
    sequences: torch.Tensor,
    scores: Sequence[torch.Tensor],
    eos_token_id: int | list[int] | None,
    limits: Sequence[int],
) -> torch.Tensor:
    """Sums the log-probabilities of the tokens up to the end token, which counts, or to the limit.

    Args:
        sequences: (B, 1 + T) the start token and T generated ids.
        scores: T tensors (B, V), the scores of each step.
        eos_token_id: the id or ids that end a sequence; None if no token does.
        limits: the largest number of generated tokens of each sequence, (B,).

    Returns:
        (B,) in fp32.
    """
    total = torch.zeros(len(sequences), device=sequences.device)
    running = torch.ones(len(sequences), dtype=torch.bool, device=sequences.device)
    ends = torch.tensor([] if eos_token_id is None else eos_token_id, dtype=torch.long, device=sequences.device)
    limit = torch.tensor(limits, device=sequences.device)
    for step, (step_scores, tokens) in enumerate(zip(scores, sequences[:, -len(scores) :].T, strict=True)):
        log_probabilities = torch.log_softmax(step_scores.float(), dim=-1).gather(1, tokens[:, None])[:, 0]
        total += torch.where(running & (step < limit), log_probabilities, 0.0)
        running &= ~torch.isin(tokens, ends)
    return total


def _unbiased(
    scores: Sequence[float | None],
    hypotheses: Sequence[Sequence[int]],
    batch: BatchConstraints,
    model: PreTrainedModel,
    length_penalty: float,
) -> list[float | None]:
    """Returns the scores of a beam search without the bias of a terminology.

    Args:
        scores: (B * n,).
        hypotheses: the tokens of each after the start token, up to the end token, which counts.
        batch: the constraints of the B sentences.
        model: one of this package divides by lp of Wu et al. 2016, another by a power of the length.
        length_penalty: the exponent of either.
    """
    of_package = getattr(model, "beams_carry_scores", False)
    rows_each = len(hypotheses) // len(batch.bias.terms)
    unbiased: list[float | None] = []
    for row, (score, tokens) in enumerate(zip(scores, hypotheses, strict=True)):
        length = max(1, len(tokens))
        divisor = length_normalization(length, length_penalty) if of_package else length**length_penalty
        unbiased.append(None if score is None else score - batch.bias.total(tokens, row // rows_each) / divisor)
    return unbiased


def _generated(sequences: torch.Tensor, end_ids: Sequence[int], limits: Sequence[int]) -> list[list[int]]:
    """Returns the tokens of each row after the start token, up to the end token, which counts, or to its limit."""
    rows = []
    for (_, *tokens), limit in zip(sequences.tolist(), limits, strict=True):
        end = next((place for place, token in enumerate(tokens) if token in end_ids), len(tokens))
        rows.append(tokens[: min(end + 1, limit)])
    return rows
