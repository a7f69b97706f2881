"""The look of every picture: sizes, colours that colour-blind people can tell apart, and files that are reproducible.

A picture is at most 8 inches wide and written with 150 dots per inch, which gives 1200 pixels. No text is smaller than
6 points, which are 12 pixels.
"""

import contextlib
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from papers_to_gpt.plots.fonts import families_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

WIDTH = 8.0  # inches
DOTS_PER_INCH = 150
FONT_SIZE, SMALL_FONT_SIZE = 9.0, 6.0  # points
POINTS_PER_INCH = 72
TITLE_LINE = 0.22  # inches, the height of a line above a picture

MAX_LABEL = 18  # characters
MAX_LINE = 400  # characters, more than the narrowest letters that fit on a line
LEGEND_LINE = 0.19  # inches
LEGEND_HANDLE = 0.68  # inches, for the line or bar beside a name of a legend
# Join and separate letters within words, as in Persian and in the languages of India; they have no shape of their own.
JOINERS = "\u200c\u200d"

# Okabe and Ito's palette without its yellow, which is too light for lines. Markers tell lines apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
# White is 0. The lightness falls evenly, so the order of the values survives without colours.
SEQUENTIAL = "Blues"
# Blue is below 0, red above; the two differ for all common kinds of colour blindness.
DIVERGING = "RdBu_r"
NO_NUMBER = "#BBBBBB"  # the cells of a matrix that hold no number

FORMATS = (".png", ".svg")
# What a file would otherwise say of the day and of the version of matplotlib.
METADATA = {".png": ("Software",), ".svg": ("Date", "Creator")}


def check_matplotlib() -> None:
    """Raises ValueError if matplotlib is not installed; the message says how to install it."""
    if find_spec("matplotlib") is None:
        raise ValueError(
            "Pictures need the package matplotlib: pip install matplotlib (or the extra `plots` of papers-to-gpt)."
        )


def new_figure(width: float = WIDTH, height: float = 4.5, layout: str | None = "constrained") -> "Figure":
    """Returns an empty figure, which belongs to no window.

    Args:
        width, height: in inches.
        layout: None if the caller places the axes.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes a figure as PNG and as SVG. The same figure gives the same bytes: files hold no date and no version.

    Args:
        figure: the figure.
        path: the name of the files; an extension .png or .svg is replaced, and missing folders are made.
        formats: the extensions of the files.

    Returns:
        The paths.

    Raises:
        OSError: if a file cannot be written.
    """
    import matplotlib

    path = Path(path)
    stem = path.with_suffix("") if path.suffix in FORMATS else path
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in formats]
    with matplotlib.rc_context({"svg.hashsalt": "papers-to-gpt", "svg.fonttype": "path"}), without_glyph_warnings():
        for file in paths:
            figure.savefig(file, dpi=DOTS_PER_INCH, metadata=dict.fromkeys(METADATA[file.suffix]))
    return paths


@contextlib.contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Silences matplotlib's warnings of missing glyphs: `families_for` has warned, and named the font."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        yield


def pixels(figure: "Figure") -> np.ndarray:
    """Draws a figure and returns it as (height, width, 3) bytes of red, green and blue."""
    with without_glyph_warnings():
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def line_style(number: int) -> dict[str, Any]:
    """Returns the colour and marker of the line with this number; beyond seven lines, dashes differ."""
    dashes = ("-", "--", ":")[number // len(COLOURS) % 3]
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "linestyle": dashes}


def label_of(token: str, longest: int = MAX_LABEL) -> str:
    """Returns a token as it is drawn: characters that have no shape are escaped, and a long token is cut."""
    shown = _escape(token)
    return shown if len(shown) <= longest else f"{_start_of(shown, longest - 1)}…"


def fit(text: str, width: float, size: float = FONT_SIZE, *, keep_end: bool = False) -> str:
    """Returns a text as one line that is not wider than a width in inches.

    Args:
        text: the text; characters that have no shape, such as the ends of lines, are escaped.
        width: the width.
        size: of the letters, in points.
        keep_end: whether the start of a long text is cut off, as of a path, and not its end.
    """

    def cut(count: int) -> str:
        return f"…{_end_of(shown, count)}" if keep_end else f"{_start_of(shown, count)}…"

    shown = _escape(text)
    if len(shown) <= MAX_LINE and text_width([shown], size) <= width:
        return shown
    fitting, too_many = 0, min(len(shown), MAX_LINE)
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if text_width([cut(middle)], size) <= width else (fitting, middle)
    return cut(fitting)


def _escape(text: str) -> str:
    inner = range(1, len(text) - 1)
    return "".join(
        character if character.isprintable() or (character in JOINERS and place in inner) else repr(character)[1:-1]
        for place, character in enumerate(text)
    )


