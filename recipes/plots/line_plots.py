"""Lines and bars with error bars, for curves and for the reports of experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from papers_to_gpt.plots.style import (
    COLOURS,
    FONT_SIZE,
    WIDTH,
    add_legend,
    line_style,
    new_figure,
    soften,
    text_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MARKERS = 30  # points of a line; above that, markers would hide it
TOTAL_WIDTH_OF_BARS = 0.8  # of the distance between two groups


@dataclass(frozen=True)
class Series:
    """The values of one line, or of one colour of bars.

    Attributes:
        name: for the legend.
        x: N places; for bars, N names of groups.
        y: N values; NaN for a value that does not exist.
        low, high: N ends of the error bars, such as the least and largest value of several seeds; None without any.
        reference: a dotted horizontal line in the same colour, such as the score without what the line varies.
    """

    name: str
    x: Sequence[Any]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    reference: float | None = None

    def __post_init__(self):
        lengths = {len(values) for values in (self.x, self.y, self.low, self.high) if values is not None}
        if len(lengths) > 1 or (self.low is None) != (self.high is None):
            raise ValueError(f"{self.name}: x, y, low and high must have one length, and low and high come together.")

    def errors(self) -> np.ndarray | None:
        """Returns the lengths of the error bars below and above each value, (2, N)."""
        if self.low is None or self.high is None:
            return None
        y = np.asarray(self.y, dtype=float)
        return np.stack([y - np.asarray(self.low, dtype=float), np.asarray(self.high, dtype=float) - y])


def draw_lines(axes: "Axes", series: Sequence[Series]) -> None:
    """Draws one line for each series, with error bars where it has them."""
    for number, each in enumerate(series):
        style = line_style(number)
        if len(each.x) > MOST_MARKERS:
            style["marker"] = None
        axes.errorbar(
            each.x,
            each.y,
            yerr=each.errors(),
            label=str(number),
            markersize=4,
            linewidth=1.5,
            elinewidth=1,
            capsize=2.5,
            **style,
        )
        if each.reference is not None:
            axes.axhline(each.reference, color=style["color"], linestyle=":", linewidth=1.2)
    soften(axes)


def plot_lines(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    integer_x: bool = False,
    y_limits: tuple[float | None, float | None] | None = None,
    size: tuple[float, float] = (6.0, 4.0),
) -> "Figure":
    """Draws lines over numbers, with error bars and a legend if there are several.

    Args:
        series: the lines; seven can be told apart by colour and marker.
        x_label, y_label: the axes' names with their units.
        title: above the lines.
        log_x, log_y: logarithmic axes; the x axis then has a tick at every place that a line has, if they are few.
        integer_x: ticks at whole numbers only.
        y_limits: the lowest and highest value of the axis; None chooses it.
        size: width and height in inches.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no series, or matplotlib is missing.
    """
    figure, axes = _start(series, x_label, y_label, title, size)
    draw_lines(axes, series)
    if log_x:
        axes.set_xscale("log")
        places = sorted({x for each in series for x in each.x})
        if len(places) <= 10:
            from matplotlib.ticker import EngFormatter, NullLocator

            axes.xaxis.set_minor_locator(NullLocator())
            # Counts of tokens, parameters and operations are rounded, such as 30.2k; lengths are not.
            rounded = EngFormatter(sep="")
            axes.set_xticks(places, [f"{x:g}" if x < 1e4 else rounded(float(f"{x:.3g}")) for x in places])
    if log_y:
        axes.set_yscale("log")
    if integer_x:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if y_limits is not None:
        axes.set_ylim(*y_limits)
    if len(series) > 1:
        add_legend(axes, [each.name for each in series], frameon=False)
    return figure


def plot_bars(
    series: Sequence[Series],
    *,
    y_label: str,
    x_label: str = "",
    title: str | None = None,
    number_format: str = "{:.1f}",
    y_limits: tuple[float | None, float | None] | None = None,
    size: tuple[float, float] = (6.0, 4.0),
) -> "Figure":
    """Draws groups of bars side by side, each with its value above it and an error bar where the series has one.

    Args:
        series: bars of one colour each; all have the same groups (`Series.x`) in the same order.
        y_label, x_label: the axes' names with their units.
        title: above the bars.
        number_format: how the values are written.
        y_limits, size: as in `plot_lines`.

    Returns:
        The figure. Names of groups that are too long to stand side by side are turned.

    Raises:
        ValueError: if there is no series, their groups differ, or matplotlib is missing.
    """
    figure, axes = _start(series, x_label, y_label, title, size)
    groups = [str(group) for group in series[0].x]
    if any([str(group) for group in each.x] != groups for each in series):
        raise ValueError("The series of a bar chart must have the same groups in the same order.")
    width = TOTAL_WIDTH_OF_BARS / len(series)
    for number, each in enumerate(series):
        places = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
        axes.bar(
            places,
            each.y,
            width * 0.95,
            yerr=each.errors(),
            label=str(number),
            color=COLOURS[number % len(COLOURS)],
            error_kw={"elinewidth": 1, "capsize": 2.5},
        )
        tops = np.asarray(each.y if each.high is None else each.high, dtype=float)
        for place, top, value in zip(places, tops, each.y, strict=True):
            if np.isfinite(value):
                text = number_format.format(value)
                offset = {"textcoords": "offset points", "xytext": (0, 2), "ha": "center", "va": "bottom"}
                axes.annotate(text, (place, max(top, 0.0)), fontsize=FONT_SIZE - 1, **offset)
        if each.reference is not None:
            axes.axhline(each.reference, color=COLOURS[number % len(COLOURS)], linestyle=":", linewidth=1.2)
    soften(axes)
    letters_of_two = max((len(left) + len(right) for left, right in pairwise(groups)), default=0)
    too_long = letters_of_two / 2 > 11 * size[0] / len(groups)
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if too_long else {}
    axes.set_xticks(range(len(groups)), groups, **text_style(groups), **turned)
    axes.margins(y=0.12)
    if y_limits is not None:
        axes.set_ylim(*y_limits)
    if len(series) > 1:
        add_legend(axes, [each.name for each in series], frameon=False)
    return figure


def _start(
    series: Sequence[Series], x_label: str, y_label: str, title: str | None, size: tuple[float, float]
) -> tuple["Figure", "Axes"]:
    if not series:
        raise ValueError("There is nothing to draw: give at least one series.")
    figure = new_figure(min(size[0], WIDTH), size[1])
    axes = figure.subplots()
    axes.set_xlabel(x_label, **text_style([x_label]))
    axes.set_ylabel(y_label, **text_style([y_label]))
    if title:
        axes.set_title(title, loc="left", **text_style([title]))
    return figure, axes
