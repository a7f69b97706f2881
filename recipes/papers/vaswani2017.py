"""Vaswani et al. 2017: Attention Is All You Need (arXiv 1706.03762)."""

import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from papers_to_gpt.papers.encoder_heads import FARTHEST, describe_heads, encoder_attention
from papers_to_gpt.papers.experiment import (
    VALIDATION_LOSS,
    Chart,
    Experiment,
    Finding,
    Table,
    Verdict,
    all_hold,
    by_seed,
    combine,
    compare,
    is_above,
    mean_and_error,
    over_seeds,
)
from papers_to_gpt.papers.timing import layer_seconds
from papers_to_gpt.papers.translators import (
    MODELS,
    TRANSFORMER,
    flops_of,
    load,
    make_groups,
    runs_of,
    test_pairs,
    training_curves,
)
from papers_to_gpt.papers.workbench import Workbench
from papers_to_gpt.plots.attention_heads import plot_heads
from papers_to_gpt.plots.line_plots import Series
from papers_to_gpt.plots.positions import plot_positions
from papers_to_gpt.plots.tokens import readable
from papers_to_gpt.settings.wording import counted
from seq2seq_scratch import TransformerConfig
from seq2seq_scratch.modeling_transformer import MultiHeadAttention, sinusoids
from seq2seq_scratch.tokenization import WORD_START

PAPER = "vaswani2017"
LENGTHS, WIDTHS = (16, 64, 256, 1024), (64, 256)
ATTENTION_LAYER, RECURRENT_LAYER = "self-attention", "recurrent"


def layer_cost(bench: Workbench) -> Finding:
    """Table 1: the time of one layer, forward and backward, against the length and the width."""
    times = {}
    for width in WIDTHS:
        config = TransformerConfig(vocab_size=8, d_model=width, dropout=0.0)
        config._attn_implementation = "sdpa"
        layers = {
            ATTENTION_LAYER: MultiHeadAttention(config, heads=4),
            RECURRENT_LAYER: nn.LSTM(width, width, batch_first=True),
        }
        for length in LENGTHS:
            for name, layer in layers.items():
                times[name, width, length] = 1000 * layer_seconds(layer, torch.randn(4, length, width))
    rows = [
        (
            *(width, length, times[ATTENTION_LAYER, width, length], times[RECURRENT_LAYER, width, length]),
            *(f"1, {length}", f"1, {length}"),
        )
        for width in WIDTHS
        for length in LENGTHS
    ]
    growth = {
        name: math.log(times[name, WIDTHS[0], LENGTHS[-1]] / times[name, WIDTHS[0], LENGTHS[-2]])
        / math.log(LENGTHS[-1] / LENGTHS[-2])
        for name in (ATTENTION_LAYER, RECURRENT_LAYER)
    }
    shorter = [(width, length) for width in WIDTHS for length in LENGTHS if length < width]
    faster = sum(times[ATTENTION_LAYER, *each] < times[RECURRENT_LAYER, *each] for each in shorter)
    return Finding(
        method="One layer reads four sequences, forward and backward, on the CPU; the median of several repetitions "
        "is taken. Self-attention is `MultiHeadAttention` with 4 heads, the recurrent layer torch's LSTM.",
        table=Table(
            (
                *("width d", "length n", "self-attention, ms", "recurrent, ms"),
                *("sequential operations of the two", "longest path of the two"),
            ),
            rows,
        ),
        paper=Table(
            ("layer", "complexity", "sequential operations", "longest path"),
            [
                ("self-attention", "O(n^2 d)", "O(1)", "O(1)"),
                ("recurrent", "O(n d^2)", "O(n)", "O(n)"),
                ("convolutional", "O(k n d^2)", "O(1)", "O(log_k(n))"),
            ],
        ),
        verdict=Verdict(
            faster == len(shorter),
            f"Self-attention is faster in {faster} of the {len(shorter)} cases in which n is below d. From n = "
            f"{LENGTHS[-2]} to {LENGTHS[-1]} at d = {WIDTHS[0]} its time grows like n^{growth[ATTENTION_LAYER]:.1f}, "
            f"that of the recurrent layer like n^{growth[RECURRENT_LAYER]:.1f}.",
            numbers={"faster": faster, "cases": len(shorter), "exponents": growth},
        ),
        charts=[
            Chart(
                "time_by_length",
                "length n",
                "forward and backward, ms",
                [
                    Series(f"{name}, d {width}", LENGTHS, [times[name, width, length] for length in LENGTHS])
                    for name in (ATTENTION_LAYER, RECURRENT_LAYER)
                    for width in WIDTHS
                ],
                options={"log_x": True, "log_y": True},
            )
        ],
        notes=[
            "Whatever the length, self-attention takes one step and relates any two positions directly. The recurrent "
            "layer takes n steps one after the other, and the path between two positions is as long as their distance."
        ],
    )


