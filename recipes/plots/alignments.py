"""The alignment of a translation with its source, as in figure 3 of Bahdanau et al. 2014."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from papers_to_gpt.plots.heat_map import add_colour_bar, draw_matrix, draw_title, place_axes
from papers_to_gpt.plots.style import (
    FONT_SIZE,
    TITLE_LINE,
    WIDTH,
    cut_note,
    label_of,
    new_figure,
    numbers_note,
    text_width,
    title_lines,
)
from papers_to_gpt.settings.visualization import MAX_TOKENS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST_CELL = 0.42  # inches
HIGHEST = 8.0  # inches, of the matrix
BAR = 0.75  # inches, for the scale with its labels
SHORTEST_BAR = 1.2  # inches


def plot_alignment(
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    weights: np.ndarray,
    *,
    title: str | None = None,
    max_tokens: int = MAX_TOKENS,
) -> "Figure":
    """Draws the attention of each target token over the source tokens.

    A column is a source token and a row a target token, in the order of the text, also for text that is written from
    right to left. White is 0 and the darkest blue 1.

    Args:
        source_tokens: S tokens.
        target_tokens: T tokens.
        weights: (T, S) attention; a row sums to 1.
        title: above the picture.
        max_tokens: tokens of each side that are drawn, from the first. What is cut is said under the title.

    Returns:
        The figure, at most 8 inches wide.

    Raises:
        ValueError: if the shape of the weights is not (T, S), there is nothing to draw, or matplotlib is missing.
    """
    weights = np.asarray(weights)
    if weights.shape != (len(target_tokens), len(source_tokens)) or not weights.size:
        raise ValueError(
            f"The weights have the shape {weights.shape}, but there are {len(target_tokens)} target and "
            f"{len(source_tokens)} source tokens: give a row for each target token, and at least one of both."
        )
    notes = [
        cut_note(max_tokens, len(source_tokens), "source tokens"),
        cut_note(max_tokens, len(target_tokens), "target tokens"),
        numbers_note(weights),
    ]
    source, target = source_tokens[:max_tokens], target_tokens[:max_tokens]
    shown = weights[:max_tokens, :max_tokens]
    lines = title_lines(title, notes)

    left = text_width([label_of(token) for token in target]) + TITLE_LINE + 0.15
    top = text_width([label_of(token) for token in source]) + TITLE_LINE + 0.15 + TITLE_LINE * len(lines)
    cell = min(LARGEST_CELL, (WIDTH - left - BAR) / len(source))
    # Not higher than wide: forty rows for a few columns would fill two screens.
    width, height = cell * len(source), min(cell, HIGHEST / len(target)) * len(target)
    title_width = max((text_width([line]) for line in lines), default=0.0)
    figure = new_figure(
        min(WIDTH, max(left + width + BAR, title_width + 0.3, 3.0)), top + max(height, SHORTEST_BAR) + 0.1, layout=None
    )
    axes = place_axes(figure, left, top, width, height)
    image = draw_matrix(axes, shown, source, target)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("source", fontsize=FONT_SIZE)
    axes.set_ylabel("target", fontsize=FONT_SIZE)
    bar = place_axes(figure, left + width + 0.12, top, 0.12, max(height, SHORTEST_BAR))
    add_colour_bar(figure, image, bar, "attention weight")
    draw_title(figure, lines)
    return figure
