"""Why Transformers replaced recurrent networks: long range, parallel training, gradients, scaling."""

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from papers_to_gpt.papers.experiment import (
    VALIDATION_LOSS,
    Chart,
    Experiment,
    Finding,
    Table,
    Verdict,
    all_hold,
    by_seed,
    is_above,
    loss_falls,
    mean_and_error,
    over_seeds,
)
from papers_to_gpt.papers.language_models import PRESETS, pretraining_data
from papers_to_gpt.papers.language_models import TRANSFORMER as GPT1
from papers_to_gpt.papers.recall_lists import (
    DISTANCES,
    LETTERS,
    LETTERS_TO_RECALL,
    letters_of,
    recalled,
    write_recall,
)
from papers_to_gpt.papers.timing import median_seconds
from papers_to_gpt.papers.translators import (
    ATTENTION,
    LSTM,
    MODELS,
    TRANSFORMER,
    Translator,
    load,
    make_groups,
    run_of,
    runs_of,
    scaled_widths,
    test_hypotheses,
    test_pairs,
)
from papers_to_gpt.papers.workbench import Run, Workbench, count_weights
from papers_to_gpt.plots.line_plots import Series
from seq2seq_scratch.encoding import encode_sources, pad_right

PAPER = "why_transformers"

RECALL_SIZES: dict[str, dict[str, Any]] = {
    LSTM: {"embedding_size": 32, "hidden_size": 64, "num_hidden_layers": 1, "reverse_source": False},
    ATTENTION: {"embedding_size": 32, "hidden_size": 64, "attention_size": 32, "maxout_size": 32},
    TRANSFORMER: {
        "d_model": 64,
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 128),
    },
}
RECALL = {
    **{"tokenizer_type": "word", "vocab_size": 300, "max_tokens_per_batch": 4096, "max_steps": 1000},
    **{"eval_steps": 200, "warmup_steps": 50, "num_beams": 1, "length_penalty": 1.0, "max_new_tokens": 8},
}
AHEAD = LOST = 10  # percentage points: of the Transformer before the LSTM, and of what it may lose with distance


def long_range(bench: Workbench) -> Finding:
    """Accuracy against the distance between what must be recalled and the end of the sequence."""
    sizes = {"train_size": 140, "test_size_of_distance": 2} if bench.is_trial else {}
    data = write_recall(bench.data_folder / "recall", **sizes)
    runs = {
        model: [
            Run(
                "train_translation",
                f"numbers/{model}",
                data | RECALL | RECALL_SIZES[model] | {"seed": seed},
            )
            for seed in bench.seeds
        ]
        for model in MODELS
    }
    bench.make(*(run for each in runs.values() for run in each))
    references = letters_of(data["test_file"])
    accuracy = {
        model: [
            [recalled(test_hypotheses(bench.path(run)), references)[index] for run in each]
            for index in range(len(DISTANCES))
        ]
        for model, each in runs.items()
    }
    rows = [
        (distance, *(statistics.mean(accuracy[model][index]) for model in MODELS))
        for index, distance in enumerate(DISTANCES)
    ]
    near, far = ({model: statistics.mean(accuracy[model][index]) for model in MODELS} for index in (0, -1))
    chance = 100 / len(LETTERS)
    ahead = [a - b for a, b in zip(accuracy[TRANSFORMER][-1], accuracy[LSTM][-1], strict=True)]
    kept = [a - b for a, b in zip(accuracy[TRANSFORMER][-1], accuracy[TRANSFORMER][0], strict=True)]
    holds = all_hold([is_above(ahead, AHEAD), is_above(kept, -LOST)])
    if holds and near[LSTM] < 2 * chance:
        holds = None  # what has never been learned cannot be forgotten
    return Finding(
        method=f"A source has {LETTERS_TO_RECALL} letters and then digits that mean nothing; the letters are to be "
        "recalled. Small models are trained on all distances together with the same number of updates.",
        table=Table(("digits between", *MODELS.values()), rows, digits=1),
        verdict=Verdict(
            holds,
            f"With {DISTANCES[-1]} digits between, "
            + ", ".join(f"{far[model]:.1f} % ({MODELS[model]})" for model in MODELS)
            + f" of the letters are right, and with {DISTANCES[0]} "
            + ", ".join(f"{near[model]:.1f} %" for model in MODELS)
            + f"; by chance it is {chance:.1f} %.",
            len(bench.seeds),
            {"ahead": by_seed(ahead), "kept": by_seed(kept), "chance, %": chance},
        ),
        charts=[
            Chart(
                "accuracy",
                "digits between the letters and the end",
                "right letters, %",
                [over_seeds(MODELS[model], DISTANCES, accuracy[model]) for model in MODELS],
                options={"log_x": True, "y_limits": (0, 105)},
            )
        ],
    )


