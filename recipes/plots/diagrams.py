"""Boxes, arrows and rows of tokens, for drawings of networks. Places are in inches from the lower left corner."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from papers_to_gpt.plots.style import FONT_SIZE, label_of, new_figure, text_style, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = "#444444"
# Light fills that black text can be read on.
WHITE, BLUE, ORANGE, GREEN, GREY = "#FFFFFF", "#CFE3F3", "#FBDDC4", "#CDEBDF", "#EEEEEE"
BOX_HEIGHT = 0.3  # inches
PADDING = 0.08  # inches, of a token's box beside the text

Place = tuple[float, float]


def new_diagram(width: float, height: float) -> tuple["Figure", "Axes"]:
    """Returns a figure of this size in inches, and axes without a frame whose units are inches."""
    figure = new_figure(width, height, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def write(axes: "Axes", place: Place, text: str, *, math: bool = False, **style: Any) -> None:
    """Writes a text around a place; `math` reads formulas between dollars."""
    style = text_style([text]) | {"ha": "center", "va": "center", "parse_math": math} | style
    axes.text(*place, text, **style)


def draw_box(
    axes: "Axes",
    centre: Place,
    text: str = "",
    *,
    width: float = 0.8,
    height: float = BOX_HEIGHT,
    fill: str = WHITE,
    math: bool = False,
    **style: Any,
) -> None:
    """Draws a box with a text in it.

    Args:
        axes: those of `new_diagram`.
        centre: of the box.
        text: in the box.
        width, height: of the box.
        fill: its colour.
        math: whether formulas between dollars are read.
        style: of the text.
    """
    from matplotlib.patches import FancyBboxPatch

    corner = (centre[0] - width / 2, centre[1] - height / 2)
    look = {"boxstyle": "round,pad=0,rounding_size=0.05", "facecolor": fill, "edgecolor": LINE, "linewidth": 0.8}
    axes.add_patch(FancyBboxPatch(corner, width, height, **look))
    if text:
        write(axes, centre, text, math=math, **style)


def draw_arrow(
    axes: "Axes",
    start: Place,
    end: Place,
    *,
    bend: float = 0.0,
    colour: str = LINE,
    linewidth: float = 1.0,
) -> None:
    """Draws an arrow. `bend` makes it an arc, as high as this share of its length."""
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=8,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=0,
            shrinkB=0,
            color=colour,
            linewidth=linewidth,
        )
    )


def draw_path(axes: "Axes", places: Sequence[Place]) -> None:
    """Draws straight lines through the places, with an arrow at the end."""
    across, up = zip(*places[:-1], strict=True)
    axes.plot(across, up, color=LINE, linewidth=1.0, solid_capstyle="butt")
    draw_arrow(axes, places[-2], places[-1])


def token_widths(tokens: Sequence[str], size: float = FONT_SIZE) -> list[float]:
    """Returns the width of the box of each token."""
    return [text_width([label_of(token)], size) + 2 * PADDING for token in tokens]


def draw_tokens(
    axes: "Axes",
    left: float,
    height: float,
    tokens: Sequence[str],
    *,
    fills: Sequence[str] | None = None,
    widths: Sequence[float] | None = None,
    gap: float = 0.04,
    size: float = FONT_SIZE,
) -> list[Place]:
    """Draws a box for each token side by side.

    Args:
        axes: those of `new_diagram`.
        left: where the first box begins.
        height: the middle of the row.
        tokens: the texts.
        fills: a colour for each. Default: white.
        widths: of the boxes. Default: those that the texts need.
        gap: between two boxes.
        size: of the text in points.

    Returns:
        The centres of the boxes.
    """
    widths = token_widths(tokens, size) if widths is None else widths
    fills = [WHITE] * len(tokens) if fills is None else fills
    centres = []
    for token, width, fill in zip(tokens, widths, fills, strict=True):
        centres.append((left + width / 2, height))
        draw_box(axes, centres[-1], label_of(token), width=width, height=0.27, fill=fill, fontsize=size)
        left += width + gap
    return centres
