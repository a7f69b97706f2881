"""The probabilities that a model gives to tokens: to those of a text and to the best others, and to the next one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from papers_to_gpt.plots.heat_map import draw_matrix, draw_title, place_axes
from papers_to_gpt.plots.style import (
    COLOURS,
    FONT_SIZE,
    TITLE_LINE,
    WIDTH,
    cut_note,
    fit,
    label_of,
    new_figure,
    numbers_note,
    say_if_empty,
    soften,
    text_style,
    text_width,
    title_lines,
)
from papers_to_gpt.settings.visualization import MAX_TOKENS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = 0.21  # inches
LONGEST_CANDIDATE = 12  # characters
BOLD = 1.12  # how much wider bold letters are
NUMBER = 0.42  # inches, for a probability in a cell
DARK = 0.6  # a probability from which the cell is dark and its text white


def plot_token_probabilities(
    tokens: Sequence[str],
    probabilities: np.ndarray,
    candidates: Sequence[Sequence[str]],
    candidate_probabilities: np.ndarray,
    *,
    title: str | None = None,
    max_tokens: int = MAX_TOKENS,
) -> "Figure":
    """Draws a row for each token of a text: its probability given what comes before, and the most probable tokens.

    The candidate that is the text's own token is written in bold letters.

    Args:
        tokens: T tokens.
        probabilities: (T,) probability of each token.
        candidates: T times C tokens, the most probable ones first.
        candidate_probabilities: (T, C) their probabilities.
        title: above the picture.
        max_tokens: rows that are drawn, from the first. What is cut is said under the title.

    Returns:
        The figure, at most 8 inches wide.

    Raises:
        ValueError: if the lengths differ, there is no token, or matplotlib is missing.
    """
    probabilities, best = np.asarray(probabilities), np.asarray(candidate_probabilities)
    shape = (len(tokens), len(candidates[0]) if candidates else 0)
    if not tokens or len(probabilities) != len(tokens) or len(candidates) != len(tokens) or best.shape != shape:
        raise ValueError(
            f"There are {len(tokens)} tokens, {len(probabilities)} probabilities, {len(candidates)} rows of "
            f"candidates and probabilities of them of shape {best.shape}: give one row for each token."
        )
    notes = [cut_note(max_tokens, len(tokens), "tokens"), numbers_note(np.append(probabilities, best))]
    lines = title_lines(title, notes)
    tokens, candidates = tokens[:max_tokens], candidates[:max_tokens]
    matrix = np.concatenate([probabilities[:, None], best], axis=1)[:max_tokens]  # T 1+C
    header = ["token", *(f"candidate {number}" for number in range(1, shape[1] + 1))]

    left = text_width([label_of(token) for token in tokens]) + 0.15
    head = TITLE_LINE * (len(lines) + 1) + 0.1
    widest = (WIDTH - left - 0.1) / matrix.shape[1]
    for longest in range(LONGEST_CANDIDATE, 3, -1):
        labels = [[label_of(token, longest) for token in row] for row in candidates]
        texts = [text for row in labels for text in row]
        needed = BOLD * text_width(texts, FONT_SIZE - 1) + NUMBER
        if needed <= widest:
            break
    column = min(widest, max(needed, text_width(header) + 0.1))
    height = ROW * len(tokens)
    title_width = max((text_width([line]) for line in lines), default=0.0) + 0.3
    figure = new_figure(
        min(WIDTH, max(left + column * matrix.shape[1] + 0.1, title_width)), head + height + 0.1, layout=None
    )
    axes = place_axes(figure, left, head, column * matrix.shape[1], height)
    draw_matrix(axes, matrix, header, tokens)
    axes.set_xticks(range(len(header)), header, rotation=0, fontsize=FONT_SIZE)
    axes.axvline(0.5, color="#666666", linewidth=0.8)
    style = text_style(texts, FONT_SIZE - 1)
    for row, (token, names) in enumerate(zip(tokens, candidates, strict=True)):
        for place, value in enumerate(matrix[row]):
            colour = {"color": "white" if value > DARK else "black", "va": "center_baseline"}
            if place == 0:
                axes.text(0, row, f"{value:.2f}", ha="center", fontsize=FONT_SIZE - 1, **colour)
                continue
            weight = "bold" if names[place - 1] == token else "normal"
            axes.text(place - 0.46, row, labels[row][place - 1], ha="left", weight=weight, **style, **colour)
            axes.text(place + 0.46, row, f"{value:.2f}", ha="right", fontsize=FONT_SIZE - 1, **colour)
    draw_title(figure, lines)
    return figure


def plot_next_tokens(tokens: Sequence[str], probabilities: Sequence[float], *, title: str | None = None) -> "Figure":
    """Draws the most probable next tokens as bars, the most probable one on top.

    Args:
        tokens: C tokens, the most probable ones first.
        probabilities: C probabilities.
        title: above the bars, such as the text that they continue, of which the end is shown.

    Returns:
        The figure, 5 inches wide. Beside each bar stands the probability.

    Raises:
        ValueError: if the lengths differ, there is no token, or matplotlib is missing.
    """
    if not tokens or len(tokens) != len(probabilities):
        raise ValueError(f"There are {len(tokens)} tokens and {len(probabilities)} probabilities: give one for each.")
    figure = new_figure(5.0, 0.7 + 0.26 * len(tokens))
    axes = figure.subplots()
    labels = [label_of(token) for token in tokens]
    axes.barh(range(len(labels)), probabilities, color=COLOURS[0], height=0.75)
    for place, value in enumerate(probabilities):
        axes.annotate(
            f"{value:.3f}", (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=FONT_SIZE
        )
    soften(axes)
    axes.grid(False)
    axes.set_yticks(range(len(labels)), labels, **text_style(labels))
    axes.invert_yaxis()
    say_if_empty(axes, probabilities)
    axes.set_xlim(0, 1.15 * max(np.nan_to_num(probabilities).max(), 1e-3))
    axes.set_xlabel("probability of the next token", fontsize=FONT_SIZE)
    if title:
        title = fit(title, figure.get_figwidth() - 0.2, keep_end=True)
        figure.suptitle(title, x=0.01, ha="left", **text_style([title]))
    return figure
