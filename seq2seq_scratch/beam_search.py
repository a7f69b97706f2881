"""Beam search with the length normalisation of Wu et al. 2016, for `generate()`.

A translation model gives a probability to every next token, and the best sentence is the one with the highest product
of them. There are too many sentences to try all, and greedy search, which takes the most probable token each time,
can miss a sentence whose first token is only the second best. Beam search keeps the `num_beams` best hypotheses. At
each step it extends each of them by every token, and keeps the best of all these extensions:

    beams = 2        <s>  ->  the  -0.5    ->  the cat  -1.1     a cat    -1.0    ->  ...
                              a    -0.9        the dog  -1.9     a dog    -2.1

A hypothesis that produces the end token is finished. Longer hypotheses have lower probabilities, because every token
multiplies by a number below 1, so finished ones are compared by log P(Y|X) / lp(Y), with the normalisation lp.

The classes here override methods of the library's `GenerationMixin` that are not public: `generate(custom_generate=)`
would take a search as a function, but drops a `streamer` and an assistant model, and a caller's own `custom_generate`
could no longer be given. Each override names the method that it mirrors, and a test compares the signatures of these
methods with those that the code was written for.

Dimensions: B sentences in the batch, b of them unfinished, T target length, V target vocabulary, n beams of each,
k candidates for its next beams.
"""

import contextvars
import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, generation
from transformers.generation import GenerateBeamEncoderDecoderOutput

from .beam_continuations import best_continuations, top_k_by_blocks
from .beams import Beams, length_normalization
from .library_arguments import CACHE_NAME, name_cache_for_library, name_cache_for_peft
from .library_version import check_generation
from .plain_forms import plain_forms_are_on

# The library gives this or less to hypotheses that only fill up the number of beams.
NO_LOG_PROBABILITY = -1e8

# Which of the library's finished hypotheses are real, (B, beams), as of its last step. A context variable, because
# several threads may search with one model.
_real_hypotheses: contextvars.ContextVar[list[torch.Tensor]] = contextvars.ContextVar("real_hypotheses")

# Processors and criteria that look only at a hypothesis' own tokens, whichever row of the batch it is in.
ROW_INDEPENDENT_PROCESSORS = {
    generation.EosTokenCriteria,
    generation.ExponentialDecayLengthPenalty,
    generation.ForcedBOSTokenLogitsProcessor,
    generation.ForcedEOSTokenLogitsProcessor,
    generation.InfNanRemoveLogitsProcessor,
    generation.LogitNormalization,
    generation.MaxLengthCriteria,
    generation.MaxTimeCriteria,
    generation.MinLengthLogitsProcessor,
    generation.MinNewTokensLengthLogitsProcessor,
    generation.NoBadWordsLogitsProcessor,
    generation.NoRepeatNGramLogitsProcessor,
    generation.RepetitionPenaltyLogitsProcessor,
    generation.SequenceBiasLogitsProcessor,
    generation.SuppressTokensAtBeginLogitsProcessor,
    generation.SuppressTokensLogitsProcessor,
}


def rows_of(sentences: torch.Tensor, beams: int) -> torch.Tensor:
    """Returns the rows, (k * beams,), of the hypotheses of k sentences, which are adjacent."""
    return (sentences[:, None] * beams + torch.arange(beams, device=sentences.device)).flatten()


def keep_rows(rows: torch.Tensor, encoder_outputs: Any, attention_mask: torch.Tensor | None) -> dict[str, Any]:
    """Returns model arguments with the given rows of the encoder's output and of the source's mask."""
    kept = {name: None if tensor is None else tensor[rows] for name, tensor in encoder_outputs.items()}
    return {
        "encoder_outputs": type(encoder_outputs)(**kept),
        "attention_mask": None if attention_mask is None else attention_mask[rows],
    }