def score_by_flops(bench: Workbench) -> Finding:
    """Table 2: the score of each translator against the floating-point operations of its training."""
    runs = {model: runs_of(bench, model) for model in MODELS}
    make_groups(bench, runs)
    rows, points = [], {}
    for model, each in runs.items():
        scores = [bench.results(run)["test_sacrebleu"] for run in each]
        flops = [flops_of(bench, run) for run in each]
        points[model] = statistics.mean(flops), scores
        rows.append(
            (
                MODELS[model],
                f"{statistics.mean(flops):.2e}",
                statistics.mean(scores),
                statistics.mean(bench.results(run)["train_seconds"] for run in each),
            )
        )
    rival = max(
        (model for model in MODELS if model != TRANSFORMER), key=lambda model: statistics.mean(points[model][1])
    )
    least = min(MODELS, key=lambda model: points[model][0])
    verdict = compare(
        points[TRANSFORMER][1],
        points[rival][1],
        ("the Transformer", f"the better of the others, the {MODELS[rival]} model"),
        score="BLEU",
        digits=1,
    )
    return Finding(
        method="All three translators are trained by their presets with the changes of the scale, which the commands "
        "show. The floating-point operations of training are estimated as 6 for each weight of a matrix and token "
        "that it multiplies (Kaplan et al. 2020); sources count as long as targets. The paper multiplies the time of "
        "training with what its GPUs sustain.",
        table=Table(("model", "training FLOPs", "test BLEU", "seconds of training"), rows),
        paper=Table(
            ("model", "training FLOPs", "BLEU, En-De"),
            [
                ("GNMT + RL", "2.3e19", 24.6),
                ("Transformer, base", "3.3e18", 27.3),
                ("Transformer, big", "2.3e19", 28.4),
            ],
            digits=1,
        ),
        verdict=replace(
            verdict,
            holds=all_hold([least == TRANSFORMER, verdict.holds]),
            reason=f"{verdict.reason} Their training takes {points[TRANSFORMER][0]:.1e} and {points[rival][0]:.1e} "
            f"FLOPs; the least is that of the {MODELS[least]} model.",
        ),
        charts=[
            Chart(
                "flops",
                "training FLOPs",
                "test BLEU",
                [over_seeds(MODELS[model], [flops], [scores]) for model, (flops, scores) in points.items()],
                options={"log_x": True},
            )
        ],
    )


def table_3(scale: str) -> dict[str, dict[str, Any]]:
    """Returns what each row of table 3 changes in the preset of the scale.

    The presets have 4 heads, and 2 layers, d 128, d_ff 256 and dropout 0.1 (`numbers`), or 4 layers, d 256, d_ff 512
    and dropout 0.3 (`multi30k`).
    """
    few, many, width, inner, dropout = (1, 3, 64, 1024, 0.3) if scale == "small" else (2, 6, 128, 2048, 0.1)
    return {
        "base": {},
        "A: 1 head": {"encoder_attention_heads": 1, "decoder_attention_heads": 1},
        "A: 16 heads": {"encoder_attention_heads": 16, "decoder_attention_heads": 16},
        "B: d_k 8": {"d_k": 8},
        f"C: {counted(few, 'layer')}": {"encoder_layers": few, "decoder_layers": few},
        f"C: {many} layers": {"encoder_layers": many, "decoder_layers": many},
        f"C: d_model {width}": {"d_model": width},
        f"C: d_ff {inner}": {"encoder_ffn_dim": inner, "decoder_ffn_dim": inner},
        "D: no dropout": {"dropout": 0.0},
        f"D: dropout {dropout}": {"dropout": dropout},
        "D: no smoothing": {"label_smoothing_factor": 0.0},
        "E: learned positions": {"position_embedding_type": "learned"},
    }


