"""A matrix as an image with a token on each row and column, in a place that is measured in inches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from papers_to_gpt.plots.style import FONT_SIZE, NO_NUMBER, SEQUENTIAL, TITLE_LINE, set_token_labels, text_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def place_axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Adds axes at a place in inches, counted from the upper left corner of the figure."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def draw_matrix(
    axes: "Axes",
    matrix: np.ndarray,
    column_tokens: Sequence[str],
    row_tokens: Sequence[str] | None,
    *,
    largest: float = 1.0,
    size: float = FONT_SIZE,
) -> "AxesImage":
    """Draws a matrix from white (0) to the darkest colour, with one label for each column and row.

    A cell that holds no number is grey.

    Args:
        axes: where to draw.
        matrix: (rows, columns).
        column_tokens: a label for each column, above the matrix.
        row_tokens: a label for each row; None leaves the rows without labels.
        largest: the value of the darkest colour.
        size: of the labels, in points.

    Returns:
        The image, whose array is the matrix.
    """
    style = {"cmap": colour_map(SEQUENTIAL), "aspect": "auto", "interpolation": "nearest"}
    image = axes.imshow(matrix, vmin=0.0, vmax=largest, **style)
    set_token_labels(axes, "x", column_tokens, size)
    if row_tokens is None:
        axes.set_yticks([])
    else:
        set_token_labels(axes, "y", row_tokens, size)
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color="#666666")
    return image


def colour_map(name: str) -> "Colormap":
    """Returns a colour map in which cells that hold no number are grey, and not white as the number 0."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=NO_NUMBER)


def add_colour_bar(
    figure: "Figure", image: "AxesImage", place: "Axes", label: str, orientation: str = "vertical"
) -> None:
    """Draws the scale of an image into axes of its own."""
    bar = figure.colorbar(image, cax=place, orientation=orientation)
    bar.set_label(label, fontsize=FONT_SIZE)
    bar.ax.tick_params(labelsize=FONT_SIZE - 1, length=2)
    bar.outline.set(linewidth=0.6, edgecolor="#666666")


def draw_title(figure: "Figure", lines: Sequence[str]) -> None:
    """Writes the lines of `title_lines` into the upper left corner, the notes in grey."""
    across, down = figure.get_size_inches()
    for number, line in enumerate(lines):
        style = text_style([line]) | {"color": "black" if number == 0 else "#555555"}
        figure.text(0.1 / across, 1 - (0.06 + TITLE_LINE * number) / down, line, va="top", **style)
