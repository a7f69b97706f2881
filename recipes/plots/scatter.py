"""Points with their names, such as sentences by two principal components of their vectors."""

from collections.abc import Sequence
from itertools import compress, product
from typing import TYPE_CHECKING

import numpy as np

from papers_to_gpt.plots.style import (
    COLOURS,
    FONT_SIZE,
    POINTS_PER_INCH,
    fit,
    label_of,
    new_figure,
    say_if_empty,
    soften,
    text_style,
    without_glyph_warnings,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST_NAME = 40  # characters
STEP = 12  # points, from one height at which a name may stand to the next
HEIGHTS = [3, -13, *(sign * STEP * step for step in range(2, 9) for sign in (1, -1))]  # points above its place
NEAR = 14  # points; a line leads to a name that is farther from its point
SIDE = 6  # points from a point to its name
POINT = 5  # points, the width of a point


def plot_points(
    points: np.ndarray,
    names: Sequence[str],
    *,
    x_label: str = "component 1",
    y_label: str = "component 2",
    title: str | None = None,
    size: tuple[float, float] = (7.0, 4.5),
) -> "Figure":
    """Draws points with their names beside them; a point whose place is not a finite number is left out.

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
    points = np.asarray(points, dtype=float)
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
        title = fit(title, size[0] - 1)
        axes.set_title(title, loc="left", **text_style([title]))
    soften(axes)
    say_if_empty(axes, points.sum(axis=1))
    drawn = np.isfinite(points).all(axis=1)
    if drawn.any():
        with without_glyph_warnings():
            _name_points(axes, points[drawn], list(compress(names, drawn)))
    return figure


def _name_points(axes: "Axes", points: np.ndarray, names: Sequence[str]) -> None:
    """Writes names beside points, each at the first place at which it covers no other name and no point.

    If there is none, the name stands where it covers the fewest.
    """
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()  # places depend on the size of the axes
    labels = [label_of(name, LONGEST_NAME) for name in names]
    style = text_style(labels, FONT_SIZE)
    half = POINT * axes.figure.dpi / POINTS_PER_INCH / 2
    taken = [Bbox.from_extents(*(place - half), *(place + half)) for place in axes.transData.transform(points)]
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    for (x, y), label in zip(points, labels, strict=True):
        # Names stand towards the middle, where there is room.
        sides = [(SIDE, "left"), (-SIDE, "right")][:: 1 if x <= middle else -1]
        text = axes.annotate(label, (x, y), xytext=(0, 0), textcoords="offset points", **style)
        covered: dict[tuple[float, str, float], int] = {}
        for height, (side, align) in product(HEIGHTS, sides):
            text.set(position=(side, height), ha=align)
            extent = text.get_window_extent()
            covered[side, align, height] = sum(extent.overlaps(other) for other in taken)
            is_inside = axes.bbox.x0 <= extent.x0 <= extent.x1 <= axes.bbox.x1
            is_inside &= axes.bbox.y0 <= extent.y0 <= extent.y1 <= axes.bbox.y1
            covered[side, align, height] += not is_inside
            if not covered[side, align, height]:
                break
        side, align, height = min(covered, key=covered.get)
        text.set(position=(side, height), ha=align)
        taken.append(text.get_window_extent())
        if abs(height) > NEAR:
            line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (x, y), xytext=(side, height + 3), textcoords="offset points", arrowprops=line)