def variations(bench: Workbench) -> Finding:
    """Table 3: what changes of the architecture do to perplexity and score."""
    runs = {name: runs_of(bench, TRANSFORMER, **changes) for name, changes in table_3(bench.scale).items()}
    make_groups(bench, runs, may_diverge=True)
    perplexities = {name: bench.losses(each, "eval_perplexity") for name, each in runs.items()}
    # A run that diverged has no translations.
    scores = {name: [bench.results(run).get("test_sacrebleu", 0.0) for run in each] for name, each in runs.items()}
    return Finding(
        method="Each row changes one setting of the same Transformer. All are trained with the same updates.",
        table=Table(
            ("row", "validation perplexity", "test BLEU"),
            [(name, statistics.mean(perplexities[name]), statistics.mean(scores[name])) for name in runs],
            digits=3,
        ),
        paper=Table(
            ("row", "perplexity", "BLEU"),
            [
                ("base", 4.92, 25.8),
                ("A: 1 head", 5.29, 24.9),
                ("A: 16 heads", 4.91, 25.8),
                ("B: d_k 16", 5.16, 25.1),
                ("C: 2 of 6 layers", 6.11, 23.7),
                ("C: 8 layers", 4.88, 25.5),
                ("C: d_model 256", 5.75, 24.5),
                ("C: d_ff 4096", 4.75, 26.2),
                ("D: no dropout", 5.77, 24.6),
                ("D: dropout 0.2", 4.95, 25.5),
                ("D: no smoothing", 4.67, 25.3),
                ("E: learned positions", 4.92, 25.7),
            ],
        ),
        verdict=compare(
            perplexities["base"],
            perplexities["A: 1 head"],
            ("4 heads", "one head"),
            score="Perplexity",
            lower_is_better=True,
            digits=3,
        ),
        charts=[
            Chart(
                "perplexities",
                "",
                "validation perplexity",
                [over_seeds("perplexity", list(runs), list(perplexities.values()))],
                kind="bars",
                options={"number_format": "{:.3f}", "size": (8.0, 4.5)},
            )
        ],
    )


EQUAL_BLEU = 1  # a difference below which two kinds of positions count as equally good


def positions(bench: Workbench) -> Finding:
    """Section 3.5: sinusoids, learned positions and none, and how similar positions are to each other."""
    kinds = ("sinusoidal", "learned", "absent")
    runs = {kind: runs_of(bench, TRANSFORMER, position_embedding_type=kind) for kind in kinds[1:]}
    runs["sinusoidal"] = runs_of(bench, TRANSFORMER)  # by default, as in the other experiments
    make_groups(bench, runs)
    scores = {kind: [bench.results(run)["test_sacrebleu"] for run in each] for kind, each in runs.items()}
    perplexities = {
        kind: statistics.mean(bench.results(run)["eval_perplexity"] for run in each) for kind, each in runs.items()
    }
    table = sinusoids(64, 128).numpy()
    similarity = table @ table.T
    spread = max(float(np.ptp(np.diagonal(similarity, offset))) for offset in range(0, 32))
    verdict = combine(
        compare(scores["sinusoidal"], scores["absent"], ("sinusoids", "no positions"), score="BLEU", digits=1),
        Verdict(
            is_above([a - b for a, b in zip(scores["sinusoidal"], scores["learned"], strict=True)], -EQUAL_BLEU),
            f"With learned positions it is {mean_and_error(scores['learned'])}.",
            len(bench.seeds),
            {"BLEU, learned positions": by_seed(scores["learned"])},
        ),
    )
    return Finding(
        method="The same Transformer is trained with sinusoids, with learned positions and with none. The similarity "
        "of two positions is the product of their sinusoids, in the picture divided by their lengths.",
        table=Table(
            ("positions", "validation perplexity", "test BLEU"),
            [(kind, perplexities[kind], statistics.mean(scores[kind])) for kind in kinds],
        ),
        paper=Table(("positions", "perplexity", "BLEU"), [("sinusoidal", 4.92, 25.8), ("learned", 4.92, 25.7)]),
        verdict=replace(
            verdict,
            reason=f"{verdict.reason} Products of sinusoids at one distance differ by at most {spread:.0e}, wherever "
            "the two positions are.",
            numbers={**verdict.numbers, "largest difference of products": spread},
        ),
        pictures={"positions": lambda: plot_positions(table)},
        notes=[
            "A decoder without positions still knows some order, because its mask shows each position a longer "
            "prefix. The encoder then sees a set."
        ],
    )


