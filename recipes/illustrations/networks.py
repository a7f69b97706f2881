"""Drawings of networks and of their inputs."""

from typing import TYPE_CHECKING

import torch

from gpt1_scratch import GPT1Config, GPT1Model
from gpt1_scratch.finetuning.models import make_task_model
from gpt1_scratch.finetuning.tasks import TASKS
from gpt1_scratch.tokenization import DELIMITER, EXTRACT, START, add_task_template, train_tokenizer
from papers_to_gpt.plots.diagrams import (
    BLUE,
    GREEN,
    GREY,
    LINE,
    ORANGE,
    WHITE,
    Place,
    draw_arrow,
    draw_box,
    draw_path,
    draw_tokens,
    new_diagram,
    token_widths,
    write,
)
from papers_to_gpt.plots.style import COLOURS, FONT_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCE, TARGET = ["we", "saw", "the", "house"], ["wir", "sahen", "das", "Haus"]
CIRCLE = 0.12  # inches, the radius of a sum or product


def fixed_vector() -> "Figure":
    """Draws the encoder and the decoder unrolled in time, with the one vector between them."""
    figure, axes = new_diagram(6.7, 2.1)
    step, left, middle = 0.85, 0.6, 1.0
    encoder = [left + step * number for number in range(3)]
    decoder = [left + step * 3 + 1.2 + step * number for number in range(3)]
    for name, places, inputs, outputs in (
        ("encoder", encoder, ["$x_3$", "$x_2$", "$x_1$"], None),
        ("decoder", decoder, ["<s>", "$y_1$", "$y_2$"], ["$y_1$", "$y_2$", "</s>"]),
    ):
        for number, (place, text) in enumerate(zip(places, inputs, strict=True)):
            draw_box(axes, (place, middle), "LSTM", width=0.6, height=0.36, fill=BLUE if outputs is None else GREEN)
            write(axes, (place, 0.38), text, math=True)
            draw_arrow(axes, (place, 0.5), (place, middle - 0.18))
            if number:
                draw_arrow(axes, (place - step + 0.3, middle), (place - 0.3, middle))
            if outputs is not None:
                draw_arrow(axes, (place, middle + 0.18), (place, 1.5))
                write(axes, (place, 1.62), outputs[number], math=True)
        write(axes, (places[1], 0.14), f"{name} reads", color="#555555")
        if outputs is not None:
            write(axes, (places[1], 1.9), "decoder predicts", color="#555555")
    vector = (encoder[-1] + decoder[0]) / 2
    draw_arrow(axes, (encoder[-1] + 0.3, middle), (vector - 0.34, middle), linewidth=2)
    draw_box(axes, (vector, middle), "$(h, c)$", width=0.68, height=0.5, fill=ORANGE, math=True)
    draw_arrow(axes, (vector + 0.34, middle), (decoder[0] - 0.3, middle), linewidth=2)
    write(axes, (vector, 1.62), "all that the decoder\nknows of the source", color=COLOURS[1])
    return figure


def distances(reverse: bool, count: int) -> list[int]:
    """Returns how many steps lie between reading source word i and writing target word i, for i from 1."""
    read = [count - i if reverse else i - 1 for i in range(1, count + 1)]
    return [count + i - 1 - read[i - 1] for i in range(1, count + 1)]


