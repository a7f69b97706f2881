"""The hypotheses of a beam search: how they are extended, finish, and are compared.

`_beam_search` in `beam_search.py` is the loop that asks the model for the next tokens.

Dimensions: B sentences in the batch, b of them unfinished, n beams of a sentence, k candidates for its next beams, T
target length so far, L largest target length.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

# Fills the positions after an unfinished hypothesis during the search; no token has this id.
UNWRITTEN = -1


def length_normalization(length: int, length_penalty: float) -> float:
    """Computes equation 14 of Wu et al. 2016: lp(Y) = ((5 + |Y|) / (5 + 1))^alpha.

    Args:
        length: |Y|, the number of tokens whose probabilities make up P(Y|X). The end of the sentence counts and the
            start, the paper's y_0, does not. So lp is 1 for the shortest sentence, the end token alone.
        length_penalty: alpha; 0 turns the normalisation off, higher values favour longer sentences.

    Returns:
        The divisor of log P(Y|X).
    """
    return ((5 + length) / 6) ** length_penalty


@dataclass
class Hypotheses:
    """Some hypotheses of each sentence.

    Attributes:
        scores: (b, n) log-probabilities, divided by lp in finished hypotheses; -inf where there is no hypothesis.
        tokens: (b, n, L) token ids, `UNWRITTEN` after the last one.
        origins: (b, n, L) the row of the batch, as it was at first, that each token extended; -1 where there is none.
            `None` if nobody asks for it.
    """

    scores: torch.Tensor
    tokens: torch.Tensor
    origins: torch.Tensor | None = None

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Hypotheses":
        """Applies a function to each tensor."""
        origins = None if self.origins is None else function(self.origins)
        return Hypotheses(function(self.scores), function(self.tokens), origins)

    def take(self, indices: torch.Tensor) -> "Hypotheses":
        """Returns the hypotheses at the indices (b, k) of each sentence."""
        sentences = torch.arange(len(indices), device=indices.device)[:, None]
        return self.map(lambda tensor: tensor[sentences, indices])

    def join(self, others: "Hypotheses") -> "Hypotheses":
        """Returns these hypotheses and others of the same sentences."""
        origins = None if self.origins is None else torch.cat([self.origins, others.origins], dim=1)
        return Hypotheses(
            torch.cat([self.scores, others.scores], dim=1), torch.cat([self.tokens, others.tokens], dim=1), origins
        )

    def write(self, sentences: torch.Tensor, others: "Hypotheses") -> None:
        """Replaces the hypotheses of the given sentences."""
        self.scores[sentences] = others.scores
        self.tokens[sentences] = others.tokens
        if self.origins is not None:
            self.origins[sentences] = others.origins


class Beams:
    """The hypotheses of all sentences of a batch; those whose search is done keep their results only.

    Args:
        input_ids: (B * n, start) the start of every hypothesis; the beams of a sentence are adjacent.
        config: the settings of the search.
    """

    def __init__(self, input_ids: torch.Tensor, config: GenerationConfig):
        self.config = config
        self.start = self.length = input_ids.shape[1]
        beams, length, device = config.num_beams, config.max_length, input_ids.device
        self.open_sentences = torch.arange(len(input_ids) // beams, device=device)  # b indices into the batch
        tokens = input_ids.new_full((len(self.open_sentences), beams, length), UNWRITTEN)
        tokens[:, :, : self.start] = input_ids.unflatten(0, (-1, beams))
        scores = torch.full(tokens.shape[:2], -torch.inf, device=device)
        # The library returns them with the hypotheses' scores, in this type.
        origins = torch.full_like(tokens, -1, dtype=torch.int32) if config.return_dict_in_generate else None
        self.finished = Hypotheses(scores, tokens, origins)
        self.running, self.results = self.finished.map(torch.clone), self.finished.map(torch.clone)
        # All beams of a sentence start equal, so only one of them counts at first.
        self.running.scores[:, 0] = 0.0

    @property
    def candidates(self) -> int:
        """The number of candidates k. At most n times the number of end tokens can end, so at least n do not."""
        ends = self.config._eos_token_tensor
        return self.config.num_beams * (1 if ends is None else 1 + len(ends))

    def prefixes(self) -> torch.Tensor:
        """Returns the tokens of the open hypotheses, (b * n, T)."""
        return self.running.tokens[:, :, : self.length].flatten(0, 1)

    def extend(self, scores: torch.Tensor, places: torch.Tensor, vocabulary: int) -> tuple[Hypotheses, torch.Tensor]:
        """Returns the best continuations, one token longer than the hypotheses that they continue.

        Args:
            scores: (b, k) their log-probabilities, the best first.
            places: (b, k) their places among the n * V continuations of a sentence.
            vocabulary: V.

        Returns:
            The continuations, and the beam, (b, k), that each one continues.
        """
        beams = places // vocabulary
        extended = self.running.take(beams)
        extended.scores = scores
        extended.tokens[:, :, self.length] = places % vocabulary
        if extended.origins is not None:
            rows = beams + self.config.num_beams * self.open_sentences[:, None]
            extended.origins[:, :, self.length] = rows
        self.length += 1
        return extended, beams

    def keep_best(self, extended: Hypotheses, ended: torch.Tensor) -> torch.Tensor:
        """Moves the continuations that end to the finished hypotheses, and makes the best of the others the beams.

        A continuation that ends counts only if it is among the n best.

        Args:
            extended: k continuations of each sentence, the best first.
            ended: (b, k) whether each of them ends.

        Returns:
            (b, n) indices of the continuations that are the beams now.
        """
        beams = self.config.num_beams
        scores = extended.scores / length_normalization(self.length - self.start, self.config.length_penalty)
        scores = scores.masked_fill(~ended, -torch.inf)
        scores[:, beams:] = -torch.inf
        finished = self.finished.join(Hypotheses(scores, extended.tokens, extended.origins))
        self.finished = finished.take(finished.scores.topk(beams).indices)
        extended.scores = extended.scores.masked_fill(ended, -torch.inf)
        kept = extended.scores.topk(beams).indices
        self.running = extended.take(kept)
        return kept

    def searches_end(self) -> torch.Tensor:
        """Returns a Boolean for each sentence, (b,): whether its search is over, as `early_stopping` defines it."""
        best, finished = self.running.scores[:, 0], self.finished.scores
        early_stopping, alpha = self.config.early_stopping, self.config.length_penalty
        if early_stopping is True:
            done = finished[:, -1] > -torch.inf
        else:
            canonical = early_stopping == "never"
            # If alpha is positive, lp grows with the length, and a larger divisor raises a log-probability.
            longest = self.config.max_length if canonical and alpha > 0 else self.length
            to_beat = finished[:, self.config.num_return_sequences - 1 if canonical else -1]
            done = best / length_normalization(longest - self.start, alpha) <= to_beat
        return done | (best == -torch.inf)

    def close(self, done: torch.Tensor) -> torch.Tensor:
        """Stores the results of the sentences whose search is done, (b,) Boolean; returns indices of the others."""
        self.results.write(self.open_sentences[done], self.finished.map(lambda tensor: tensor[done]))
        still_open = (~done).nonzero()[:, 0]
        self.open_sentences = self.open_sentences[still_open]
        self.running = self.running.map(lambda tensor: tensor[still_open])
        self.finished = self.finished.map(lambda tensor: tensor[still_open])
        return still_open

    def best(self) -> Hypotheses:
        """Returns the results that are asked for, one behind the other, cut where the longest of them ends.

        The tokens are (B * num_return_sequences, T), with padding after their end, and the scores
        (B * num_return_sequences,). The origins are those of the tokens after the start.
        """
        best = self.results.map(lambda tensor: tensor[:, : self.config.num_return_sequences].flatten(0, 1))
        length = int((best.tokens != UNWRITTEN).sum(dim=1).max())
        tokens = best.tokens[:, :length]
        best.tokens = torch.where(tokens == UNWRITTEN, self.config._pad_token_tensor, tokens)
        if best.origins is not None:
            best.origins = best.origins[:, self.start : length]
        return best