def schedule(bench: Workbench) -> Finding:
    """Section 5.3: the learning rate with and without warm-up, for normalization after and before each sub-layer."""
    updates = {"small": 100, "multi30k": 300}[bench.scale]  # of warm-up
    variants = {
        f"{'pre-norm' if pre_norm else 'post-norm'}, {'warm-up' if warmup else 'no warm-up'}": {
            "pre_norm": pre_norm,
            "warmup_steps": warmup,
        }
        for pre_norm in (False, True)
        for warmup in (updates, 0)
    }
    runs = {name: runs_of(bench, TRANSFORMER, **changes) for name, changes in variants.items()}
    make_groups(bench, runs, may_diverge=True)
    losses = {name: bench.losses(each) for name, each in runs.items()}
    # A run may diverge before the first line of its log.
    logs = {name: log for name, each in runs.items() if (log := bench.log(each[0]))}
    return Finding(
        method="The Transformer is trained with and without warm-up of the learning rate, and with normalization "
        "after each sub-layer, as in the paper, and before it. The curves show the first seed; the loss of training "
        "has label smoothing, that of validation does not.",
        table=Table(
            ("variant", VALIDATION_LOSS),
            [(name, statistics.mean(each)) for name, each in losses.items()],
            digits=3,
        ),
        verdict=compare(
            losses["post-norm, warm-up"],
            losses["post-norm, no warm-up"],
            ("warm-up", "the full rate from the start"),
            score="Validation loss of the post-norm Transformer",
            lower_is_better=True,
            digits=3,
        ),
        pictures={"training_curves": lambda: training_curves(logs)} if logs else {},
    )


ON_ONE_POSITION, SPREAD = 0.5, 2
WORDS_OF_PICTURE = 15