def reversed_source() -> "Figure":
    """Draws lines from source words to their translations, with the source in order and reversed."""
    figure, axes = new_diagram(7.2, 3.6)
    width, gap, left = 0.7, 0.08, 0.55
    count = len(SOURCE)
    for reverse, height in ((False, 2.15), (True, 0.3)):
        found = distances(reverse, count)
        words = SOURCE[::-1] if reverse else SOURCE
        fills = [BLUE] * count + [GREEN] * count
        centres = draw_tokens(axes, left, height, [*words, *TARGET], fills=fills, widths=[width] * 2 * count, gap=gap)
        for i, distance in enumerate(found):
            end = centres[count + i]
            start = centres[count + i - distance]
            top = height + 0.135
            draw_arrow(axes, (start[0], top), (end[0], top), bend=-0.32, colour=COLOURS[i])
            # An arc of this kind is half as high as its control point.
            peak = top + 0.16 * (end[0] - start[0])
            place = ((start[0] + end[0]) / 2, peak)
            write(
                axes,
                place,
                str(distance),
                color=COLOURS[i],
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        name = "source reversed" if reverse else "source in order"
        text = f"{name}: mean distance {sum(found) / count:g}, least {min(found)}"
        write(axes, (left, height + (1.33 if reverse else 1.05)), text, ha="left")
    return figure


def gru_cell() -> "Figure":
    """Draws the candidate state of the GRU, with the reset gate before the matrix and after it."""
    figure, axes = new_diagram(7.2, 3.1)
    for left, before, title in (
        (0.1, True, "the paper and this project:  $U\\,(r \\odot s)$"),
        (3.75, False, "torch.nn.GRU:  $r \\odot (U s)$"),
    ):
        write(axes, (left + 0.1, 2.92), title, math=True, ha="left")
        rows = 2.3
        multiply, matrix = (1.05, 1.75) if before else (1.75, 1.05)
        draw_path(axes, [(left + 0.35, rows), (left + (0.93 if before else 0.83), rows)])
        write(axes, (left + 0.22, rows), "$s$", math=True)
        _operation(axes, (left + multiply, rows), "$\\odot$")
        draw_box(axes, (left + matrix, rows), "$U$", width=0.44, fill=BLUE, math=True)
        if before:
            draw_arrow(axes, (left + 1.17, rows), (left + 1.53, rows))
            draw_arrow(axes, (left + 1.97, rows), (left + 2.28, rows))
        else:
            draw_arrow(axes, (left + 1.27, rows), (left + 1.63, rows))
            draw_arrow(axes, (left + 1.87, rows), (left + 2.28, rows))
        write(axes, (left + multiply, 2.64), "$r$", math=True)
        draw_arrow(axes, (left + multiply, 2.58), (left + multiply, rows + CIRCLE))
        _operation(axes, (left + 2.4, rows), "+")
        write(axes, (left + 0.22, 1.75), "$x$", math=True)
        draw_box(axes, (left + 1.4, 1.75), "$W$", width=0.44, fill=BLUE, math=True)
        draw_arrow(axes, (left + 0.35, 1.75), (left + 1.18, 1.75))
        draw_path(axes, [(left + 1.62, 1.75), (left + 2.4, 1.75), (left + 2.4, rows - CIRCLE)])
        draw_box(axes, (left + 3.0, rows), "tanh", width=0.5, fill=GREEN)
        draw_arrow(axes, (left + 2.52, rows), (left + 2.75, rows))
        # The new state is an average of the old one and the candidate.
        low = 0.75
        write(axes, (left + 0.22, low), "$s$", math=True)
        _operation(axes, (left + 1.4, low), "$\\odot$")
        draw_arrow(axes, (left + 0.35, low), (left + 1.28, low))
        write(axes, (left + 1.4, 0.3), "$1 - z$", math=True)
        draw_arrow(axes, (left + 1.4, 0.4), (left + 1.4, low - CIRCLE))
        _operation(axes, (left + 2.2, low), "+")
        draw_arrow(axes, (left + 1.52, low), (left + 2.08, low))
        draw_arrow(axes, (left + 2.2, low - CIRCLE), (left + 2.2, 0.45))
        write(axes, (left + 2.2, 0.3), "$s'$", math=True)
        _operation(axes, (left + 3.0, low), "$\\odot$")
        draw_arrow(axes, (left + 3.0, rows - 0.15), (left + 3.0, low + CIRCLE))
        write(axes, (left + 3.06, 1.45), "$\\tilde{s}$", math=True, ha="left")
        draw_arrow(axes, (left + 2.88, low), (left + 2.32, low))
        write(axes, (left + 3.0, 0.3), "$z$", math=True)
        draw_arrow(axes, (left + 3.0, 0.4), (left + 3.0, low - CIRCLE))
    return figure


def block() -> "Figure":
    """Draws GPT-1's block: two layers, each followed by a residual sum and a layer normalisation."""
    figure, axes = new_diagram(7.05, 1.65)
    row = 0.7
    write(axes, (0.12, row), "$h_{l-1}$", math=True, ha="left")
    draw_box(axes, (1.55, row), "masked\nself-attention", width=1.05, height=0.46, fill=BLUE)
    _operation(axes, (2.5, row), "+")
    draw_box(axes, (3.15, row), "LayerNorm", width=0.8, height=0.46, fill=GREEN)
    draw_box(axes, (4.5, row), "feed-forward\n(GELU)", width=1.0, height=0.46, fill=ORANGE)
    _operation(axes, (5.45, row), "+")
    draw_box(axes, (6.1, row), "LayerNorm", width=0.8, height=0.46, fill=GREEN)
    places = [0.5, 1.02, 2.07, 2.38, 2.62, 2.75, 3.55, 4.0, 5.0, 5.33, 5.57, 5.7, 6.5, 6.72]
    for start, end in zip(places[::2], places[1::2], strict=True):
        draw_arrow(axes, (start, row), (end, row))
    write(axes, (6.76, row), "$h_l$", math=True, ha="left")
    for start, end, name in ((0.74, 2.5, "$x$"), (3.76, 5.45, "$x$")):
        draw_path(axes, [(start, row), (start, 1.3), (end, 1.3), (end, row + CIRCLE)])
        write(axes, ((start + end) / 2, 1.42), f"{name}: the residual path has no matrix", math=True, color="#555555")
    for place, text in ((1.55, "$F(x)$"), (4.5, "$F(x)$")):
        write(axes, (place, 0.3), text, math=True, color="#555555")
    for place in (2.85, 5.8):
        write(axes, (place, 0.3), "LN$(x + F(x))$", math=True, color="#555555")
    return figure


def joint_loss() -> "Figure":
    """Draws the two losses of fine-tuning over one forward pass."""
    text = ["the", "film", "was", "great"]
    tokens = [START, *text, EXTRACT]
    widths = [0.85] * len(tokens)
    figure, axes = new_diagram(6.2, 2.75)
    left = 0.25
    fills = [GREY, *[WHITE] * len(text), ORANGE]
    centres = draw_tokens(axes, left, 0.3, tokens, fills=fills, widths=widths, gap=0.1)
    across = (centres[0][0] + centres[-1][0]) / 2
    draw_box(axes, (across, 1.0), "Transformer, causal: one forward pass", width=5.65, height=0.4, fill=BLUE)
    for number, (place, _) in enumerate(centres):
        draw_arrow(axes, (place, 0.44), (place, 0.8))
        last = number == len(tokens) - 1
        if last:
            draw_arrow(axes, (place, 1.2), (place, 1.5), colour=COLOURS[1])
            draw_box(axes, (place, 1.65), "$W_y$", width=0.5, fill=ORANGE, math=True)
            draw_arrow(axes, (place, 1.8), (place, 2.05), colour=COLOURS[1])
            write(axes, (place, 2.18), "$P(y \\mid x)$", math=True, color=COLOURS[1])
        else:
            draw_arrow(axes, (place, 1.2), (place, 1.5), colour=COLOURS[0])
            write(axes, (place, 1.64), tokens[number + 1], color=COLOURS[0])
    write(
        axes, (centres[2][0], 2.18), "$L_1$: the language model predicts each next token", math=True, color=COLOURS[0]
    )
    write(axes, (centres[-1][0] + 0.12, 2.52), "$L_2$: the label", math=True, color=COLOURS[1])
    write(axes, (centres[1][0], 2.52), "$L_3 = L_2 + \\lambda L_1$", math=True)
    return figure


def input_transformations() -> "Figure":
    """Draws figure 1 of Radford et al. 2018 with this project's special tokens."""
    parts = {
        "classification": [["text"]],
        "entailment": [["premise", "hypothesis"]],
        "similarity": [["text 1", "text 2"], ["text 2", "text 1"]],
        "multiple choice": [["context", f"answer {number}"] for number in (1, 2, 3)],
    }
    figure, axes = new_diagram(8.0, 3.4)
    size = FONT_SIZE - 1
    special = dict(zip((START, DELIMITER, EXTRACT), token_widths([START, DELIMITER, EXTRACT], size), strict=True))
    height, left, body, linear = 3.2, 1.18, 5.78, 6.87
    for kind, rows in parts.items():
        heights = []
        for row in rows:
            tokens = [START, row[0], *([DELIMITER, row[1]] if row[1:] else []), EXTRACT]
            widths = [special.get(token, 0.78) for token in tokens]
            fills = [GREY if token in special else WHITE for token in tokens]
            fills[-1] = ORANGE
            draw_tokens(axes, left, height, tokens, fills=fills, widths=widths, size=size)
            end = left + sum(widths) + 0.04 * (len(tokens) - 1)
            draw_arrow(axes, (end, height), (body - 0.43, height))
            draw_box(axes, (body, height), "Transformer", width=0.86, height=0.27, fill=BLUE, fontsize=size)
            heights.append(height)
            height -= 0.42
        middle = sum(heights) / len(heights)
        write(axes, (0.08, middle), kind, ha="left")
        if kind == "similarity":
            for each in heights:
                draw_path(axes, [(body + 0.43, each), (6.36, each), (6.36, middle + (0.1 if each > middle else -0.1))])
            _operation(axes, (6.36, middle), "+")
            draw_arrow(axes, (6.48, middle), (linear - 0.27, middle))
            _linear(axes, (linear, middle), size)
            draw_arrow(axes, (linear + 0.27, middle), (7.27, middle))
        else:
            for each in heights:
                draw_arrow(axes, (body + 0.43, each), (linear - 0.27, each))
                _linear(axes, (linear, each), size)
                draw_arrow(axes, (linear + 0.27, each), (7.27, each))
        span = heights[0] - heights[-1] if kind == "multiple choice" else 0.0
        draw_box(axes, (7.6, middle), "softmax", width=0.66, height=0.27 + span, fill=GREEN, fontsize=size)
        height -= 0.12
    return figure


def transferred_parts(blocks: int) -> dict[str, list[bool]]:
    """Finds out which parts `make_task_model` takes from a pre-trained model, for each number of transferred blocks.

    Returns:
        For each start, whether the embeddings and each block are equal to those of the pre-trained model.
    """
    tokenizer = train_tokenizer(["a b"], merges=1, model_max_length=8)
    torch.manual_seed(0)
    backbone = GPT1Model(
        GPT1Config(
            **{"vocab_size": len(tokenizer), "max_position_embeddings": 8, "hidden_size": 8},
            **{"num_hidden_layers": blocks, "num_attention_heads": 1},
        )
    )
    starts = {"from scratch": {"from_scratch": True}}
    starts |= {
        f"{count} blocks" if count != 1 else "1 block": {"transferred_layers": count} for count in range(blocks)
    }
    starts["all blocks"] = {}
    found = {}
    for name, settings in starts.items():
        model = make_task_model(
            TASKS["stories_acceptability"], backbone, add_task_template(tokenizer), **settings
        ).model
        pairs = [(model.positions_embed, backbone.positions_embed)]
        pairs += zip(model.blocks, backbone.blocks, strict=True)
        found[name] = [torch.equal(_weights(ours), _weights(theirs)) for ours, theirs in pairs]
    return found


def _weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in module.parameters() if weight.dim() > 1])


