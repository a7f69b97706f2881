"""Training curves of one or several runs, from the lines of their logs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from papers_to_gpt.plots.line_plots import MOST_MARKERS
from papers_to_gpt.plots.style import (
    COLOURS,
    FONT_SIZE,
    MARKERS,
    add_legend_above,
    new_figure,
    say_if_empty,
    soften,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS = "loss"
# What says how a run was going rather than how good its model is.
COURSE = ("learning_rate", "gradient_norm")
# Values of evaluations that only say the loss in other words.
LIKE_LOSS = ("perplexity", "word_perplexity", "weighted_loss", "lm_loss")
PANEL = (4.0, 2.7)  # inches, its width and height; two stand side by side
MARKERS_OF_A_LINE = 8  # of training, where there are more runs than colours

Log = Sequence[Mapping[str, Any]]


def values_of(logs: Mapping[str, Log], kind: str | None = None) -> list[str]:
    """Returns the names of the numbers in the logs, in the order in which they come.

    Args:
        logs: the lines of each run's log.
        kind: "train" or "eval"; None for both.
    """
    return list(
        dict.fromkeys(
            name
            for log in logs.values()
            for line in log
            if kind in (None, line.get("kind"))
            for name, value in line.items()
            if name not in ("update", "kind") and isinstance(value, int | float)
        )
    )


def default_values(logs: Mapping[str, Log]) -> list[str]:
    """Returns what is drawn unless values are chosen: loss, one score, learning rate and gradient norm."""
    scores = [name for name in values_of(logs, "eval") if name not in (LOSS, *LIKE_LOSS)]
    there = values_of(logs)
    return [name for name in (LOSS, *scores[:1], *COURSE) if name in there]


def plot_curves(logs: Mapping[str, Log], values: Sequence[str] | None = None) -> "Figure":
    """Draws values of runs over their updates, a panel for each value and a colour for each run.

    Values of training are lines; those of evaluations on the validation data are dashed and have a marker each.

    Args:
        logs: the lines of the log of each run, by the run's name, as `read_log` of the engine returns them.
        values: names of the values. Default: those of `default_values`.

    Returns:
        The figure, 8 inches wide, or 4 if there is one panel.

    Raises:
        ValueError: if a run has no lines, no run has a value, or matplotlib is missing.
    """
    empty = [name for name, log in logs.items() if not log]
    if empty or not logs:
        raise ValueError(f"The log of {', '.join(empty) or 'every run'} has no lines, so there is no curve to draw.")
    there = values_of(logs)
    unknown = [name for name in values or () if name not in there]
    if unknown:
        raise ValueError(f"No log has the value {unknown[0]!r}. The values are {', '.join(there)}.")
    chosen = list(values or default_values(logs))
    if not chosen:
        raise ValueError(f"No log has a loss or a score. The values to choose are {', '.join(there) or 'none'}.")
    columns = min(2, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(columns * PANEL[0], rows * PANEL[1])
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for panel, name in zip(panels, chosen, strict=False):
        for number, log in enumerate(logs.values()):
            _draw_run(panel, log, name, number, has_markers=len(logs) > len(COLOURS))
        say_if_empty(panel, (y for line in panel.lines for y in line.get_ydata()))
        panel.set_title(name.replace("_", " "), loc="left", fontsize=FONT_SIZE)
        panel.set_xlabel("update", fontsize=FONT_SIZE)
        panel.xaxis.set_major_locator(whole_numbers())
        panel.tick_params(labelbottom=True)
        soften(panel)
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    has_evaluations = any(line.get("kind") == "eval" for log in logs.values() for line in log)
    _add_legend(figure, list(logs), has_evaluations)
    return figure


def _look(number: int) -> tuple[str, str]:
    """Returns the colour and the marker of the run with this number; no two of 49 runs have both in common."""
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def _draw_run(panel: "Axes", log: Log, name: str, number: int, has_markers: bool) -> None:
    colour, marker = _look(number)
    for kind in ("train", "eval"):
        points = [
            (line["update"], line[name])
            for line in log
            if line.get("kind") == kind and isinstance(line.get(name), int | float)
        ]
        if not points:
            continue
        updates, values = zip(*points, strict=True)
        evaluated = {"linestyle": "--", "marker": marker if len(points) <= MOST_MARKERS else None, "markersize": 4}
        # A single point is no line, so it needs a marker to be seen; runs of one colour differ by theirs.
        trained = {"marker": marker, "markersize": 4} if len(points) == 1 or has_markers else {}
        trained["markevery"] = max(1, len(points) // MARKERS_OF_A_LINE)
        panel.plot(updates, values, color=colour, linewidth=1.5, **(evaluated if kind == "eval" else trained))


def _add_legend(figure: "Figure", names: Sequence[str], has_evaluations: bool) -> None:
    """Says above the panels which colour is which run, and which line is training or validation."""
    from matplotlib.lines import Line2D

    texts = list(names) if len(names) > 1 else []
    columns = 1 if texts else 2
    looks = [_look(number) for number, _ in enumerate(texts)]
    handles = [Line2D([], [], color=colour, marker=marker, markersize=4) for colour, marker in looks]
    if has_evaluations:
        grey = {"color": "#555555", "linewidth": 1.5}
        handles += [Line2D([], [], **grey), Line2D([], [], linestyle="--", marker="o", markersize=4, **grey)]
        texts += ["training", "validation"]
    if texts:
        add_legend_above(figure, handles, texts, columns=columns)
