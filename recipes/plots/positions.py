"""The vectors that say where a token stands, and how alike they are (Vaswani et al. 2017, section 3.5)."""

from typing import TYPE_CHECKING

import numpy as np

from papers_to_gpt.plots.heat_map import colour_map
from papers_to_gpt.plots.style import (
    DIVERGING,
    FONT_SIZE,
    WIDTH,
    cut_note,
    new_figure,
    numbers_note,
    text_style,
    title_lines,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POSITIONS = 128


def similarities(table: np.ndarray) -> np.ndarray:
    """Returns the cosine of the angle between each two rows of a (P, D) table, (P, P): their dot product at length 1.

    Sinusoids have one length, so for them it is the dot product divided by D / 2. A row of zeros is like no other.
    """
    table = np.asarray(table, dtype=np.float64)
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    unit = np.divide(table, lengths, out=np.zeros_like(table), where=lengths != 0)
    return unit @ unit.T


def plot_positions(table: np.ndarray, *, title: str | None = None, max_positions: int = MAX_POSITIONS) -> "Figure":
    """Draws the position vectors as an image, and beside it the similarity of each two positions.

    Args:
        table: (P, D), a vector for each position.
        title: above the picture.
        max_positions: positions that are drawn, from the first. What is cut is said under the title.

    Returns:
        The figure, 8 inches wide. Blue is below 0 and red above.

    Raises:
        ValueError: if the table is not (P, D), or matplotlib is missing.
    """
    table = np.asarray(table)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"The table of positions has the shape {table.shape}; it must be (positions, width).")
    lines = title_lines(title, [cut_note(max_positions, len(table), "positions"), numbers_note(table)])
    table = table[:max_positions]
    figure = new_figure(WIDTH, 3.9 + 0.22 * len(lines))
    left, right = figure.subplots(1, 2)
    limit = float(np.abs(np.nan_to_num(table)).max()) or 1.0
    style = {"cmap": colour_map(DIVERGING), "aspect": "auto", "interpolation": "nearest"}
    images = [
        left.imshow(table, vmin=-limit, vmax=limit, **style),
        right.imshow(similarities(table), vmin=-1, vmax=1, **style),
    ]
    names = [("position vectors", "dimension", "value"), ("similarity", "position", "cosine")]
    for axes, image, (name, across, scale) in zip((left, right), images, names, strict=True):
        axes.set_title(name, fontsize=FONT_SIZE, loc="left")
        axes.set_xlabel(across, fontsize=FONT_SIZE)
        axes.set_ylabel("position", fontsize=FONT_SIZE)
        axes.tick_params(labelsize=FONT_SIZE - 1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(whole_numbers())
        bar = figure.colorbar(image, ax=axes)
        bar.set_label(scale, fontsize=FONT_SIZE)
        bar.ax.tick_params(labelsize=FONT_SIZE - 1)
    if lines:
        text = "\n".join(lines)
        figure.suptitle(text, x=0.01, ha="left", **text_style([text]))
    return figure
