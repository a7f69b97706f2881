"""Continues a text token by token, with the probabilities of the next token at every step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from papers_to_gpt.demonstration.inputs import check_text
from papers_to_gpt.demonstration.loading import ModelStore
from papers_to_gpt.plots.tokens import name_of
from papers_to_gpt.visualization import figures
from papers_to_gpt.visualization.models import LoadedModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDIDATES = 8  # next tokens that are shown


@dataclass(frozen=True)
class Continuation:
    """A text while it grows.

    Attributes:
        text: the prompt and the tokens so far.
        new_tokens: number of tokens after the prompt.
        next_tokens: the most probable next tokens and their probabilities, the largest first.
        ended: why no token follows; an empty text while the text grows.
    """

    text: str
    new_tokens: int
    next_tokens: dict[str, float]
    ended: str = ""


def continue_text(
    store: ModelStore,
    name: str,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    max_input_tokens: int,
    top_k: int = 50,
    seed: int | None = None,
) -> Iterator[Continuation]:
    """Yields the text after every token; the first has none. The model is free for others between two tokens.

    Args:
        store: the models.
        name: a language model.
        prompt: the beginning of the text.
        max_new_tokens: the largest number of tokens after the prompt.
        temperature: of sampling; 0 takes the most probable token.
        max_input_tokens: the largest number of tokens of the prompt.
        top_k: tokens are sampled from this many most probable ones.
        seed: of sampling; None for another text at every call.

    Raises:
        ValueError: if the prompt is empty, or longer than allowed or than the model can read.
    """
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    with store.borrow(name) as loaded:
        positions = loaded.model.config.max_position_embeddings
        check_text(prompt, loaded.tokenizer, min(max_input_tokens, positions - 1), "The beginning")
        ids = loaded.tokenizer(prompt, verbose=False).input_ids
        device = loaded.model.device
        ends = loaded.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        cache = DynamicCache(config=loaded.model.config)
    start, last = len(ids), min(len(ids) + max_new_tokens, positions)
    unread = ids
    while True:
        with store.borrow(name) as loaded, torch.inference_mode():
            row = torch.tensor([unread], device=device)
            logits = loaded.model(input_ids=row, cache=cache, use_cache=True).logits[0, -1].float().cpu()  # V
            text = loaded.tokenizer.decode(ids, skip_special_tokens=True)
            next_tokens = _next_tokens(loaded, ids, logits)
        ended = ""
        if len(ids) > start and ids[-1] in ends:
            ended = "The model has ended the text."
        elif len(ids) == positions:
            ended = f"The model reads at most {positions} tokens."
        elif len(ids) == last:
            ended = "The chosen length is reached."
        yield Continuation(text, len(ids) - start, next_tokens, ended)
        if ended:
            return
        if temperature == 0:
            token = int(logits.argmax())
        else:
            best = logits.topk(min(top_k, len(logits)))
            drawn = torch.multinomial((best.values / temperature).softmax(dim=-1), 1, generator=generator)
            token = int(best.indices[drawn])
        unread = [token]
        ids = [*ids, token]


def _next_tokens(loaded: LoadedModel, ids: list[int], logits: torch.Tensor) -> dict[str, float]:
    """Returns the names of the most probable tokens and their probabilities at temperature 1, the largest first."""
    best = logits.softmax(dim=-1).topk(min(CANDIDATES, len(logits)))
    (before,) = loaded.tokenizer.convert_ids_to_tokens(ids[-1:])
    named: dict[str, float] = {}
    for token, value in zip(
        loaded.tokenizer.convert_ids_to_tokens(best.indices.tolist()), best.values.tolist(), strict=True
    ):
        name = name_of(token, before, loaded.tokenizer.all_special_tokens, **loaded.marks)
        # The start of a longer word may have the name of a whole one.
        named[token if name in named else name] = value
    return named


def draw_probabilities(store: ModelStore, name: str, text: str) -> "Figure | None":
    """Draws the probability of each token of a text and the best others; None for less than two tokens."""
    with store.borrow(name) as loaded:
        return figures.probabilities(loaded, text).get("probabilities")
