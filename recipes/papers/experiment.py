"""What an experiment is, and what it finds: a table, the paper's numbers beside it, charts and a verdict."""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from scipy.special import stdtrit

from papers_to_gpt.plots.line_plots import Series, plot_bars, plot_lines
from papers_to_gpt.settings.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from papers_to_gpt.papers.workbench import Workbench

Cell = str | float | int | None
VALIDATION_LOSS = "validation loss, nats per token"


@dataclass(frozen=True)
class Table:
    """Columns and rows. Numbers are shown with `digits` decimals; None is an empty cell."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 2


@dataclass(frozen=True)
class Chart:
    """Lines or bars, kept as numbers so that they are written as CSV too.

    Attributes:
        name: the files' name, without extension.
        x_label, y_label: the axes' names with their units.
        series: the lines, or the colours of bars.
        kind: lines or bars.
        options: further arguments of `plot_lines` or `plot_bars`, such as `log_x`.
    """

    name: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    kind: Literal["lines", "bars"] = "lines"
    options: dict[str, Any] = field(default_factory=dict)

    def draw(self) -> "Figure":
        """Draws the chart; it needs matplotlib."""
        plot = plot_lines if self.kind == "lines" else plot_bars
        return plot(self.series, x_label=self.x_label, y_label=self.y_label, **self.options)

    def rows(self) -> list[tuple[Any, ...]]:
        """Returns the rows of the CSV file: series, x, y, and both ends of the error bar."""
        none: Sequence[None] = ()
        return [
            (each.name, *values)
            for each in self.series
            for values in itertools.zip_longest(each.x, each.y, each.low or none, each.high or none)
        ]


@dataclass(frozen=True)
class Verdict:
    """Whether the paper's claim holds here.

    Attributes:
        holds: None if the measurement cannot tell.
        reason: one or two sentences with the deciding numbers. `Experiment.unless` has the likely cause of a claim
            that does not hold.
        seeds: number of seeds over which `is_above` decided; 1 if it tested nothing.
        numbers: what the reason says, not rounded, as `results.json` keeps it. Numbers of the table and of charts need
            not be repeated.
    """

    holds: bool | None
    reason: str
    seeds: int = 1
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def word(self) -> str:
        return {True: "holds", False: "does not hold", None: "undecided"}[self.holds]

    @property
    def sentence(self) -> str:
        return "It is undecided whether the claim holds." if self.holds is None else f"The claim {self.word} here."

    @property
    def test(self) -> str | None:
        """The test by which several seeds decided; None if there was none."""
        if self.seeds == 1:
            return None
        return (
            f"Student's t-test of the mean over {self.seeds} seeds, two-sided, at the {100 * LEVEL:.0f} % level, with "
            f"{counted(self.seeds - 1, 'degree')} of freedom. Where two settings are compared, it is the mean of the "
            f"differences seed by seed. It decides if it is more than {critical_t(self.seeds):.2f} standard errors "
            "from its limit. Each part of a claim is tested by itself."
        )


@dataclass(frozen=True)
class Finding:
    """What an experiment found.

    Attributes:
        method: two sentences: what was trained or loaded, and what was measured.
        table: the measured numbers.
        verdict: whether the claim holds.
        paper: the paper's own numbers; None if it has none.
        charts: drawn and written as CSV.
        pictures: other figures by the name of their files, such as heat maps; they are drawn if matplotlib is
            installed.
        notes: further sentences of the report.
    """

    method: str
    table: Table
    verdict: Verdict
    paper: Table | None = None
    charts: Sequence[Chart] = ()
    pictures: dict[str, Callable[[], "Figure"]] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Experiment:
    """An experiment: the claim of a paper, and the function that measures it.

    Attributes:
        name: the name on the command line.
        paper: the module of its paper, such as `sutskever2014`.
        item: the table, figure or section.
        claim: the claim in one sentence.
        criterion: when the claim holds, in one sentence that begins with "It holds if"; it is said before anything is
            measured.
        measure: trains or loads what it needs and measures.
        minutes: minutes on one CPU core at the scale `small`, with one seed, after the experiments before it, whose
            trained models it shares; after those of `core` for an experiment of `core`. The sum of `core` is measured,
            the others are estimated.
        unless: what is said after the numbers unless the claim holds, by scale: the likely cause, and the scale that
            shows the claim. Every experiment has it for the scale `small`.
        core: True for an experiment of the first twelve, `run core`.
        scales: the scales that it has.
    """

    name: str
    paper: str
    item: str
    claim: str
    criterion: str
    measure: Callable[["Workbench"], Finding]
    minutes: float
    unless: Mapping[str, str]
    core: bool = False
    scales: tuple[str, ...] = ("small",)

    def judge(self, verdict: Verdict, scale: str) -> Verdict:
        """Returns a verdict with the likely cause added, unless the claim holds."""
        if verdict.holds or scale not in self.unless:
            return verdict
        return replace(verdict, reason=f"{verdict.reason} {self.unless[scale]}")


def compare(
    better: Sequence[float],
    worse: Sequence[float],
    names: tuple[str, str],
    *,
    score: str,
    lower_is_better: bool = False,
    digits: int = 2,
) -> Verdict:
    """Decides whether one setting beats another, seed by seed.

    One seed gives a direction. With several, `is_above` tests the differences.

    Args:
        better: scores of the setting that the paper claims to be better, one for each seed.
        worse: scores of the other setting with the same seeds.
        names: the names of both settings.
        score: the name of the score, such as `BLEU`.
        lower_is_better: True for losses and perplexities.
        digits: decimals of the numbers in the reason.

    Raises:
        ValueError: the numbers of scores differ, or there are none.
    """
    gains = loss_falls(worse, better) if lower_is_better else [a - b for a, b in zip(better, worse, strict=True)]
    if not gains:
        raise ValueError("There are no scores to compare.")
    means = [statistics.mean(scores) for scores in (better, worse)]
    reason = f"{score}: {means[0]:.{digits}f} with {names[0]}, {means[1]:.{digits}f} with {names[1]}"
    diverged = [sum(not math.isfinite(each) for each in scores) for scores in (better, worse)]
    if len(gains) == 1:
        reason += " (one seed: the direction alone)."
    elif any(diverged):
        reason += f", over {len(gains)} seeds."
    else:
        gain, error = statistics.mean(gains), standard_error(gains)
        reason += f", a gain of {gain:.{digits}f} with a standard error of {error:.{digits}f} over {len(gains)} seeds."
    if lower_is_better and any(diverged):
        runs = " and ".join(
            f"{number} of {len(gains)} with {name}" for number, name in zip(diverged, names, strict=True) if number
        )
        reason += f" Runs that diverged, which counts as worse than any finite value: {runs}."
    numbers = {names[0]: better, names[1]: worse, "gain": gains}
    found = {f"{score}, {names[0]} against {names[1]}": {name: by_seed(each) for name, each in numbers.items()}}
    return Verdict(is_above(gains, 0), reason, len(gains), found)


def by_seed(values: Sequence[float]) -> dict[str, Any]:
    """Returns the values of all seeds with their mean and, if there are several, its standard error."""
    found = {"by seed": list(values), "mean": statistics.mean(values)}
    return found if len(values) == 1 else found | {"standard error": standard_error(values)}


DIVERGED = 1e30  # stands for the loss of a run that diverged: beyond all others, and that of two such runs is equal


def loss_falls(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Returns by how much losses fall, seed by seed. A loss that is not finite is larger than all that are."""
    finite = ([each if math.isfinite(each) else DIVERGED for each in losses] for losses in (before, after))
    return [a - b for a, b in zip(*finite, strict=True)]


