"""Beam search with the length normalisation of Wu et al. 2016, for `generate()`."""

import functools
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, generation
from transformers.generation import GenerateBeamEncoderDecoderOutput

from .library_arguments import CACHE_NAME, name_cache_for_library, name_cache_for_peft
from .library_version import check_generation
from .plain_forms import plain_forms_are_on

# What stands behind a hypothesis while the search goes on: no token's id.
UNWRITTEN = -1

# They judge a hypothesis by its tokens, whichever row of the batch it stands in.
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


def length_normalization(length: int, length_penalty: float) -> float:
    """Equation 14 of Wu et al. 2016: lp(Y) = ((5 + |Y|) / (5 + 1))^alpha.

    Args:
        length: |Y|, the tokens whose probabilities make up P(Y|X): the end of the sentence is one of them, the start,
            the paper's y_0, is not. So lp is 1 for the shortest sentence there is, the end alone.
        length_penalty: alpha; 0 normalises nothing, higher values favour longer sentences.

    Returns:
        What log P(Y|X) is divided by.
    """
    return ((5 + length) / 6) ** length_penalty


def top_k_by_blocks(scores: torch.Tensor, k: int, block: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """`torch.topk(scores, k)` of long rows, of which it orders less.

    The k best are in the k blocks with the best maxima, and maxima are found in one vectorised pass.

    Args:
        scores: (B, N).
        k: how many.
        block: numbers in a block.

    Returns:
        The (B, k) best scores of each row, the best first, and their places in the row.
    """
    if scores.shape[1] % block or scores.shape[1] < k * block:
        return torch.topk(scores, k)
    blocks = scores.unflatten(1, (-1, block))  # (B, N / block, block)
    chosen = blocks.amax(dim=2).topk(k, sorted=False).indices  # (B, k)
    candidates = blocks.gather(1, chosen[:, :, None].expand(-1, -1, block)).flatten(1)  # (B, k * block)
    best, places = candidates.topk(k)
    return best, chosen.gather(1, places // block) * block + places % block


def take(hypotheses: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(B, n, ...) hypotheses and (B, k) which of them, to (B, k, ...)."""
    return hypotheses[torch.arange(len(indices), device=indices.device)[:, None], indices]


def keep_rows(rows: torch.Tensor, encoder_outputs: Any, attention_mask: torch.Tensor | None) -> dict[str, Any]:
    """Some rows of what the encoder returned and of the source's mask, as model arguments."""
    kept = {name: None if tensor is None else tensor[rows] for name, tensor in encoder_outputs.items()}
    return {
        "encoder_outputs": type(encoder_outputs)(**kept),
        "attention_mask": None if attention_mask is None else attention_mask[rows],
    }


def can_drop_finished_rows(logits_processor: Any, stopping_criteria: Any) -> bool:
    """Whether the batch's rows matter to no processor and no criterion, as they may to a caller's own.

    They do to the library's `prefix_allowed_tokens_fn`, which is told a sentence's number, and to its
    `encoder_repetition_penalty`, which looks a row's source up.
    """
    return all(type(judge) in ROW_INDEPENDENT_PROCESSORS for judge in (*logits_processor, *stopping_criteria))


class BeamSearchGenerationMixin(GenerationMixin):
    """`generate()` whose beams are scored by log P(Y|X) / lp(Y), to be inherited in `GenerationMixin`'s place.

    The library divides by |Y|^alpha. That differs from lp by more than a constant: at alpha 0.6 a sentence of 20
    tokens gains 52 % over one of 10 there and 36 % here, so the paper's 0.6 chooses longer sentences there. Here
    `length_penalty` is the paper's alpha (the library's default is 1.0), and `sequences_scores` are the paper's scores
    without the coverage term.

    When the search ends is up to `early_stopping`, as in the library:

    - `"never"` is canonical: a sentence is done when not even its best open hypothesis could, with every further
      token certain and the length that suits it most, enter the finished ones that are returned. Nothing the search
      would have found is lost.
    - `False` (the default) takes the open hypothesis at its present length, and asks whether it could enter the
      `num_beams` best finished ones. That may miss a longer sentence that would have won when `length_penalty` is
      above 0.
    - `True` ends with `num_beams` finished hypotheses, whatever they score.

    A hypothesis finishes when the end token is among the `num_beams` best continuations, or at the length limit,
    where it counts without its end.
    """

    # Told apart by name: code that came with a model is a copy, of which `isinstance` knows nothing.
    beams_carry_scores = True

    @functools.wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        kwargs = name_cache_for_library(kwargs)
        check_generation(self, args, kwargs)
        return super().generate(*args, **kwargs)

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Lets a caller's `max_length` go before the `max_new_tokens` that a model was saved with."""
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
            # The library would hand the whole prefix to a cache that has read most of it.
            next_sequence_length = input_ids.shape[1] - seen
        inputs = super().prepare_inputs_for_generation(input_ids, next_sequence_length, **kwargs)
        return name_cache_for_peft(self, inputs)

    def _validate_generation_mode(self, generation_mode: Any, generation_config: Any, *args: Any) -> None:
        if generation_config.num_beams < 1:
            raise ValueError(
                f"num_beams is {generation_config.num_beams}; it must be at least 1, where 1 is greedy search."
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
        """Greedy search of a batch, from which each sentence goes when it ends, as in `_beam_search` below.

        The library's own loop, in which all sentences stay, runs for sampling, for a streamer, for processors and
        criteria to which rows may matter, and where more than the tokens is asked for.
        """
        config = generation_config
        more_wanted = config.do_sample or config.return_dict_in_generate or streamer is not None or synced_gpus
        if plain_forms_are_on() or more_wanted or not can_drop_finished_rows(logits_processor, stopping_criteria):
            return super()._sample(
                input_ids, logits_processor, stopping_criteria, config, synced_gpus, streamer, **model_kwargs
            )
        sequences = input_ids.new_full((len(input_ids), config.max_length), config._pad_token_tensor)
        open_sentences, running = torch.arange(len(input_ids), device=input_ids.device), input_ids
        outputs = self._prefill(input_ids, config, model_kwargs)
        while True:
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=True)
            scores = logits_processor(running, outputs.logits[:, -1].float())
            del outputs
            running = torch.cat([running, scores.argmax(dim=1, keepdim=True)], dim=1)
            ended = stopping_criteria(running, None)
            if ended.any():
                sequences[open_sentences[ended], : running.shape[1]] = running[ended]
                still_open = (~ended).nonzero()[:, 0]
                if not len(still_open):
                    return sequences[:, : running.shape[1]]
                open_sentences, running = open_sentences[still_open], running[still_open]
                model_kwargs |= self._keep_sentences(still_open, 1, **model_kwargs)
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
        """The search of a batch, from which each sentence goes when it is done.

        The library's own search keeps all sentences until the last is done, which after the first few steps is a
        third of the work or more, and searches on for hypotheses that nobody asked for. It runs where every step's
        scores, states or attention weights are asked for, or rows may matter to a processor or criterion, and finds
        the same.

        Args:
            input_ids: (B * beams, T) the start of every hypothesis; the beams of a sentence are neighbours.
            logits_processor, stopping_criteria, generation_config, synced_gpus, model_kwargs: from `generate()`.

        Returns:
            (B * num_return_sequences, T') token ids, the best of each sentence first, with their scores where
            `return_dict_in_generate` is set.
        """
        config = generation_config
        steps_wanted = (
            config.output_scores or config.output_logits or config.output_attentions or config.output_hidden_states
        )
        rows_matter = not can_drop_finished_rows(logits_processor, stopping_criteria)
        if plain_forms_are_on() or steps_wanted or rows_matter or config.do_sample or synced_gpus:
            return super()._beam_search(
                input_ids, logits_processor, stopping_criteria, config, synced_gpus, **model_kwargs
            )
        beams, alpha, device = config.num_beams, config.length_penalty, input_ids.device
        start = length = input_ids.shape[1]
        limit = config.max_length - start
        # So many that `beams` of them go on even if every beam's best continuations are end tokens.
        candidates = beams * (1 if config._eos_token_tensor is None else 1 + len(config._eos_token_tensor))

        open_sentences = torch.arange(len(input_ids) // beams, device=device)
        running = input_ids.new_full((len(open_sentences), beams, config.max_length), UNWRITTEN)
        running[:, :, :start] = input_ids.unflatten(0, (-1, beams))
        finished = running.clone()
        # All beams start alike: at first only one of them counts.
        running_scores = torch.full(running.shape[:2], -torch.inf, device=device)
        running_scores[:, 0] = 0.0
        finished_scores = torch.full_like(running_scores, -torch.inf)
        sequences, scores = finished.clone(), finished_scores.clone()

        outputs = self._prefill(input_ids, config, model_kwargs)
        while True:
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=True)
            log_probabilities = torch.log_softmax(outputs.logits[:, -1].float(), dim=-1)  # (b * beams, V)
            del outputs
            log_probabilities = logits_processor(running[:, :, :length].flatten(0, 1), log_probabilities)
            vocabulary = log_probabilities.shape[1]
            totals = log_probabilities.unflatten(0, (-1, beams)) + running_scores[:, :, None]
            totals, places = top_k_by_blocks(totals.flatten(1), candidates)  # (b, candidates)
            origins = places // vocabulary
            extended = take(running, origins)
            extended[:, :, length] = places % vocabulary
            length += 1
            ended = stopping_criteria(extended[:, :, :length].flatten(0, 1), None).unflatten(0, (-1, candidates))

            new_scores = totals / length_normalization(length - start, alpha)
            new_scores = new_scores.masked_fill(~ended, -torch.inf)
            new_scores[:, beams:] = -torch.inf
            finished_scores, order = torch.cat([finished_scores, new_scores], dim=1).topk(beams)
            finished = take(torch.cat([finished, extended], dim=1), order)
            running_scores, order = totals.masked_fill(ended, -torch.inf).topk(beams)
            running = take(extended, order)
            rows = origins.gather(1, order) + beams * torch.arange(len(order), device=device)[:, None]

            if config.early_stopping is True:
                done = finished_scores[:, -1] > -torch.inf
            else:
                canonical = config.early_stopping == "never"
                # lp grows with the length where alpha is positive, and a log probability gains by a larger divisor.
                longest = limit if canonical and alpha > 0 else length - start
                to_beat = finished_scores[:, config.num_return_sequences - 1 if canonical else -1]
                done = running_scores[:, 0] / length_normalization(longest, alpha) <= to_beat
            done |= running_scores[:, 0] == -torch.inf
            if done.any():
                sequences[open_sentences[done]], scores[open_sentences[done]] = finished[done], finished_scores[done]
                still_open = (~done).nonzero()[:, 0]
                if not len(still_open):
                    break
                open_sentences, running, finished, running_scores, finished_scores, rows = (
                    tensor[still_open]
                    for tensor in (open_sentences, running, finished, running_scores, finished_scores, rows)
                )
                model_kwargs |= self._keep_sentences(still_open, beams, **model_kwargs)
            if model_kwargs.get(CACHE_NAME) is not None:
                self._reorder_cache(model_kwargs[CACHE_NAME], rows.flatten())
            outputs = self(**self._next_inputs(running[:, :, :length].flatten(0, 1), model_kwargs), return_dict=True)

        sequences = sequences[:, : config.num_return_sequences].flatten(0, 1)
        sequences = sequences[:, : int((sequences != UNWRITTEN).sum(dim=1).max())]
        sequences = torch.where(sequences == UNWRITTEN, config._pad_token_tensor, sequences)
        if not config.return_dict_in_generate:
            return sequences
        scores = scores[:, : config.num_return_sequences].flatten()
        return GenerateBeamEncoderDecoderOutput(sequences=sequences, sequences_scores=scores)

    def _next_inputs(self, hypotheses: torch.Tensor, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the model reads to go on with (rows, T) hypotheses."""
        new_tokens = 1 if model_kwargs.get("use_cache") else None
        return self.prepare_inputs_for_generation(hypotheses, next_sequence_length=new_tokens, **model_kwargs)

    def _reorder_cache(self, cache: Any, rows: torch.Tensor) -> Any:
        """Takes for every hypothesis the cache of the one that it continues; rows that are not named go."""
        cache.reorder_cache(rows)
        return cache

    def _keep_sentences(
        self,
        sentences: torch.Tensor,
        beams: int,
        encoder_outputs: Any,
        attention_mask: Any = None,
        **model_kwargs: Any,
    ) -> dict[str, Any]:
        """What belongs to the sources, as model arguments, of some of the sentences; each has `beams` rows."""
        rows = (sentences[:, None] * beams + torch.arange(beams, device=sentences.device)).flatten()
        return keep_rows(rows, encoder_outputs, attention_mask)

    # Both helpers of the library's search are called with keywords only. Scores are normalised before they reach its
    # code, which then gets a length_penalty of 0 and divides by 1.

    def _update_finished_beams(self, *, topk_log_probs: torch.Tensor, length_penalty: float, **state: Any) -> Any:
        """Moves hypotheses that end with this token among the finished ones where their scores belong there."""
        length = state["cur_len"] + 1 - state["decoder_prompt_len"]
        scores = topk_log_probs / length_normalization(length, length_penalty)
        return super()._update_finished_beams(topk_log_probs=scores, length_penalty=0.0, **state)

    def _check_early_stop_heuristic(
        self, *, running_beam_scores: torch.Tensor, length_penalty: float, **state: Any
    ) -> torch.Tensor:
        """Which sentences may still find a better hypothesis."""
        # lp grows with the length where alpha is positive, and a log probability gains by being divided by more.
        longest = state["early_stopping"] == "never" and length_penalty > 0
        length = state["max_length" if longest else "cur_len"] - state["decoder_prompt_len"]
        scores = running_beam_scores / length_normalization(length, length_penalty)
        return super()._check_early_stop_heuristic(running_beam_scores=scores, length_penalty=0.0, **state)
