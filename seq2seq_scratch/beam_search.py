"""Beam search with the length normalisation of Wu et al. 2016, for `generate()`."""

from typing import Any

import torch
from transformers import GenerationMixin


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


class BeamSearchGenerationMixin(GenerationMixin):
    """`generate()` whose beams are scored by log P(Y|X) / lp(Y), to be inherited in `GenerationMixin`'s place.

    The library divides by |Y|^alpha. That differs from lp by more than a constant: at alpha 0.6 a sentence of 20
    tokens gains 52 % over one of 10 there and 36 % here, so the paper's 0.6 chooses longer sentences there. Here
    `length_penalty` is the paper's alpha (the library's default is 1.0), and `sequences_scores` are the paper's scores
    without the coverage term.

    When the search ends is up to `early_stopping`, as in the library:

    - `"never"` is canonical: a sentence is done when not even its best open hypothesis could, with every further
      token certain and the length that suits it most, enter the `num_beams` best finished ones. Nothing the search
      would have found is lost.
    - `False` (the default) takes the open hypothesis at its present length. That ends sooner and may miss a longer
      sentence that would have won when `length_penalty` is above 0.
    - `True` ends with `num_beams` finished hypotheses, whatever they score.

    A hypothesis finishes when the end token is among the `num_beams` best continuations, or at the length limit,
    where it counts without its end.
    """

    def _validate_generation_mode(self, generation_mode: Any, generation_config: Any, *args: Any) -> None:
        if generation_config.num_beams < 1:
            raise ValueError(
                f"num_beams is {generation_config.num_beams}; it must be at least 1, where 1 is greedy search."
            )
        super()._validate_generation_mode(generation_mode, generation_config, *args)

    # Both helpers are called with keywords only. Scores are normalised before they reach the library's code, which
    # then gets a length_penalty of 0 and divides by 1.

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
