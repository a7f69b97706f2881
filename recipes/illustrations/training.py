"""Gradients, schedules and times, measured on models with random weights."""

import math
import time
from typing import TYPE_CHECKING

import torch

import seq2seq_scratch
from papers_to_gpt.engine.optimization import make_schedule
from papers_to_gpt.plots.line_plots import Series, draw_lines, plot_lines
from papers_to_gpt.plots.style import FONT_SIZE, add_legend, new_figure
from papers_to_gpt.settings.training import OptimizationSettings
from seq2seq_scratch import TransformerConfig, TransformerForConditionalGeneration
from seq2seq_scratch.modeling_transformer import scaled_dot_product_attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISTANCES = (1, 2, 5, 10, 15, 25, 35, 50, 70, 100)
SMALLEST = 1e-12  # gradient that is drawn
LENGTHS = (8, 32, 128, 512)
TARGET_TOKENS = 2048
REPETITIONS = 4  # the first is slower than the others


def gradient_by_distance() -> "Figure":
    """Draws the gradient of the last output for an input, against the distance between them."""
    torch.manual_seed(0)
    width, batch = 64, 128
    x = torch.randn(batch, DISTANCES[-1] + 1, width, requires_grad=True)
    matrices = torch.randn(3, width, width) / math.sqrt(width)

    def attend(x: torch.Tensor) -> tuple[torch.Tensor]:
        query, key, value = (x[:, None] @ matrix for matrix in matrices)
        module = torch.nn.Module().eval()
        return (scaled_dot_product_attention(module, query, key, value, None, width**-0.5)[0].flatten(2),)

    layers = {"tanh RNN": torch.nn.RNN(width, width, batch_first=True)}
    for bias in (0, 1, 3):
        layer = layers[f"LSTM, forget bias {bias}"] = torch.nn.LSTM(width, width, batch_first=True)
        layer.bias_ih_l0.data.chunk(4)[1].add_(bias)  # the gates are ordered input, forget, cell, output
    series = []
    for name, layer in {**layers, "self-attention": attend}.items():
        (gradient,) = torch.autograd.grad(layer(x)[0][:, -1].pow(2).sum(), x)
        norms = gradient.norm(dim=2).mean(dim=0)
        relative = [(norms[-1 - distance] / norms[-2]).item() for distance in DISTANCES]
        series.append(Series(name, DISTANCES, [value if value > SMALLEST else math.nan for value in relative]))
    figure = new_figure(7.0, 3.2)
    axes = figure.subplots()
    draw_lines(axes, series)
    axes.set_yscale("log")
    axes.set_ylim(SMALLEST, 10)
    axes.set_xlabel("distance between input and output (steps)", fontsize=FONT_SIZE)
    axes.set_ylabel("gradient norm, relative to distance 1", fontsize=FONT_SIZE)
    names = [each.name for each in series]
    add_legend(axes, names, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def gradient_by_layer() -> "Figure":
    """Draws the gradient of the feed-forward layer in each decoder layer, for post-norm and pre-norm."""
    figure = new_figure(7.0, 3.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, layers in zip(panels, (6, 18), strict=True):
        series = []
        for name, pre_norm in (("post-norm", False), ("pre-norm", True)):
            torch.manual_seed(0)
            config = TransformerConfig(
                **{"vocab_size": 1000, "d_model": 128, "dropout": 0.0, "pre_norm": pre_norm},
                **{"encoder_layers": layers, "decoder_layers": layers},
                **{"encoder_ffn_dim": 512, "decoder_ffn_dim": 512},
            )
            model = TransformerForConditionalGeneration(config)
            source, target = torch.randint(4, 1000, (2, 16, 20))
            model(source, labels=target).loss.backward()
            norms = [layer.feed_forward.outer.weight.grad.norm().item() for layer in model.model.decoder.layers]
            series.append(Series(name, range(1, layers + 1), norms))
        draw_lines(axes, series)
        axes.set_yscale("log")
        axes.set_title(f"{layers} layers", fontsize=FONT_SIZE, loc="left")
        axes.set_xlabel("decoder layer, from the input", fontsize=FONT_SIZE)
        axes.set_xticks(range(1, layers + 1, max(1, layers // 6)))
    panels[0].set_ylabel("gradient norm at initialisation", fontsize=FONT_SIZE)
    add_legend(panels[1], [each.name for each in series], frameon=False, loc="lower right")
    return figure


def learning_rates() -> "Figure":
    """Draws the learning rate of noam (Vaswani et al. 2017) and cosine (Radford et al. 2018) against the update."""
    updates = 40_000
    noam = make_schedule(
        OptimizationSettings(lr_scheduler_type="noam", learning_rate=1.0, warmup_steps=4000), updates, model_size=512
    )
    cosine = make_schedule(
        OptimizationSettings(lr_scheduler_type="cosine", learning_rate=2.5e-4, warmup_steps=2000), updates
    )
    x = range(1, updates + 1, 100)
    names = ("noam, width 512, warm-up 4000", "cosine, peak 2.5e-4, warm-up 2000")
    series = [
        Series(name, x, [rate(update) for update in x]) for name, rate in zip(names, (noam, cosine), strict=True)
    ]
    return plot_lines(series, x_label="update", y_label="learning rate", size=(6.0, 3.0), y_limits=(0, None))


def update_time() -> "Figure":
    """Draws the time of one thread for a forward and backward pass over 2048 target tokens, against the length."""
    from matplotlib.ticker import NullLocator

    vocabulary = {"vocab_size": 600, "decoder_vocab_size": 600}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    lstm = {"embedding_size": 128, "hidden_size": 224, "num_hidden_layers": 1}
    attention = {"embedding_size": 64, "hidden_size": 160, "attention_size": 128, "maxout_size": 96}
    configs = {
        "LSTM": seq2seq_scratch.RNNSeq2SeqConfig(**lstm, **vocabulary),
        "additive attention": seq2seq_scratch.BahdanauConfig(**attention, **vocabulary),
        "Transformer": TransformerConfig(d_model=128, **layers, **heads, **vocabulary),
    }
    seconds = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        model = seq2seq_scratch.TRANSLATION_MODELS[type(config)](config)
        measured = [[_seconds(model, length) for length in LENGTHS] for _ in range(REPETITIONS)]
        seconds[name] = [min(times) for times in zip(*measured, strict=True)]
    unit = seconds["LSTM"][0]
    figure = plot_lines(
        [Series(name, LENGTHS, [each / unit for each in measured]) for name, measured in seconds.items()],
        x_label="target length (tokens)",
        y_label="CPU time, relative to the LSTM at length 8",
        title=f"{TARGET_TOKENS} target tokens, forward and backward, one CPU thread",
        log_x=True,
        log_y=True,
        size=(6.0, 3.4),
    )
    (axes,) = figure.axes
    largest = max(map(max, seconds.values())) / unit
    ticks = [2.0**power for power in range(math.ceil(math.log2(largest)) + 1)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    return figure


def _seconds(model: torch.nn.Module, length: int) -> float:
    """Returns the time in which a thread computed, so that other work of the machine does not count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    source, target = torch.randint(4, 600, (2, TARGET_TOKENS // length, length))
    start = time.process_time()
    model(source, labels=target).loss.backward()
    seconds = time.process_time() - start
    torch.set_num_threads(threads)
    return seconds