def is_above(values: Sequence[float], limit: float) -> bool | None:
    """Decides whether the mean of a measurement is above a limit.

    Args:
        values: one for each seed.
        limit: the limit.

    Returns:
        None (undecided) if a value is not finite, or if there are several seeds and Student's t-test does not tell
        the mean from the limit. One seed decides by its value alone.
    """
    if not all(map(math.isfinite, values)):
        return None
    mean = statistics.mean(values)
    if len(values) > 1 and abs(mean - limit) <= critical_t(len(values)) * standard_error(values):
        return None
    return mean > limit


LEVEL = 0.05  # how often chance alone decides a claim, in either direction


def critical_t(number: int) -> float:
    """Returns how many standard errors the mean of some values must be from a limit: the two-sided quantile of
    Student's t with one degree of freedom less than there are values."""
    return float(stdtrit(number - 1, 1 - LEVEL / 2))


def standard_error(values: Sequence[float]) -> float:
    """Returns the standard error of the mean of at least two values; NaN if one is not finite."""
    return statistics.stdev(values) / math.sqrt(len(values)) if all(map(math.isfinite, values)) else math.nan


def mean_and_error(values: Sequence[float], digits: int = 1) -> str:
    """Returns the mean over seeds as text, with its standard error if there are several."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} (standard error {standard_error(values):.{digits}f})"


def combine(*verdicts: Verdict) -> Verdict:
    """Returns the verdict on a claim of several parts: it holds if all of them do, and does not if one does not."""
    return Verdict(
        all_hold([each.holds for each in verdicts]),
        " ".join(each.reason for each in verdicts),
        max(each.seeds for each in verdicts),
        {name: numbers for each in verdicts for name, numbers in each.numbers.items()},
    )


def all_hold(parts: Sequence[bool | None]) -> bool | None:
    """Returns False if a part of a claim does not hold, otherwise None if one is undecided, otherwise True."""
    return False if False in parts else None if None in parts else True


def over_seeds(name: str, x: Sequence[Any], scores: Sequence[Sequence[float]]) -> Series:
    """Returns a series of means over seeds, with bars from the lowest to the highest score.

    Args:
        name: the name of the series.
        x: N places.
        scores: N lists with a score for each seed.
    """
    several = any(len(each) > 1 for each in scores)
    return Series(
        name,
        x,
        [statistics.mean(each) for each in scores],
        low=[min(each) for each in scores] if several else None,
        high=[max(each) for each in scores] if several else None,
    )