def _belongs_to_the_letter_before(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or character in JOINERS


def _start_of(text: str, count: int) -> str:
    """Returns at most `count` characters from the first; a letter is not parted from its accents."""
    while 0 < count < len(text) and _belongs_to_the_letter_before(text[count]):
        count -= 1
    return text[:count]


def _end_of(text: str, count: int) -> str:
    """Returns at most `count` characters to the last; a letter is not parted from its accents."""
    place = len(text) - count
    while 0 < place < len(text) and _belongs_to_the_letter_before(text[place]):
        place += 1
    return text[place:]


def text_style(texts: Iterable[str], size: float = FONT_SIZE) -> dict[str, Any]:
    """Returns the properties of a Text that shows texts from outside: their fonts, and no formulas between dollars."""
    return {"fontfamily": families_for(texts), "fontsize": size, "parse_math": False}


def text_width(texts: Sequence[str], size: float = FONT_SIZE) -> float:
    """Returns the width of the widest text in inches."""
    from matplotlib.text import Text

    figure = new_figure(layout=None)
    renderer = figure.canvas.get_renderer()
    style = text_style(texts, size)
    with without_glyph_warnings():
        widths = [Text(text=text, figure=figure, **style).get_window_extent(renderer).width for text in texts if text]
    return max(widths, default=0.0) / DOTS_PER_INCH


def set_token_labels(axes: "Axes", axis: str, tokens: Sequence[str], size: float = FONT_SIZE) -> None:
    """Labels the rows ("y") or columns ("x", turned by 90 degrees) of a matrix with tokens, one label each."""
    labels = [label_of(token) for token in tokens]
    style = text_style(labels, size)
    if axis == "x":
        axes.set_xticks(range(len(labels)), labels, rotation=90, **style)
        axes.tick_params(axis="x", top=True, bottom=False, labeltop=True, labelbottom=False, length=2, pad=2)
    else:
        axes.set_yticks(range(len(labels)), labels, **style)
        axes.tick_params(axis="y", length=2, pad=2)


def soften(axes: "Axes") -> None:
    """Removes the upper and right frame of a diagram with lines or bars, and draws a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=FONT_SIZE)


def add_legend(axes: "Axes", names: Sequence[str], **arguments: Any) -> None:
    """Adds a legend with a name for each labelled line, whatever characters the names have."""
    handles, _ = axes.get_legend_handles_labels()
    # matplotlib leaves out names that begin with an underscore, so the names are set afterwards.
    legend = axes.legend(handles, [str(number) for number in range(len(handles))], **arguments)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, **text_style([name], FONT_SIZE))


def add_legend_above(
    figure: "Figure", handles: Sequence[Any], names: Sequence[str], *, columns: int | None = None
) -> None:
    """Adds a legend above everything, where it covers no line and no bar, and makes the figure higher by it.

    Args:
        figure: a figure with the constrained layout.
        handles: a line or bar for each name.
        names: the names, whatever characters they have; those that are too long lose their start.
        columns: of the legend. Default: as many as stand side by side.
    """
    room = figure.get_figwidth() - 0.3
    names = [fit(name, room - LEGEND_HANDLE, keep_end=True) for name in names]
    columns = columns or max(1, int(room // (text_width(names) + LEGEND_HANDLE)))
    # Names that begin with an underscore would be left out, so they are set afterwards.
    legend = figure.legend(
        handles,
        [str(number) for number in range(len(names))],
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        alignment="left",
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, **text_style([name]))
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * -(-len(names) // columns))


def whole_numbers() -> "Locator":
    """Returns the places of ticks at whole numbers only, also where there is a single one."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1)


def say_if_empty(axes: "Axes", values: Iterable[float]) -> None:
    """Writes into axes that there is nothing in them, if no value is a finite number."""
    if not any(np.isfinite(value) for value in values):
        axes.text(0.5, 0.5, "no finite number", ha="center", va="center", transform=axes.transAxes, color="#555555")


def numbers_note(values: np.ndarray) -> str:
    """Returns a note about the cells of a matrix that hold no number; an empty text if all do."""
    return "" if np.isfinite(values).all() else "grey cells: not a number"


def cut_note(shown: int, total: int, what: str) -> str:
    """Returns a note such as "first 40 of 57 source tokens"; an empty text if nothing is cut."""
    return f"first {shown} of {total} {what}" if shown < total else ""


def title_lines(title: str | None, notes: Iterable[str]) -> list[str]:
    """Returns the lines above a picture, none wider than a picture may be: its title, and a line with the notes."""
    joined = "; ".join(note for note in notes if note)
    return [fit(line, WIDTH - 0.3) for line in (title, joined) if line]