class TooFewHypotheses(ValueError):
    """Raised if fewer hypotheses of a sentence than asked for can be, because of constraints or of a short limit.

    Attributes:
        output: what the search would have returned; the rows that are no hypotheses have the score -inf.
    """

    def __init__(self, output: GenerateBeamEncoderDecoderOutput, real: torch.Tensor):
        counts = real.sum(dim=1)
        sentence = int(counts.argmin())
        found = int(counts[sentence])
        super().__init__(
            f"num_return_sequences is {real.shape[1]}, but the limits and constraints of the search leave "
            f"{found or 'no'} {'hypothesis' if found < 2 else 'hypotheses'} for sentence {sentence} of the batch "
            f"(counted from 0). {'Lower num_return_sequences, or loosen' if found else 'Loosen'} them."
        )
        self.output = output


def check_hypotheses(sequences: torch.Tensor, scores: torch.Tensor | None, real: torch.Tensor) -> None:
    """Raises `TooFewHypotheses` unless all hypotheses that a search returns are real.

    Args:
        sequences: (B * n, T), the hypotheses.
        scores: (B * n,), or None if they are not asked for.
        real: (B, n), whether each is a hypothesis.
    """
    if not real.all():
        scores = torch.zeros(real.numel(), device=real.device) if scores is None else scores
        scores = scores.masked_fill(~real.flatten(), -torch.inf)
        raise TooFewHypotheses(GenerateBeamEncoderDecoderOutput(sequences=sequences, sequences_scores=scores), real)


