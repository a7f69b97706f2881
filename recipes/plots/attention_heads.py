"""What each head of a layer attends to: one matrix a head, as in figures 3 to 5 of Vaswani et al. 2017."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from papers_to_gpt.plots.heat_map import add_colour_bar, draw_matrix, draw_title, place_axes
from papers_to_gpt.plots.style import (
    FONT_SIZE,
    POINTS_PER_INCH,
    SMALL_FONT_SIZE,
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

MOST_COLUMNS = 4
LARGEST_CELL, SMALLEST_CELL = 0.25, 0.085  # inches; the smallest one holds a label of 6 points
LONGEST_LABEL = 12  # characters
GAP = 0.15  # inches
BAR = (1.6, 0.09)  # inches
SCALE = 0.5  # inches, for the bar with its numbers


def plot_heads(
    weights: np.ndarray,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    *,
    heads: Sequence[int] | None = None,
    title: str | None = None,
    max_tokens: int = MAX_TOKENS,
) -> "Figure":
    """Draws the attention of every head of a layer. All heads have one scale, from white (0) to the largest weight.

    Args:
        weights: (H, Q, K) attention of each head; the rows of a head sum to 1.
        query_tokens: Q tokens, which attend; one on each row.
        key_tokens: K tokens, which are attended to; one on each column.
        heads: the heads' numbers. Default: 0 to H - 1.
        title: above the picture.
        max_tokens: rows and columns that are drawn, from the first. What is cut is said under the title.

    Returns:
        The figure, at most 8 inches wide; up to four heads stand side by side, two if there are 40 keys.

    Raises:
        ValueError: if the shape of the weights is not (H, Q, K), there is nothing to draw, or matplotlib is missing.
    """
    weights = np.asarray(weights)
    if weights.ndim != 3 or weights.shape[1:] != (len(query_tokens), len(key_tokens)) or not weights.size:
        raise ValueError(
            f"The weights have the shape {weights.shape}, but there are {len(query_tokens)} queries and "
            f"{len(key_tokens)} keys: give a matrix of queries times keys for each head."
        )
    numbers = range(len(weights)) if heads is None else heads
    notes = [
        cut_note(max_tokens, len(query_tokens), "rows"),
        cut_note(max_tokens, len(key_tokens), "columns"),
        numbers_note(weights),
    ]
    lines = title_lines(title, notes)
    queries = [label_of(token, LONGEST_LABEL) for token in query_tokens[:max_tokens]]
    keys = [label_of(token, LONGEST_LABEL) for token in key_tokens[:max_tokens]]
    shown = weights[:, :max_tokens, :max_tokens]

    # As many heads side by side as have cells that hold the smallest label.
    for columns in range(min(MOST_COLUMNS, len(weights)), 0, -1):
        if _fit(queries, len(keys), columns, SMALL_FONT_SIZE)[1] >= SMALLEST_CELL:
            break
    columns = -(-len(weights) // -(-len(weights) // columns))  # rows of one length, where that takes no more rows
    size, left, cell = SMALL_FONT_SIZE, *_fit(queries, len(keys), columns, SMALL_FONT_SIZE)
    larger = min(FONT_SIZE, cell * POINTS_PER_INCH * 0.9)
    if larger > size:  # larger labels leave less room for the cells
        size, left, cell = larger, *_fit(queries, len(keys), columns, larger)
    rows = -(-len(weights) // columns)
    head = TITLE_LINE * (len(lines) + 0.5) + SCALE
    above = text_width(keys, size) + TITLE_LINE + 0.08
    width, height = cell * len(keys), cell * len(queries)
    across = left + columns * (width + GAP)
    title_width = max((text_width([line]) for line in lines), default=0.0) + 0.3
    figure = new_figure(
        min(WIDTH, max(across, title_width, left + BAR[0] + 0.5)), head + rows * (above + height + GAP), layout=None
    )
    largest = float(np.nan_to_num(shown).max()) or 1.0
    for place, (number, matrix) in enumerate(zip(numbers, shown, strict=True)):
        row, column = divmod(place, columns)
        axes = place_axes(
            figure,
            left + column * (width + GAP),
            head + row * (above + height + GAP) + above,
            width,
            height,
        )
        image = draw_matrix(axes, matrix, keys, queries if column == 0 else None, largest=largest, size=size)
        axes.set_title(f"head {number}", fontsize=FONT_SIZE, loc="left", pad=2)
    draw_title(figure, lines)
    bar = place_axes(figure, left, TITLE_LINE * (len(lines) + 0.5), *BAR)
    add_colour_bar(figure, image, bar, "attention weight", orientation="horizontal")
    return figure


def _fit(labels: Sequence[str], keys: int, columns: int, size: float) -> tuple[float, float]:
    """Returns the width of the labels on the left, and that of a cell, in inches."""
    left = text_width(labels, size) + 0.12
    return left, min(LARGEST_CELL, ((WIDTH - left - 0.05 + GAP) / columns - GAP) / keys)