def transferred_blocks() -> "Figure":
    """Draws which parts of the model start from pre-training in figure 2 (left) of the paper, as the code does it."""
    found = transferred_parts(4)
    figure, axes = new_diagram(7.2, 3.0)
    step, width, bottom, rise = 1.12, 0.98, 0.55, 0.36
    for column, (name, parts) in enumerate(found.items()):
        centre = 0.65 + column * step
        write(axes, (centre, 0.22), name)
        labels = ["embeddings", *(f"block {number}" for number in range(1, len(parts))), "$W_y$"]
        for row, (label, is_kept) in enumerate(zip(labels, [*parts, False], strict=True)):
            fill = BLUE if is_kept else GREY
            place = (centre, bottom + row * rise)
            draw_box(axes, place, label, width=width, height=0.28, fill=fill, math=label.startswith("$"))
    top = bottom + len(labels) * rise + 0.12
    for left, fill, text in ((0.16, BLUE, "from pre-training"), (1.75, GREY, "drawn at random")):
        draw_box(axes, (left + 0.12, top), width=0.24, height=0.18, fill=fill)
        write(axes, (left + 0.32, top), text, ha="left")
    return figure


def one_vector_or_all() -> "Figure":
    """Draws how the past reaches a position: through an LSTM's state, step by step, and by attention, directly."""
    figure, axes = new_diagram(7.2, 2.55)
    step, middle, count = 0.62, 1.15, 5
    for left, is_lstm, title in (
        (0.45, True, "LSTM: through every state in between"),
        (4.15, False, "attention: every position directly"),
    ):
        write(axes, (left - 0.2, 2.35), title, ha="left")
        places = [left + step * number for number in range(count)]
        for number, place in enumerate(places):
            last = number == count - 1
            text, fill = (f"$h_{number + 1}$", GREEN) if is_lstm else (f"$v_{number + 1}$", BLUE)
            draw_box(axes, (place, middle), text, width=0.4, height=0.36, fill=fill, math=True)
            write(axes, (place, 0.32), f"$x_{number + 1}$", math=True)
            draw_arrow(axes, (place, 0.46), (place, middle - 0.18))
            if is_lstm:
                colour = COLOURS[1] if number else LINE
                if number:
                    draw_arrow(axes, (place - step + 0.2, middle), (place - 0.2, middle), colour=colour, linewidth=1.6)
                if last:
                    draw_arrow(axes, (place, middle + 0.18), (place, 1.85))
            else:
                draw_arrow(
                    axes,
                    (place, middle + 0.18),
                    (places[-1] - 0.08 * (count - 1 - number), 1.85),
                    colour=COLOURS[1],
                    linewidth=1.6,
                )
        write(axes, (places[-1], 2.0), f"$h_{count}$", math=True)
    return figure


def _operation(axes: "Axes", centre: Place, text: str) -> None:
    """Draws a circle with a sign."""
    from matplotlib.patches import Circle

    axes.add_patch(Circle(centre, CIRCLE, facecolor=WHITE, edgecolor=LINE, linewidth=0.8))
    write(axes, centre, text, math=True)


def _linear(axes: "Axes", centre: Place, size: float) -> None:
    draw_box(axes, centre, "linear", width=0.54, height=0.27, fill=ORANGE, fontsize=size)
