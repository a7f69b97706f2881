"""Masks, the scaling of scores, and positions, as the models compute them."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gpt1_scratch.modeling_gpt1 import causal_mask
from gpt1_scratch.pretraining.masking import TokenMasker
from papers_to_gpt.plots.diagrams import BLUE, ORANGE, WHITE
from papers_to_gpt.plots.style import COLOURS, DIVERGING, FONT_SIZE, new_figure, set_token_labels, soften, text_style
from seq2seq_scratch import TransformerConfig
from seq2seq_scratch.modeling_transformer import (
    SinusoidalPositions,
    hide_later_positions,
    hide_padding,
    scaled_dot_product_attention,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TARGET = ["<s>", "drei", "hundert", "zwei", "und", "vierzig"]
SOURCE = ["three", "hundred", "and", "two", "<pad>", "<pad>"]
SENTENCE = "the old king gave the golden ring to his friend".split()
REPEATED = ["<s>", *"the cat saw one red kite".split() * 2]
SHARPNESS = 12.0  # the scale of the scores of the heads that are set by hand
KEYS = 20
WIDTHS = (4, 64, 1024)  # d_k
POSITIONS, MODEL_WIDTH = 128, 128


def causal_mask_triangle() -> "Figure":
    """Draws what the decoder's masks add to the scores: the triangle of later positions, and the padding."""
    config = TransformerConfig(attn_implementation="eager")
    states = torch.zeros(1, len(TARGET), 8)
    later = hide_later_positions(config, states, None, None)[0, 0]
    tokens = torch.tensor([[token != "<pad>" for token in SOURCE]]).long()
    padding = hide_padding(config, states, tokens, states.expand(1, len(SOURCE), 8))
    padding = padding[0, 0].expand(len(TARGET), len(SOURCE))
    figure = new_figure(6.4, 3.1)
    for axes, mask, columns, title in zip(
        figure.subplots(1, 2),
        (later, padding),
        (TARGET, SOURCE),
        ("causal mask: later positions are hidden", "padding mask: columns are hidden"),
        strict=True,
    ):
        signs = [["0" if value == 0 else "−∞" for value in row] for row in mask.tolist()]
        fills = [[BLUE if value == 0 else WHITE for value in row] for row in mask.tolist()]
        _draw_cells(axes, fills, columns, TARGET, signs)
        axes.set_title(title, fontsize=FONT_SIZE, loc="left")
    return figure


def both_directions() -> "Figure":
    """Draws which tokens each position attends to in GPT-1, and in BERT, where chosen tokens are hidden."""
    torch.manual_seed(1)
    count = len(SENTENCE)
    visible = causal_mask(count, count).reshape(count, count)
    mask_id = count
    inputs, labels = TokenMasker(mask_id, torch.arange(count))(torch.arange(count)[None])
    names = [*SENTENCE, "[MASK]"]
    read = [names[index] for index in inputs[0].tolist()]
    chosen = (labels[0] != -100).tolist()
    triangle = [[BLUE if sees else WHITE for sees in row] for row in visible.tolist()]
    square = [[ORANGE if chosen[column] else BLUE for column in range(count)] for _ in range(count)]
    figure = new_figure(7.4, 3.6)
    left, right = figure.subplots(1, 2)
    _draw_cells(left, triangle, SENTENCE, SENTENCE)
    left.set_title("GPT-1: every position predicts the next token", fontsize=FONT_SIZE, loc="left")
    _draw_cells(right, square, read, read)
    for row, is_chosen in enumerate(chosen):
        if is_chosen:
            right.annotate(
                f"predicts “{SENTENCE[row]}”",
                (count - 0.4, row),
                fontsize=FONT_SIZE - 1,
                va="center",
                annotation_clip=False,
            )
    right.set_title("BERT: masked positions predict their token", fontsize=FONT_SIZE, loc="left")
    return figure


def softmax_scaling() -> "Figure":
    """Draws the attention weights of a random query over 20 random keys, with and without division by sqrt(d_k)."""
    generator = torch.Generator().manual_seed(0)
    figure = new_figure(7.0, 3.4)
    panels = figure.subplots(2, len(WIDTHS), sharex=True, sharey=True)
    for column, d_k in enumerate(WIDTHS):
        query = torch.randn(1, 1, 1, d_k, generator=generator)
        keys = torch.randn(1, 1, KEYS, d_k, generator=generator)
        for row, scaling in enumerate((1.0, d_k**-0.5)):
            module = torch.nn.Module().eval()
            weights = scaled_dot_product_attention(module, query, keys, keys, None, scaling)[1].flatten()
            axes = panels[row, column]
            axes.bar(range(1, KEYS + 1), weights.numpy(), color=COLOURS[1 - row])
            soften(axes)
            axes.set_title(f"$d_k$ = {d_k}: largest weight {weights.max():.2f}", fontsize=FONT_SIZE)
            if row == 1:
                axes.set_xlabel("key", fontsize=FONT_SIZE)
            axes.set_ylim(0, 1)
            axes.set_xticks((1, 10, 20))
    panels[0, 0].set_ylabel("softmax($q \\cdot k$)", fontsize=FONT_SIZE)
    panels[1, 0].set_ylabel("softmax($q \\cdot k \\, / \\sqrt{d_k}$)", fontsize=FONT_SIZE)
    return figure