TOKENS_OF_BATCH = 2048
TRAINING_LENGTHS = (8, 32, 128, 512)
LENGTH_OF_BATCHES, BATCHES = 32, (1, 4, 16, TOKENS_OF_BATCH // 32)


def parallel_training(bench: Workbench) -> Finding:
    """Training speed at a fixed number of tokens in a batch, from many short sequences to few long ones, and at a
    fixed length in batches of different sizes."""
    shapes = {(TOKENS_OF_BATCH // length, length) for length in TRAINING_LENGTHS}
    shapes |= {(batch, LENGTH_OF_BATCHES) for batch in BATCHES}  # B, T
    measured: dict[str, dict[tuple[int, int], float]] = {}
    for model in MODELS:
        (folder,) = bench.make(run_of(bench, model, bench.seeds[0]))
        translator = load(folder).model.train()
        measured[model] = {
            shape: math.prod(shape) / median_seconds(partial(_training_step, translator, *shape), repetitions=3)
            for shape in sorted(shapes)
        }
    speeds = {
        model: [found[TOKENS_OF_BATCH // length, length] for length in TRAINING_LENGTHS]
        for model, found in measured.items()
    }
    ratio = {model: values[-1] / values[0] for model, values in speeds.items()}
    return Finding(
        method=f"A training step, forward and backward, of {TOKENS_OF_BATCH} tokens on each side is timed with "
        f"sequences of different lengths, and one of up to {BATCHES[-1]} sequences of {LENGTH_OF_BATCHES} tokens, on "
        "the CPU in fp32. The models are those of the other experiments.",
        table=Table(
            ("tokens in a sequence", "sequences", *(f"{name}, tokens/s" for name in MODELS.values())),
            [
                (length, batch, *(measured[model][batch, length] for model in MODELS))
                for length, batch in sorted((length, batch) for batch, length in shapes)
            ],
            digits=0,
        ),
        verdict=Verdict(
            ratio[TRANSFORMER] > max(ratio[LSTM], ratio[ATTENTION]),
            f"With sequences of {TRAINING_LENGTHS[-1]} tokens, tokens per second are "
            + ", ".join(f"{ratio[model]:.2f} ({MODELS[model]})" for model in MODELS)
            + f" of those with {TRAINING_LENGTHS[0]}.",
            numbers={MODELS[model]: ratio[model] for model in MODELS},
        ),
        charts=[
            Chart(
                "tokens_per_second",
                "tokens in a sequence",
                "tokens per second",
                [Series(MODELS[model], TRAINING_LENGTHS, speeds[model]) for model in MODELS],
                options={"log_x": True, "log_y": True},
            ),
            Chart(
                "tokens_per_second_by_batch",
                f"sequences of {LENGTH_OF_BATCHES} tokens in a batch",
                "tokens per second",
                [
                    Series(MODELS[model], BATCHES, [found[batch, LENGTH_OF_BATCHES] for batch in BATCHES])
                    for model, found in measured.items()
                ],
                options={"log_x": True, "log_y": True},
            ),
        ],
    )


def _training_step(model: PreTrainedModel, batch: int, length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 200, (batch, length), generator=generator)
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()


def gradients(bench: Workbench) -> Finding:
    """The gradient of the last prediction with respect to each position of the source, before and after training."""
    runs = {model: runs_of(bench, model, **({"reverse_source": False} if model == LSTM else {})) for model in MODELS}
    make_groups(bench, runs)
    sources, references = test_pairs(bench)
    chosen = sorted(range(len(sources)), key=lambda index: (-len(sources[index].split()), index))[:32]
    pairs = [sources[index] for index in chosen], [references[index] for index in chosen]
    shares: dict[tuple[str, str], list[np.ndarray]] = {}  # by model and state: (PARTS,) for each seed
    for model, each in runs.items():
        for seed, run in zip(bench.seeds, each, strict=True):
            trained = load(bench.path(run))
            config = trained.model.config
            for state, weights in (
                (PAPER_START, _untrained(config, seed, **PAPER_INITIALIZERS.get(model, {}))),
                (PRESET_START, _untrained(config, seed)),
                (TRAINED, trained.model),
            ):
                translator = Translator(weights, trained.source_tokenizer, trained.target_tokenizer)
                norms = source_gradients(translator, *pairs)
                # The norms of a model are compared with each other only.
                shares.setdefault((model, state), []).append(norms / norms.max())
    first = {key: [float(values[: PARTS // 5].mean()) for values in each] for key, each in shares.items()}
    means = {key: 100 * statistics.mean(each) for key, each in first.items()}
    starts = (first[model, PAPER_START] for model in (ATTENTION, TRANSFORMER, LSTM))
    times = [
        float(np.minimum(attention, transformer)) / max(lstm, 1e-12)
        for attention, transformer, lstm in zip(*starts, strict=True)
    ]
    return Finding(
        method="The log-probability of the last target token is differentiated with respect to the embedding of each "
        "source token, in the 32 longest test sentences. The norms are averaged over tenths of the source, and "
        "divided by their maximum.",
        table=Table(
            ("model", "state", *(f"tenth {part}" for part in range(1, PARTS + 1))),
            [(MODELS[model], state, *np.mean(values, axis=0).tolist()) for (model, state), values in shares.items()],
            digits=3,
        ),
        verdict=Verdict(
            is_above(times, TIMES_THE_GRADIENT),
            "The gradient of the first fifth of the source, as a share of that of the strongest tenth: "
            + "; ".join(
                f"{state} " + ", ".join(f"{means[model, state]:.2g} % ({MODELS[model]})" for model in MODELS)
                for state in (PAPER_START, PRESET_START, TRAINED)
            )
            + f". At the start, the smaller with attention is {mean_and_error(times)} times that of the LSTM.",
            len(bench.seeds),
            {
                f"{MODELS[model]} {state}, %": by_seed([100 * each for each in first[model, state]])
                for model, state in first
            }
            | {"attention, times the LSTM": by_seed(times)},
        ),
        charts=[
            Chart(
                f"gradients_{name}",
                "place in the source, tenths",
                "gradient norm, of its maximum",
                [
                    over_seeds(MODELS[model], range(1, PARTS + 1), np.stack(shares[model, state], axis=1).tolist())
                    for model in MODELS
                ],
                options={"log_y": True, "title": f"{state[0].upper()}{state[1:]}"},
            )
            for name, state in (("paper_start", PAPER_START), ("preset_start", PRESET_START), ("trained", TRAINED))
        ],
        notes=[
            "The presets start the small recurrent models with larger weights than the papers, without which they do "
            "not learn. With large weights, the gradient of an LSTM grows on its way in place of vanishing."
        ],
    )


PAPER_START, PRESET_START = "with the paper's initial weights", "with the preset's initial weights"
TRAINED = "after training"
# The Transformer's preset leaves its initial weights as they are.
PAPER_INITIALIZERS: dict[str, dict[str, float]] = {
    LSTM: {"initializer_range": 0.08},  # Sutskever et al. 2014, section 3.4
    ATTENTION: {"initializer_std": 0.01, "attention_initializer_std": 0.001},  # Bahdanau et al. 2014, appendix B.1
}


def _untrained(config: PreTrainedConfig, seed: int, **initializers: float) -> PreTrainedModel:
    """Returns a model of that configuration with weights of the start, of which the initializers are replaced."""
    torch.manual_seed(seed)
    changed = type(config).from_dict(config.to_dict() | initializers)
    return AutoModelForSeq2SeqLM.from_config(changed).eval()


PARTS = 10
TIMES_THE_GRADIENT = 10


def source_gradients(translator: Translator, sources: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Returns the mean gradient norm of the last target token's log-probability, by tenths of the source, (PARTS,)."""
    model = translator.model
    source_ids, _ = encode_sources(translator.source_tokenizer, list(sources), None)
    target_ids, _ = encode_sources(translator.target_tokenizer, list(references), None)
    sums, counts = np.zeros(PARTS), np.zeros(PARTS)
    for source, target in zip(source_ids, target_ids, strict=True):
        inputs, _ = pad_right([source], translator.source_tokenizer.pad_token_id)
        labels = torch.tensor([target])
        kept: list[torch.Tensor] = []

        def keep(module: torch.nn.Module, given: Any, output: torch.Tensor, kept: list = kept) -> None:
            output.requires_grad_()
            output.retain_grad()
            kept.append(output)

        encoder = model.get_encoder()
        handle = encoder.embed_tokens.register_forward_hook(keep)
        try:
            logits = model(
                input_ids=torch.from_numpy(inputs),
                decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
                use_cache=False,
            ).logits
        finally:
            handle.remove()
        # The end token follows the last word; the word itself is what depends on the source.
        place = max(0, len(target) - 2)
        torch.log_softmax(logits[0, place], dim=-1)[target[place]].backward()
        norms = kept[0].grad[0].norm(dim=-1).numpy()  # S
        parts = np.arange(len(norms)) * PARTS // len(norms)
        np.add.at(sums, parts, norms)
        np.add.at(counts, parts, 1)
        model.zero_grad()
    return sums / np.maximum(counts, 1)


SCALES = (0.25, 0.5, 1.0, 1.5)
WELL_FITTED = 0.9  # of the variance of the logarithms of the losses


def scaling(bench: Workbench) -> Finding:
    """Loss against parameters and against tokens, for four sizes of each translator and of GPT-1."""
    runs: dict[str, list[list[Run]]] = {}  # by model: a list for each width, of a run for each seed
    if bench.scale != "novels":
        for model in MODELS:
            widths = [scaled_widths(bench, model, factor) for factor in SCALES]
            runs[MODELS[model]] = [runs_of(bench, model, **changes) for changes in widths]
    if bench.scale != "multi30k":
        preset = PRESETS[bench.scale][GPT1]
        updates = {"small": {"max_steps": 500, "eval_steps": 100}, "novels": {"max_steps": 1500, "eval_steps": 250}}
        settings = pretraining_data(bench) | updates[bench.scale]
        runs["GPT-1"] = [
            [
                Run("pretrain_gpt1", preset, settings | {"seed": seed, "hidden_size": int(192 * factor)})
                for seed in bench.seeds
            ]
            for factor in SCALES
        ]
    bench.make(*(run for each in runs.values() for group in each for run in group))
    rows, by_size, by_tokens, fits, falls, numbers = [], [], [], {}, {}, {}
    for name, each in runs.items():
        sizes = [count_weights(bench.path(group[0])) for group in each]
        losses = [bench.losses(group) for group in each]
        means = [statistics.mean(group) for group in losses]
        curves = [loss_by_tokens(f"{size:,} weights", bench, group) for size, group in zip(sizes, each, strict=True)]
        over_tokens = [power_law(curve.x, curve.y)[0] for curve in curves]
        rows += zip([name] * len(sizes), sizes, means, [curve.x[-1] for curve in curves], over_tokens, strict=True)
        exponents = [power_law(sizes, group)[0] for group in zip(*losses, strict=True)]
        fits[name] = mean_and_error(exponents, 3), power_law(sizes, means)[1]
        numbers[name] = {"exponent": by_seed(exponents), "explained": fits[name][1]}
        steps = [is_above(loss_falls(*pair), 0) for pair in zip(losses, losses[1:], strict=False)]
        falls[name] = all_hold(steps)
        by_size.append(over_seeds(name, sizes, losses))
        by_tokens.append(
            Chart(
                f"by_tokens_{name.lower().replace('-', '')}",
                "target tokens of the training",
                VALIDATION_LOSS,
                curves,
                options={"log_x": True, "log_y": True, "title": name},
            )
        )
    is_fitted = [explained >= WELL_FITTED for _, explained in fits.values()]
    undecided = [name for name, holds in falls.items() if holds is None]
    return Finding(
        method="Each model is trained in four widths with the same updates and data. A power law, loss = a N^-b, is "
        "fitted to the validation loss and the number of weights N, and one in the number of tokens to the losses on "
        "the way of each size.",
        table=Table(("model", "weights", VALIDATION_LOSS, "target tokens", "exponent over tokens"), rows, digits=3),
        verdict=Verdict(
            all_hold([*falls.values(), *is_fitted]),
            "Exponents b, and the share of the variance that the fit explains: "
            + ", ".join(f"{exponent} and {explained:.2f} ({name})" for name, (exponent, explained) in fits.items())
            + f". The loss falls with each size for {', '.join(name for name in falls if falls[name]) or 'no model'}"
            + (f", and it is undecided for {', '.join(undecided)}." if undecided else "."),
            len(bench.seeds),
            numbers,
        ),
        charts=[
            Chart("by_size", "weights", VALIDATION_LOSS, by_size, options={"log_x": True, "log_y": True}),
            *by_tokens,
        ],
        notes=[
            "Losses of translators have label smoothing in training only; losses of different data do not compare."
        ],
    )


def loss_by_tokens(name: str, bench: Workbench, runs: Sequence[Run]) -> Series:
    """Returns the validation losses of the runs with each seed against the target tokens that had been trained on.

    A run's tokens are counted at its end, and its updates have about equally many.
    """
    logs = [[line for line in bench.log(run) if line["kind"] == "eval"] for run in runs]
    tokens = statistics.mean(bench.results(run)["train_target_tokens"] for run in runs)
    updates = [line["update"] for line in logs[0]]
    places = [round(tokens * update / updates[-1]) for update in updates]
    return over_seeds(name, places, list(zip(*([line["loss"] for line in log] for log in logs), strict=True)))


def power_law(sizes: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Fits loss = a N^-b by least squares of the logarithms.

    Returns:
        b, and the share of the variance of the logarithms of the losses that the fit explains; both are NaN if a loss
        is not finite.
    """
    if not np.isfinite(losses).all():
        return math.nan, math.nan
    x, y = np.log(sizes), np.log(losses)
    slope, _ = np.polyfit(x, y, 1)
    return -float(slope), float(np.corrcoef(x, y)[0, 1] ** 2)


EXPERIMENTS = [
    Experiment(
        "long_range",
        PAPER,
        "long range",
        "Attention relates what is far apart; a recurrent network forgets it.",
        f"It holds if the Transformer recalls over {DISTANCES[-1]} digits more than {AHEAD} points more letters than "
        f"the LSTM, and at most {LOST} points less than over {DISTANCES[0]}. It is undecided if the LSTM recalls "
        f"less than twice what chance does even over {DISTANCES[0]}.",
        long_range,
        minutes=6,
        unless={
            "small": "An LSTM that is near chance even at the shortest distance has not learned the task in these "
            "updates, so the experiment does not show how it forgets with distance."
        },
        core=True,
    ),
    Experiment(
        "parallel_training",
        PAPER,
        "parallel training",
        "From short to long sequences, the Transformer loses less training speed than recurrent networks do.",
        f"It holds if its tokens per second with {TRAINING_LENGTHS[-1]} tokens in a sequence, divided by those with "
        f"{TRAINING_LENGTHS[0]}, are the largest of the three models.",
        parallel_training,
        minutes=2,
        unless=dict.fromkeys(
            ("small", "multi30k"),
            "A likely cause, not tested: a few cores have little to compute at the same time, so fewer sequences in "
            "each step of a recurrent network cost nothing, while attention's products grow with the square of the "
            "length. The claim is about a GPU.",
        ),
        scales=("small", "multi30k"),
    ),
    Experiment(
        "gradients",
        PAPER,
        "gradients",
        "With attention, the gradient reaches the first words of a source; in an LSTM it vanishes on the way.",
        "It holds if the gradient of the first fifth of the source, as a share of that of the strongest tenth, is in "
        f"both models with attention more than {TIMES_THE_GRADIENT} times that of the LSTM, with the papers' initial "
        "weights.",
        gradients,
        minutes=1,
        unless=dict.fromkeys(
            ("small", "multi30k"),
            "A likely cause, not tested: the sources are too short for the gradient of an LSTM to vanish on its way.",
        ),
        core=True,
        scales=("small", "multi30k"),
    ),
    Experiment(
        "scaling",
        PAPER,
        "scaling",
        "Larger models reach a lower loss, by a power law.",
        "It holds if the validation loss of every model falls with each size, and the fit explains "
        f"{100 * WELL_FITTED:.0f} % of the variance of its logarithm.",
        scaling,
        minutes=25,
        unless={
            "small": "A likely cause, not tested: one learning rate serves all widths, and the narrower models learn "
            "the lists almost wholly, so there is little left for the wider ones. The scales multi30k and novels have "
            "data that no size learns wholly."
        },
        scales=("small", "multi30k", "novels"),
    ),
]
