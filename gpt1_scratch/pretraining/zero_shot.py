"""Zero-shot behaviours of a language model: tasks solved by its probabilities alone (Radford et al. 2018, section 5).

The paper uses four heuristics to see what pre-training teaches before any fine-tuning. Three of them are here: the
acceptability of a sentence by the mean log-probability of its tokens, the sentiment of a text by the probabilities of
two words behind it, and the choice between endings by their mean log-probability given the context.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .scoring import score_texts


def mean_log_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[float]:
    """Returns the mean log-probability of the tokens of each text, (N,); minus infinity for a text of one token.

    The paper takes it as the acceptability of a sentence (CoLA) and decides by a threshold.
    """
    scores = score_texts(model, tokenizer, texts)
    return [each.log_probability / len(each.tokens) if each.tokens else -float("inf") for each in scores]


@torch.inference_mode()
def compare_words(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], words: tuple[str, str]
) -> list[float]:
    """Returns by how much the second word is more probable than the first one behind each text, (N,), as a logarithm.

    The paper appends "very" to a review (SST-2) and compares "positive" and "negative". A word is judged by its first
    token.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer.
        texts: N texts; the words would follow after a space.
        words: the two words.

    Raises:
        ValueError: both words begin with the same token.
    """
    first, second = (_ids(tokenizer, word)[0] for word in words)
    if first == second:
        raise ValueError(f"{words[0]!r} and {words[1]!r} begin with the same token, so they cannot be compared.")
    positions = model.config.max_position_embeddings
    margins = []
    for text in texts:
        logits = model(input_ids=torch.tensor([_ids(tokenizer, text)[-positions:]], device=model.device)).logits[0, -1]
        margins.append(float(logits[second] - logits[first]))
    return margins


@torch.inference_mode()
def choose_endings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    contexts: Sequence[str],
    endings: Sequence[Sequence[str]],
) -> list[int]:
    """Returns the index of the ending with the highest mean log-probability of its tokens given the context, (N,).

    The paper chooses the answers of RACE in this way.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer.
        contexts: N texts; where context and ending exceed the model's positions, the context loses its beginning.
        endings: for each context two or more texts. One of which no token follows another is chosen last.
    """
    positions = model.config.max_position_embeddings
    chosen = []
    for context, options in zip(contexts, endings, strict=True):
        scores = []
        for ending in options:
            ending_ids = _ids(tokenizer, ending)
            ids = torch.tensor([(_ids(tokenizer, context) + ending_ids)[-positions:]], device=model.device)
            log_probabilities = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), dim=-1)  # T-1 V
            of_tokens = log_probabilities.gather(1, ids[0, 1:, None])[:, 0]
            of_ending = of_tokens[max(0, len(ids[0]) - 1 - len(ending_ids)) :]  # an empty slice has no mean
            scores.append(float(of_ending.mean()) if len(of_ending) else -float("inf"))
        chosen.append(max(range(len(scores)), key=scores.__getitem__))
    return chosen


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
