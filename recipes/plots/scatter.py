"""Points with their names, such as sentences by two principal components of their vectors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from papers_to_gpt.plots.style import COLOURS, FONT_SIZE, label_of, new_figure, soften, text_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

LONGEST_NAME = 40  # characters
HEIGHTS = (3, -13, 19, -29, 3)  # points above its place at which a name may stand; the last one if all are taken


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
    axes.margins(0.12)
    axes.set_xlabel(x_label, **text_style([x_label]))
    axes.set_ylabel(y_label, **text_style([y_label]))
    if title:
        axes.set_title(title, loc="left", **text_style([title]))
    soften(axes)
    _name_points(axes, points, names)
    return figure


def _name_points(axes: "Axes", points: np.ndarray, names: Sequence[str]) -> None:
    """Writes names beside points, each at the first height at which it covers no other name."""
    axes.figure.draw_without_rendering()  # places depend on the size of the axes
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    taken: list[Bbox] = []
    for (x, y), name in zip(points, names, strict=True):
        # Names stand towards the middle, where there is room.
        side, align = (6, "left") if x <= middle else (-6, "right")
        label = label_of(name, LONGEST_NAME)
        style = {"ha": align, **text_style([label], FONT_SIZE)}
        text = axes.annotate(label, (x, y), xytext=(side, 0), textcoords="offset points", **style)
        for height in HEIGHTS:
            text.set_position((side, height))
            extent = text.get_window_extent()
            if not any(extent.overlaps(other) for other in taken):
                break
        taken.append(extent)