class SentenceLengthLimits(generation.StoppingCriteria):
    """Ends every hypothesis at the limit of its own sentence, whatever other sentences are in the batch.

    Args:
        limits: the largest number of tokens of each sentence's hypotheses after the start token, (B,).
    """

    def __init__(self, limits: Sequence[int] | torch.Tensor):
        self.limits = torch.as_tensor(limits)

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """Returns for each of (B * n, T) hypotheses whether it ends; those of a sentence are adjacent."""
        self.limits = self.limits.to(input_ids.device)  # once: an accelerator waits for each copy
        ended = input_ids.shape[1] - 1 >= self.limits
        return ended.repeat_interleave(len(input_ids) // len(ended))

    def keep_sentences(self, sentences: torch.LongTensor) -> "SentenceLengthLimits":
        """Returns the criterion of a batch that has the given sentences only."""
        return SentenceLengthLimits(self.limits[sentences.to(self.limits.device)])


def keep_sentences(processors_or_criteria: Any, sentences: torch.LongTensor) -> Any:
    """Returns the processors or criteria, a list, of a batch that has the given sentences only."""
    return type(processors_or_criteria)(
        each.keep_sentences(sentences) if hasattr(each, "keep_sentences") else each for each in processors_or_criteria
    )


def can_drop_finished_rows(logits_processor: Any, stopping_criteria: Any) -> bool:
    """Returns True if processors and criteria look only at a hypothesis' own tokens, so finished rows can leave.

    One with the method `keep_sentences` follows them. The method is what counts, not the class, because the code that
    a checkpoint carries has its own copy of the class.

    The library's `prefix_allowed_tokens_fn` looks at a sentence's index in the batch, and `encoder_repetition_penalty`
    at a row's source. A caller's own processor may look at either.
    """
    return all(
        type(each) in ROW_INDEPENDENT_PROCESSORS or hasattr(each, "keep_sentences")
        for each in (*logits_processor, *stopping_criteria)
    )


class BeamSearchGenerationMixin(GenerationMixin):
    """`generate()` with beams scored by log P(Y|X) / lp(Y); inherit it in place of `GenerationMixin`.

    The library divides by |Y|^alpha instead, which is not proportional to lp: at alpha 0.6, a sentence of 20 tokens
    gains 52 % over one of 10 with the library's divisor and 36 % with lp, so the paper's 0.6 would choose longer
    sentences. Here `length_penalty` is the paper's alpha (the library's default is 1.0), and `sequences_scores` are
    the paper's scores without its coverage term.

    `early_stopping` decides when the search of a sentence ends, as in the library:

    - `"never"` is the canonical search. It ends when the best open hypothesis cannot enter the finished ones that are
      returned, even if all further tokens were certain and its length the most favourable. It loses nothing.
    - `False` (the default) scores the best open hypothesis at its present length, and ends when it cannot enter the
      `num_beams` best finished ones. With `length_penalty` above 0, it may miss a longer sentence that would have won.
    - `True` ends with `num_beams` finished hypotheses, whatever their scores.

    A hypothesis finishes when the end token is among the `num_beams` best continuations, or at the length limit, where
    it counts without an end token.
    """

    # An attribute and not `isinstance`, because the code that a checkpoint carries has its own copy of this class.
    beams_carry_scores = True

    # True if a softmax over the model's logits has been taken, so that a search need not take it again.
    logits_are_log_probabilities = False

    @functools.wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        kwargs = name_cache_for_library(kwargs)
        check_generation(self, args, kwargs)
        return super().generate(*args, **kwargs)

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Extends `GenerationMixin._prepare_generation_config`: an explicit `max_length` overrides a saved limit.

        Without it, the `max_new_tokens` that a model was saved with would override the caller's `max_length`.
        """
        prepared, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        asked = {
            name: getattr(generation_config, name, None) if kwargs.get(name) is None else kwargs[name]
            for name in ("max_length", "max_new_tokens")
        }
        if asked["max_length"] is not None and asked["max_new_tokens"] is None:
            prepared.max_new_tokens = None
        return prepared, model_kwargs

    @functools.wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        cache = kwargs.get(CACHE_NAME)
        seen = 0 if cache is None else cache.get_seq_length()
        if next_sequence_length is None and 0 < seen < input_ids.shape[1]:
            # The library would pass the whole prefix, although the cache has read most of it.
            next_sequence_length = input_ids.shape[1] - seen
        inputs = super().prepare_inputs_for_generation(input_ids, next_sequence_length, **kwargs)
        return name_cache_for_peft(self, inputs)

    def _validate_generation_mode(self, generation_mode: Any, generation_config: Any, *args: Any) -> None:
        """Extends `GenerationMixin._validate_generation_mode` by a check of `num_beams`."""
        if generation_config.num_beams < 1:
            raise ValueError(
                f"num_beams is {generation_config.num_beams}; it must be at least 1. Set it to 1 for greedy search."
            )
        super()._validate_generation_mode(generation_mode, generation_config, *args)

    def _sample(
        self,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Mirrors `GenerationMixin._sample` for greedy search, and removes each finished sentence from the batch.

        The library's method, which keeps all sentences, runs for sampling, for a streamer, if more than the tokens is
        to be returned, for processors and criteria that may depend on rows, and in plain form.

        Args:
            input_ids: (B, T) the start of every sentence.
            logits_processor, stopping_criteria, generation_config, synced_gpus, streamer, model_kwargs: from
                `generate()`.

        Returns:
            (B, T') token ids.
        """
        config = generation_config
        needs_library = config.do_sample or config.return_dict_in_generate or streamer is not None or synced_gpus
        needs_library = needs_library or not can_drop_finished_rows(logits_processor, stopping_criteria)
        if needs_library or plain_forms_are_on():
            return super()._sample(
                input_ids, logits_processor, stopping_criteria, config, synced_gpus, streamer, **model_kwargs
            )
        sequences = input_ids.new_full((len(input_ids), config.max_length), config._pad_token_tensor)
        open_sentences, running = torch.arange(len(input_ids), device=input_ids.device), input_ids
        outputs = self._prefill(input_ids, config, model_kwargs)
        while True:
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=True)
            scores = outputs.logits[:, -1]
            del outputs
            if logits_processor:  # without it, the best token is the same in any precision
                scores = logits_processor(running, scores.float())
            # `argmax` takes four times as long in bf16 on CPU.
            running = torch.cat([running, scores.max(dim=1, keepdim=True).indices], dim=1)
            ended = stopping_criteria(running, None)
            if ended.any():
                sequences[open_sentences[ended], : running.shape[1]] = running[ended]
                still_open = (~ended).nonzero()[:, 0]
                if not len(still_open):
                    return sequences[:, : running.shape[1]]
                open_sentences, running = open_sentences[still_open], running[still_open]
                logits_processor = keep_sentences(logits_processor, still_open)
                stopping_criteria = keep_sentences(stopping_criteria, still_open)
                model_kwargs |= self._keep_arguments(still_open, 1, model_kwargs)
                if model_kwargs.get(CACHE_NAME) is not None:
                    self._reorder_cache(model_kwargs[CACHE_NAME], still_open)
            outputs = self(**self._next_inputs(running, model_kwargs), return_dict=True)

    def _beam_search(
        self,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        **model_kwargs: Any,
    ) -> torch.Tensor | GenerateBeamEncoderDecoderOutput:
        """Mirrors `GenerationMixin._beam_search`, and removes each sentence from the batch when its search ends.

        The library's method keeps all sentences until the last search ends, which is a third of the work or more, and
        continues for hypotheses that are not returned. It runs if the scores, states or attention weights of every
        step are to be returned, for processors and criteria that may depend on rows, for sampling, and in plain form.
        It finds the same hypotheses.

        Args:
            input_ids: (B * beams, T) the start of every hypothesis; the beams of a sentence are adjacent.
            logits_processor, stopping_criteria, generation_config, synced_gpus, model_kwargs: from `generate()`.

        Returns:
            (B * num_return_sequences, T') token ids, the best of each sentence first, with their scores and beam
            indices if `return_dict_in_generate` is set.

        Raises:
            TooFewHypotheses: the constraints leave fewer than num_return_sequences for some sentence.
        """
        config = generation_config
        returns_steps = (
            config.output_scores or config.output_logits or config.output_attentions or config.output_hidden_states
        )
        needs_library = returns_steps or config.do_sample or synced_gpus
        needs_library = needs_library or not can_drop_finished_rows(logits_processor, stopping_criteria)
        if needs_library or plain_forms_are_on():
            return self._library_beam_search(
                input_ids, logits_processor, stopping_criteria, config, synced_gpus, **model_kwargs
            )
        beams = Beams(input_ids, config)
        outputs = self._prefill(input_ids, config, model_kwargs)
        while True:
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=True)
            logits = outputs.logits[:, -1].unflatten(0, (-1, config.num_beams))  # b n V
            del outputs
            if logits_processor:
                log_probabilities = self._processed(logits, beams.prefixes(), logits_processor)
                totals = log_probabilities + beams.running.scores[:, :, None]
                totals, places = top_k_by_blocks(totals.flatten(1), beams.candidates)  # b nV -> b k
            else:
                totals, places = best_continuations(
                    *(logits, beams.running.scores, beams.candidates),
                    are_log_probabilities=self.logits_are_log_probabilities,
                )
            extended, origins = beams.extend(totals, places, vocabulary=logits.shape[2])  # from b k each
            written = extended.tokens[:, :, : beams.length]
            ended = stopping_criteria(written.flatten(0, 1), None).unflatten(0, (-1, beams.candidates))  # b k
            origins = origins.gather(1, beams.keep_best(extended, ended))  # b n
            rows = origins + config.num_beams * torch.arange(len(origins), device=origins.device)[:, None]
            done = beams.searches_end()
            if done.any():
                still_open = beams.close(done)
                if not len(still_open):
                    break
                rows = rows[still_open]
                logits_processor = keep_sentences(logits_processor, still_open)
                stopping_criteria = keep_sentences(stopping_criteria, still_open)
                model_kwargs |= self._keep_arguments(still_open, config.num_beams, model_kwargs)
            if model_kwargs.get(CACHE_NAME) is not None:
                self._reorder_cache(model_kwargs[CACHE_NAME], rows.flatten())
            outputs = self(**self._next_inputs(beams.prefixes(), model_kwargs), return_dict=True)

        best = beams.best()
        real = (best.scores != -torch.inf).unflatten(0, (-1, config.num_return_sequences))
        check_hypotheses(best.tokens, best.scores, real)
        if not config.return_dict_in_generate:
            return best.tokens
        return GenerateBeamEncoderDecoderOutput(
            sequences=best.tokens, sequences_scores=best.scores, beam_indices=best.origins
        )

    def _processed(self, logits: torch.Tensor, prefixes: torch.Tensor, logits_processor: Any) -> torch.Tensor:
        """Returns log-probabilities from logits, (b, n, V), as the processors change them after (b * n, T) tokens."""
        log_probabilities = logits.flatten(0, 1).float()
        if not self.logits_are_log_probabilities:
            log_probabilities = torch.log_softmax(log_probabilities, dim=-1)
        return logits_processor(prefixes, log_probabilities).unflatten(0, logits.shape[:2])

    def _library_beam_search(
        self,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool,
        **model_kwargs: Any,
    ) -> torch.Tensor | GenerateBeamEncoderDecoderOutput:
        """Runs the library's `_beam_search`; arguments, result and errors as in the method here."""
        asked, config = generation_config, copy.copy(generation_config)
        # The library returns the scores of hypotheses only with those of every step.
        config.output_scores = config.return_dict_in_generate
        real: list[torch.Tensor] = []
        token = _real_hypotheses.set(real)
        try:
            output = super()._beam_search(
                input_ids, logits_processor, stopping_criteria, config, synced_gpus, **model_kwargs
            )
        finally:
            _real_hypotheses.reset(token)
        sequences, scores = output, None
        if config.return_dict_in_generate:
            sequences, scores = output.sequences, output.sequences_scores
        check_hypotheses(sequences, scores, real[0][:, : config.num_return_sequences])
        if asked.return_dict_in_generate and not asked.output_scores:
            output.scores = None
        return output

    def _next_inputs(self, hypotheses: torch.Tensor, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the model's inputs for the next step of (rows, T) hypotheses."""
        new_tokens = 1 if model_kwargs.get("use_cache") else None
        return self.prepare_inputs_for_generation(hypotheses, next_sequence_length=new_tokens, **model_kwargs)

    def _reorder_cache(self, cache: Any, rows: torch.Tensor) -> Any:
        """Gives every hypothesis the cache of the one that it continues; rows that are not named are dropped."""
        cache.reorder_cache(rows)
        return cache

    def _keep_arguments(self, sentences: torch.Tensor, beams: int, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the model arguments that belong to some sentences: those of their sources and the target's mask."""
        kept = self._keep_sentences(sentences, beams, **model_kwargs)
        if model_kwargs.get("decoder_attention_mask") is not None:
            # A sentence's hypotheses have equal masks, because all begin with the same prefix.
            kept["decoder_attention_mask"] = model_kwargs["decoder_attention_mask"][rows_of(sentences, beams)]
        return kept

    def _keep_sentences(
        self,
        sentences: torch.Tensor,
        beams: int,
        encoder_outputs: Any,
        attention_mask: Any = None,
        **model_kwargs: Any,
    ) -> dict[str, Any]:
        """Returns the model arguments that belong to the sources of some sentences; each has `beams` rows."""
        return keep_rows(rows_of(sentences, beams), encoder_outputs, attention_mask)

    # The library's search calls the next two methods with keyword arguments only. They normalise scores before its own
    # code, which then gets a length_penalty of 0 and divides by 1.

    def _update_finished_beams(self, *, topk_log_probs: torch.Tensor, length_penalty: float, **state: Any) -> Any:
        """Extends `GenerationMixin._update_finished_beams`, which keeps the best finished hypotheses."""
        length = state["cur_len"] + 1 - state["decoder_prompt_len"]
        scores = topk_log_probs / length_normalization(length, length_penalty)
        scores = scores.masked_fill(topk_log_probs <= NO_LOG_PROBABILITY, -torch.inf)
        updated = super()._update_finished_beams(topk_log_probs=scores, length_penalty=0.0, **state)
        _, scores, _, is_finished = updated
        _real_hypotheses.get([])[:] = [is_finished & (scores != -torch.inf)]
        return updated

    def _check_early_stop_heuristic(
        self, *, running_beam_scores: torch.Tensor, length_penalty: float, **state: Any
    ) -> torch.Tensor:
        """Extends `GenerationMixin._check_early_stop_heuristic`: can an open hypothesis of a sentence still win?"""
        # If alpha is positive, lp grows with the length, and a larger divisor raises a log-probability.
        longest = state["early_stopping"] == "never" and length_penalty > 0
        length = state["max_length" if longest else "cur_len"] - state["decoder_prompt_len"]
        scores = running_beam_scores / length_normalization(length, length_penalty)
        return super()._check_early_stop_heuristic(running_beam_scores=scores, length_penalty=0.0, **state)
