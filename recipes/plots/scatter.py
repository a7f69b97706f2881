"""Points with their names, such as sentences by two principal components of their vectors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from papers_to_gpt.plots.style import COLOURS, FONT_SIZE, label_of, new_figure, soften, text_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_NAME = 40  # characters


def plot_points(
    points: np.ndarray,
    names: Sequence[str],
    *,
    x_label: str = "component 1",
    y_label: str = "component 2",
    title: str | None = None,
    size: tuple[float, float] = (7.0, 4.5),
) -> "Figure":
    """Draws points with their names beside them.

    Args:
        points: (N, 2) places.
        names: N names; long ones are cut.
        x_label, y_label: the axes' names with their units.
        title: above the points.
        size: width and height in inches.

    Returns:
        The figure.

    Raises:
        ValueError: if the shapes do not agree, or matplotlib is missing.
    """
    points = np.asarray(points)
    if points.shape != (len(names), 2) or not points.size:
        raise ValueError(
            f"The points have the shape {points.shape}; they must be ({len(names)}, 2), one for each name."
        )
    figure = new_figure(*size)
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], color=COLOURS[0], s=24)
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    for (x, y), name in zip(points, names, strict=True):
        # Names stand towards the middle, where there is room.
        offset, align = ((6, 3), "left") if x <= middle else ((-6, 3), "right")
        label = label_of(name, LONGEST_NAME)
        axes.annotate(
            label, (x, y), textcoords="offset points", xytext=offset, ha=align, **text_style([label], FONT_SIZE)
        )
    axes.set_xlabel(x_label, **text_style([x_label]))
    axes.set_ylabel(y_label, **text_style([y_label]))
    if title:
        axes.set_title(title, loc="left", **text_style([title]))
    soften(axes)
    axes.margins(0.12)
    return figure
