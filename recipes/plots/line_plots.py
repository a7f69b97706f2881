"""Lines and bars with error bars, for curves and for the reports of experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from papers_to_gpt.plots.style import (
    COLOURS,
    FONT_SIZE,
    POINTS_PER_INCH,
    SMALL_FONT_SIZE,
    WIDTH,
    add_legend,
    add_legend_above,
    fit,
    label_of,
    line_style,
    new_figure,
    say_if_empty,
    soften,
    text_style,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MARKERS = 30  # points of a line; above that, markers would hide it
TOTAL_WIDTH_OF_BARS = 0.8  # of the distance between two groups
MOST_LINES_WITH_LEGEND_INSIDE = 4  # more of them leave no room that the legend would not cover
LONGEST_GROUP = 30  # characters
MOST_TIMES_WITH_PLAIN_TICKS = 3000  # the highest end of an axis, of its lowest
LINE_HEIGHT = 1.15  # of the size of letters
GAP_OF_TICKS = 0.05  # inches
SIDES = 0.9  # inches beside the axes, for the ticks of the y axis and their name
NARROWEST_TURNED = 0.3  # inches between two names that are turned by 30 degrees; nearer ones are upright
HATCHES = ("", "//", "..")  # of bars beyond seven colours


@dataclass(frozen=True)
class Series:
    """The values of one line, or of one colour of bars.

    Attributes:
        name: for the legend.
        x: N places; for bars, N names of groups.
        y: N values; those that are not finite are not drawn.
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
        y = _finite(self.y)
        return np.stack([y - _finite(self.low), _finite(self.high) - y])


def _finite(values: Sequence[float]) -> np.ndarray:
    """Returns values with NaN, which matplotlib leaves out, for those that are not finite."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def draw_lines(axes: "Axes", series: Sequence[Series]) -> None:
    """Draws one line for each series, with error bars where it has them."""
    for number, each in enumerate(series):
        style = line_style(number)
        if len(each.x) > MOST_MARKERS:
            style["marker"] = None
        axes.errorbar(
            each.x,
            _finite(each.y),
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
    say_if_empty(axes, (y for each in series for y in each.y))
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
        series: the lines; 21 can be told apart by colour, marker and dashes.
        x_label, y_label: the axes' names with their units.
        title: above the lines.
        log_x, log_y: logarithmic axes, as far as there are numbers above 0; the x axis then has a tick at every place
            that a line has, if they are few and far enough from each other.
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
    if log_x and all(x > 0 for each in series for x in each.x):
        axes.set_xscale("log")
        places = sorted({x for each in series for x in each.x})
        if len(places) <= 10:
            _set_ticks_at(axes, places, figure.get_figwidth() - SIDES)
    if log_y and any(y > 0 for each in series for y in each.y):
        axes.set_yscale("log")
        _set_plain_ticks(axes)
    if integer_x:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if y_limits is not None:
        axes.set_ylim(*y_limits)
    names = [each.name for each in series]
    if len(series) > MOST_LINES_WITH_LEGEND_INSIDE:
        add_legend_above(figure, axes.get_legend_handles_labels()[0], names)
    elif len(series) > 1:
        add_legend(axes, names, frameon=False)
    return figure


def _rounded(value: float) -> str:
    """Returns a number as on an axis: a count of tokens as 30.2k, and a number below 10 000 as it is."""
    from matplotlib.ticker import EngFormatter

    return f"{value:g}" if value < 1e4 else EngFormatter(sep="")(float(f"{value:.3g}"))


def _set_ticks_at(axes: "Axes", places: Sequence[float], width: float) -> None:
    """Sets the ticks of a logarithmic x axis, and leaves out those whose labels would cover other labels."""
    from matplotlib.ticker import NullLocator

    start, end = np.log(axes.get_xlim())
    kept, taken = [], -np.inf
    for place in places:
        centre, half = width * (np.log(place) - start) / (end - start), text_width([_rounded(place)]) / 2
        if centre - half > taken:
            kept.append(place)
            taken = centre + half + GAP_OF_TICKS
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(kept, [_rounded(place) for place in kept])


def _set_plain_ticks(axes: "Axes") -> None:
    """Sets plain numbers as ticks of a logarithmic y axis that reaches over few powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_ylim()
    if high > MOST_TIMES_WITH_PLAIN_TICKS * low:
        return
    locator = LogLocator(subs=(1, 2, 5))
    inside = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    axes.yaxis.set_major_locator(locator if len(inside) > 2 else MaxNLocator(5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _rounded(value)))


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
        The figure. Names of groups, and values, that are too long to stand side by side are turned. Values that
        would be smaller than 6 points are left out.

    Raises:
        ValueError: if there is no series, their groups differ, or matplotlib is missing.
    """
    figure, axes = _start(series, x_label, y_label, title, size)
    groups = [str(group) for group in series[0].x]
    if any([str(group) for group in each.x] != groups for each in series):
        raise ValueError("The series of a bar chart must have the same groups in the same order.")
    width = TOTAL_WIDTH_OF_BARS / len(series)
    room = (figure.get_figwidth() - SIDES) / len(groups)  # inches
    values = [number_format.format(value) for each in series for value in each.y if np.isfinite(value)]
    apart = room * (width if len(series) > 1 else 1.0)  # inches from one value to the next
    letters = min(FONT_SIZE - 1, apart * POINTS_PER_INCH / LINE_HEIGHT)
    upright = text_width(values, FONT_SIZE - 1) > apart
    look = {"fontsize": letters, "rotation": 90} if upright else {"fontsize": FONT_SIZE - 1}
    for number, each in enumerate(series):
        places = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
        axes.bar(
            places,
            _finite(each.y),
            width * 0.95,
            yerr=each.errors(),
            label=str(number),
            color=COLOURS[number % len(COLOURS)],
            hatch=HATCHES[number // len(COLOURS) % len(HATCHES)],
            edgecolor="white",
            linewidth=0,
            error_kw={"elinewidth": 1, "capsize": 2.5},
        )
        tops = _finite(each.y if each.high is None else each.high)
        for place, top, value in zip(places, tops, each.y, strict=True):
            if np.isfinite(value) and letters >= SMALL_FONT_SIZE:
                text = number_format.format(value)
                offset = {"textcoords": "offset points", "xytext": (0, 2), "ha": "center", "va": "bottom"}
                axes.annotate(text, (place, max(top, 0.0)), **offset, **look)
        if each.reference is not None:
            axes.axhline(each.reference, color=COLOURS[number % len(COLOURS)], linestyle=":", linewidth=1.2)
    say_if_empty(axes, (y for each in series for y in each.y))
    soften(axes)
    names = [label_of(group, LONGEST_GROUP) for group in groups]
    wide = [text_width([name]) for name in names]
    turned: dict[str, Any] = {}
    if max((left + right for left, right in pairwise(wide)), default=0.0) / 2 > room - GAP_OF_TICKS:
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    if turned and room < NARROWEST_TURNED:
        turned = {"rotation": 90}
    small = max(SMALL_FONT_SIZE, min(FONT_SIZE, room * POINTS_PER_INCH * 0.9))
    axes.set_xticks(range(len(groups)), names, **text_style(names, small), **turned)
    axes.margins(y=0.12 + (text_width(values, letters) / figure.get_figheight() if upright else 0.0))
    if y_limits is not None:
        axes.set_ylim(*y_limits)
    if len(series) > 1:
        add_legend_above(figure, axes.get_legend_handles_labels()[0], [each.name for each in series])
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
        title = fit(title, figure.get_figwidth() - SIDES)
        axes.set_title(title, loc="left", **text_style([title]))
    return figure, axes
