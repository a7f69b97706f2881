"""Log-probabilities that a language model gives to texts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..bidirectional_attention import refuse_bidirectional
from ..data.visible_text import has_visible_text
from ..tokenization import forget_last_call


@dataclass(frozen=True)
class TextScore:
    """The score of a text.

    Attributes:
        tokens: the tokens that were scored: all but the first, which stands behind no text.
        log_probabilities: the natural logarithm of each token's probability given the text before it.
        bytes: length in UTF-8 of the text behind the first token.
    """

    tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    bytes: int

    @property
    def log_probability(self) -> float:
        """That of the text, given its first token: the sum over its tokens."""
        return math.fsum(self.log_probabilities)

    @property
    def perplexity(self) -> float | None:
        """Per token; it compares models with the same vocabulary. None if no token was scored."""
        return math.exp(min(-self.log_probability / len(self.tokens), 700.0)) if self.tokens else None

    @property
    def bits_per_byte(self) -> float | None:
        """It compares models with any vocabulary. None if no token was scored, or all belong to one character."""
        return -self.log_probability / math.log(2) / self.bytes if self.bytes else None


@torch.inference_mode()
def score_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    stride: int | None = None,
    max_tokens_per_batch: int = 4096,
) -> list[TextScore]:
    """Computes the log-probability of each text, whatever texts stand beside it.

    GPT-1 has no token that starts a text: it is trained on blocks that begin anywhere. So the first token of a text
    cannot be predicted, and the score is that of the others. A text that is longer than the model's positions is read
    in windows that overlap: a token of the first window is predicted from all tokens before it, and each window after
    that scores its last `stride` tokens, which have at least (positions - stride) tokens before them.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer.
        texts: N texts. One without visible text has no token.
        stride: number of tokens that a window scores, from 1 to the model's positions less 1. Default: half of the
            positions. A smaller number gives more context and takes longer.
        max_tokens_per_batch: number of rows times the longest row that are computed at a time.

    Returns:
        N scores, in the order of the texts.

    Raises:
        ValueError: if `stride` is not in its range, or the model has bidirectional attention.
    """
    refuse_bidirectional(model.config)
    positions = model.config.max_position_embeddings
    stride = positions // 2 if stride is None else stride
    if not 1 <= stride < positions:
        raise ValueError(
            f"stride is {stride}; the model has {positions} positions, so it must be 1 to {positions - 1}."
        )
    visible = [text if has_visible_text(text) else "" for text in texts]
    forget_last_call(tokenizer)
    encodings = tokenizer.backend_tokenizer.encode_batch(visible, add_special_tokens=False)
    windows = [
        (index, *window)
        for index, encoding in enumerate(encodings)
        for window in _windows(len(encoding), positions, stride)
    ]
    scores: list[list[float]] = [[0.0] * max(0, len(encoding) - 1) for encoding in encodings]
    for batch in _batches(sorted(windows, key=lambda window: window[2] - window[1]), max_tokens_per_batch):
        rows = [torch.tensor(encodings[index].ids[start:end]) for index, start, end, _ in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)  # B T
        lengths = torch.tensor([len(row) for row in rows], device=model.device)
        mask = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]  # B T
        logits = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].float()  # B T-1 V
        found = -F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")  # B T-1
        for row, (index, start, end, scored) in zip(found.tolist(), batch, strict=True):
            scores[index][end - 1 - scored : end - 1] = row[end - 1 - scored - start : end - 1 - start]
    return [
        TextScore(
            tokens=tuple(encoding.tokens[1:]),
            log_probabilities=tuple(values),
            bytes=len(text[encoding.offsets[0][1] :].encode()) if values else 0,
        )
        for text, encoding, values in zip(visible, encodings, scores, strict=True)
    ]


def _windows(length: int, positions: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yields the first token of each window, the end, and the number of last tokens that it scores."""
    if length < 2:
        return
    end = min(length, positions)
    yield 0, end, end - 1
    while end < length:
        scored = min(stride, length - end)
        end += scored
        yield end - positions, end, scored


def _batches(windows: Sequence[tuple[int, ...]], max_tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Groups windows, which come sorted by length."""
    batch: list[tuple[int, ...]] = []
    for window in windows:
        if batch and (len(batch) + 1) * (window[2] - window[1]) > max_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