def heads(bench: Workbench) -> Finding:
    """Figures 3 to 5: heads that look far, that look at a neighbour, and that specialise."""
    translators = [load(folder) for folder in bench.make(*runs_of(bench, TRANSFORMER))]
    sources, _ = test_pairs(bench)
    long = sorted(sources, key=lambda source: (-len(source.split()), source))[:: max(1, len(sources) // 100)][:50]
    attention = [encoder_attention(each, long) for each in translators]
    described = [describe_heads(each) for each in attention]
    most = [max(share for _, _, share, _ in found.values()) for found in described]
    far = [[distance for distance, *_ in found.values()] for found in described]
    spread = [max(each) / max(min(each), 1e-12) for each in far]
    # The paper draws one sentence; this one fits a picture.
    shown = min(range(len(long)), key=lambda index: abs(len(long[index].split()) - WORDS_OF_PICTURE))
    tokenizer = translators[0].source_tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(long[shown]).input_ids)
    tokens = readable(tokens, tokenizer.all_special_tokens, word_start=WORD_START)
    rows = [(f"{layer}.{head}", *values) for (layer, head), values in sorted(described[0].items())]
    fixed = [name for name, *_, share, _ in rows if share > ON_ONE_POSITION]
    return Finding(
        method=f"The attention of every head of the encoder is read off for {len(long)} test sentences of the longer "
        "half. For each head: the mean distance that it looks, the relative position with the most attention, at most "
        f"{FARTHEST} tokens away, the attention there, and the entropy of its weights. Table and pictures show the "
        "first seed.",
        table=Table(
            ("layer.head", "mean distance, tokens", "relative position", "attention there", "entropy, bits"),
            rows,
        ),
        verdict=Verdict(
            all_hold([is_above(most, ON_ONE_POSITION), is_above(spread, SPREAD)]),
            f"With the first seed, {len(fixed)} of {len(rows)} heads put more than {100 * ON_ONE_POSITION:.0f} % of "
            f"their attention on one relative position{' (' + ', '.join(fixed) + ')' if fixed else ''}, and their "
            f"mean distances reach from {min(far[0]):.1f} to {max(far[0]):.1f} tokens. Over all seeds, the largest "
            f"attention on one relative position is {mean_and_error([100 * each for each in most], 0)} %, and the "
            f"largest mean distance {mean_and_error(spread)} times the smallest.",
            len(translators),
            {
                "heads on one position": len(fixed),
                "attention on one position, %": by_seed([100 * each for each in most]),
                "largest distance, times the smallest": by_seed(spread),
            },
        ),
        charts=[
            Chart(
                "distances",
                "layer.head",
                "mean distance, tokens",
                [Series("encoder", [row[0] for row in rows], [row[1] for row in rows])],
                kind="bars",
            )
        ],
        pictures={
            f"heads_layer_{layer}": lambda weights=weights: plot_heads(weights, tokens, tokens)
            for layer, weights in enumerate(attention[0][shown])
        },
    )


BOTH = ("small", "multi30k")
EXPERIMENTS = [
    Experiment(
        "positions",
        PAPER,
        "section 3.5, Table 3 row E",
        "Positions make the order of words known, and sinusoids do so as well as learned ones.",
        "It holds if the test BLEU is higher with sinusoids than without positions, and with learned ones not higher "
        f"by {EQUAL_BLEU} or more.",
        positions,
        minutes=3,
        unless={
            "small": "A likely cause, not tested: half of the test lists are longer than any in training, so the "
            "scores depend on lengths that no model has seen. The scale multi30k has lengths as in training."
        },
        core=True,
        scales=BOTH,
    ),
    Experiment(
        "layer_cost",
        PAPER,
        "Table 1",
        "A layer of self-attention is faster than a recurrent one if the sequence is shorter than the layer is wide.",
        "It holds if it is faster in every such case that is measured.",
        layer_cost,
        minutes=1,
        unless={"small": "In small layers the calls cost more than the products, which the paper counts."},
        core=True,
    ),
    Experiment(
        "schedule",
        PAPER,
        "section 5.3",
        "The Transformer needs a learning rate that warms up.",
        "It holds if the validation loss of the post-norm Transformer is lower with warm-up than without.",
        schedule,
        minutes=6,
        unless={
            scale: f"A likely cause, not tested: {layers} layers are shallow enough to train either way; the paper's "
            "have six."
            for scale, layers in (("small", "two"), ("multi30k", "four"))
        },
        scales=BOTH,
    ),
    Experiment(
        "score_by_flops",
        PAPER,
        "Table 2",
        "The Transformer reaches a better score than recurrent models, for less training.",
        "It holds if the Transformer has both the highest test BLEU and the fewest floating-point operations.",
        score_by_flops,
        minutes=5,
        unless={
            "small": "A likely cause, not tested: half of the test lists are longer than any in training, so the "
            "scores depend on lengths that no model has seen. On Multi30k the Transformer has the best score: "
            "RESULTS.md, T1 to T3."
        },
        scales=BOTH,
    ),
    Experiment(
        "variations",
        PAPER,
        "Table 3",
        "Several heads are better than one.",
        "It holds if the validation perplexity of the base, with 4 heads, is lower than that with one head.",
        variations,
        minutes=20,
        unless={
            "small": "A likely cause, not tested: words of a list relate to one word only, those of a text to "
            "several. The scale multi30k has text."
        },
        scales=BOTH,
    ),
    Experiment(
        "heads",
        PAPER,
        "Figures 3 to 5",
        "Heads look at different things: some at a neighbour, some far away.",
        f"It holds if a head of the encoder puts more than {100 * ON_ONE_POSITION:.0f} % of its attention on one "
        f"relative position, and the largest mean distance of a head is more than {SPREAD} times the smallest.",
        heads,
        minutes=1,
        unless={
            "small": "A likely cause, not tested: two layers that learn lists of numbers, in which a word relates to "
            "one word only, have little to specialise in; the paper's figures are of the fifth of six layers, and of "
            "sentences. The scale multi30k has four layers and sentences."
        },
        core=True,
        scales=BOTH,
    ),
]