def sinusoids() -> "Figure":
    """Draws the table of sinusoids, and the dot product of two of its rows against their distance."""
    table = SinusoidalPositions(2 * POSITIONS, MODEL_WIDTH).table.double().numpy()
    figure = new_figure(7.4, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    image = left.imshow(table[:POSITIONS], cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    left.set_title(f"the table, width {MODEL_WIDTH}", fontsize=FONT_SIZE, loc="left")
    left.set_xlabel("dimension (even: sine, odd: cosine)", fontsize=FONT_SIZE)
    left.set_ylabel("position", fontsize=FONT_SIZE)
    left.tick_params(labelsize=FONT_SIZE)
    figure.colorbar(image, ax=left, ticks=(-1, 0, 1)).ax.tick_params(labelsize=FONT_SIZE)
    distances = np.arange(-60, 61)
    for number, position in enumerate((64, 100, 180)):
        # Lines of different widths lie on one another.
        width, dashes = ((6.0, "-"), (3.0, "-"), (1.2, "--"))[number]
        right.plot(
            distances,
            table[position + distances] @ table[position],
            color=("#B7D7EC", "#E69F00", "#000000")[number],
            linewidth=width,
            linestyle=dashes,
            label=f"position {position}",
        )
    soften(right)
    right.set_title("dot product with the row at a distance", fontsize=FONT_SIZE, loc="left")
    right.set_xlabel("distance", fontsize=FONT_SIZE)
    right.set_ylim(top=80)
    right.legend(frameon=False, fontsize=FONT_SIZE - 1, loc="upper right")
    return figure


def induction_weights(tokens: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the two heads that together repeat a passage, with weights set by hand, (T, T) each.

    The first head finds the position before by its place, and copies the token there. The second one's query is the
    token of a position, its key what the first head has copied: it finds the positions behind the same token. Where
    there are none, it looks at all positions alike.

    Args:
        tokens: T tokens, of which the first occurs once: no token is before it.
    """
    count, names = len(tokens), list(dict.fromkeys(tokens))
    places = torch.eye(count)
    words = torch.eye(len(names))[[names.index(token) for token in tokens]]
    hidden = torch.zeros(count, count).masked_fill(~causal_mask(count, count).reshape(count, count), -torch.inf)
    module = torch.nn.Module().eval()

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = (part[None, None] for part in (query, key, value))
        output, weights = scaled_dot_product_attention(module, *parts, hidden, SHARPNESS)
        return output.reshape(count, -1), weights.reshape(count, count)

    copied, previous = attend(places.roll(1, dims=0), places, words)  # the query of a place is the place before
    return previous, attend(words, copied, words)[1]


def induction() -> "Figure":
    """Draws the two heads of an induction on a passage that is read twice."""
    figure = new_figure(7.4, 3.9)
    titles = "first layer: the token before", "second layer: behind the same token"
    for axes, weights, title in zip(figure.subplots(1, 2), induction_weights(REPEATED), titles, strict=True):
        fills = [[_shade(weight) for weight in row] for row in weights.tolist()]
        _draw_cells(axes, fills, REPEATED, REPEATED)
        axes.set_title(title, fontsize=FONT_SIZE, loc="left")
    return figure


def _shade(weight: float) -> tuple[float, float, float]:
    """Returns the colour of a weight from 0, white, to 1, blue."""
    from matplotlib.colors import to_rgb

    return tuple(1 - weight * (1 - part) for part in to_rgb(COLOURS[0]))


def _draw_cells(
    axes: "Axes",
    fills: list[list[Any]],
    columns: list[str],
    rows: list[str],
    signs: list[list[str]] | None = None,
    **style: Any,
) -> None:
    """Draws a matrix of coloured cells with a label for each row (query) and column (key)."""
    from matplotlib.colors import to_rgb

    axes.imshow([[to_rgb(fill) for fill in row] for row in fills], aspect="equal", interpolation="nearest")
    set_token_labels(axes, "x", columns)
    set_token_labels(axes, "y", rows)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#888888", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_ylabel("query", **text_style(["query"]))
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("key", **text_style(["key"]))
    for row, texts in enumerate(signs or ()):
        for column, text in enumerate(texts):
            axes.text(column, row, text, ha="center", va="center", fontsize=FONT_SIZE, **style)
