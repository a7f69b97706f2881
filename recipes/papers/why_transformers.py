"""Why Transformers replaced recurrent networks: long range, parallel training, gradients, scaling."""

import math
import random
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from papers_to_gpt.engine.durable_files import write_durably
from papers_to_gpt.papers.experiment import (
    Chart,
    Experiment,
    Finding,
    Table,
    Verdict,
    all_hold,
    is_above,
    mean_and_error,
    over_seeds,
)
from papers_to_gpt.papers.language_models import PRESETS, pretraining_data
from papers_to_gpt.papers.language_models import TRANSFORMER as GPT1
from papers_to_gpt.papers.timing import median_seconds
from papers_to_gpt.papers.translators import (
    ATTENTION,
    LSTM,
    MODELS,
    TRANSFORMER,
    Translator,
    load,
    run_of,
    runs_of,
    test_hypotheses,
    test_pairs,
)
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.plots.line_plots import Series
from seq2seq_scratch.encoding import encode_sources, pad_right

PAPER = "why_transformers"

DISTANCES = (8, 16, 32, 64, 128, 256, 512)
LETTERS_TO_RECALL = 4
LETTERS = "ABCDEFGH"
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
NOT_EVEN_NEAR = (
    " In these updates, the LSTM does not learn the task even at the shortest distance, so the experiment does not "
    "show how it forgets with distance."
)


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
    references = _column(data["test_file"], 1)
    accuracy = {
        model: [
            [_recalled(test_hypotheses(bench.path(run)), references)[index] for run in each]
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
    holds: bool | None = far[TRANSFORMER] > max(far[LSTM] + AHEAD, near[TRANSFORMER] - LOST)
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
            + f"; by chance it is {chance:.1f} %."
            + (NOT_EVEN_NEAR if near[LSTM] < 2 * chance else ""),
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


def write_recall(
    folder: Path, train_size: int = 8000, test_size_of_distance: int = 40, seed: int = 11
) -> dict[str, str]:
    """Writes letters to recall and digits after them, all distances equally often, and returns the data settings."""
    generator = random.Random(seed)
    sizes = {"train": train_size, "validation": 70, "test": test_size_of_distance * len(DISTANCES)}
    for split, size in sizes.items():
        path = folder / f"{split}.tsv"
        lines = ["source\ttarget"]
        for index in range(size):
            distance = DISTANCES[index * len(DISTANCES) // size] if split == "test" else generator.choice(DISTANCES)
            letters = " ".join(generator.choices(LETTERS, k=LETTERS_TO_RECALL))
            digits = " ".join(generator.choices("0123456789", k=distance))
            lines.append(f"{letters} {digits}\t{letters}")
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(path, "\n".join(lines) + "\n")
    columns = {"source_column": "source", "target_column": "target", "dataset_name": "none"}
    return columns | {f"{split}_file": str(folder / f"{split}.tsv") for split in sizes} | {"max_source_length": 1024}


def _column(path: str, index: int) -> list[str]:
    return [line.split("\t")[index] for line in Path(path).read_text(encoding="utf-8").splitlines()[1:]]


def _recalled(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Returns the percentage of letters that are right at their place, for each distance."""
    right = [
        sum(a == b for a, b in zip(hypothesis.split(), reference.split(), strict=False)) / LETTERS_TO_RECALL
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    size = len(right) // len(DISTANCES)
    return [100 * statistics.mean(right[index * size : (index + 1) * size]) for index in range(len(DISTANCES))]


TOKENS_OF_BATCH = 2048
TRAINING_LENGTHS = (8, 32, 128, 512)


def parallel_training(bench: Workbench) -> Finding:
    """Training speed at a fixed number of tokens in a batch, from many short sequences to few long ones."""
    speeds: dict[str, list[float]] = {}
    for model in MODELS:
        (folder,) = bench.make(run_of(bench, model, bench.seeds[0]))
        translator = load(folder).model.train()
        speeds[model] = [
            TOKENS_OF_BATCH / median_seconds(partial(_training_step, translator, length), repetitions=3)
            for length in TRAINING_LENGTHS
        ]
    ratio = {model: values[-1] / values[0] for model, values in speeds.items()}
    return Finding(
        method=f"A training step, forward and backward, of {TOKENS_OF_BATCH} tokens on each side is timed with "
        "sequences of different lengths, on the CPU in fp32. The models are those of the other experiments.",
        table=Table(
            ("length", "sequences", *(f"{name}, tokens/s" for name in MODELS.values())),
            [
                (length, TOKENS_OF_BATCH // length, *(speeds[model][index] for model in MODELS))
                for index, length in enumerate(TRAINING_LENGTHS)
            ],
            digits=0,
        ),
        verdict=Verdict(
            ratio[TRANSFORMER] > max(ratio[LSTM], ratio[ATTENTION]),
            f"With sequences of {TRAINING_LENGTHS[-1]} tokens, tokens per second are "
            + ", ".join(f"{ratio[model]:.2f} ({MODELS[model]})" for model in MODELS)
            + f" of those with {TRAINING_LENGTHS[0]}. "
            + (
                "A recurrent network takes one step after the other, with fewer sequences in each."
                if ratio[TRANSFORMER] > max(ratio[LSTM], ratio[ATTENTION])
                else "A likely cause, not tested: a few cores have little to compute at the same time, so fewer "
                "sequences in each step of a recurrent network cost nothing, while attention's products grow with the "
                "square of the length. The claim is about a GPU."
            ),
        ),
        charts=[
            Chart(
                "tokens_per_second",
                "length of a sequence",
                "tokens per second",
                [Series(MODELS[model], TRAINING_LENGTHS, speeds[model]) for model in MODELS],
                options={"log_x": True, "log_y": True},
            )
        ],
    )


def _training_step(model: PreTrainedModel, length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 200, (TOKENS_OF_BATCH // length, length), generator=generator)
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()


def gradients(bench: Workbench) -> Finding:
    """The gradient of the last prediction with respect to each position of the source, before and after training."""
    runs = {
        model: run_of(bench, model, bench.seeds[0], **({"reverse_source": False} if model == LSTM else {}))
        for model in MODELS
    }
    bench.make(*runs.values())
    sources, references = test_pairs(bench)
    chosen = sorted(range(len(sources)), key=lambda index: (-len(sources[index].split()), index))[:32]
    curves: dict[tuple[str, str], np.ndarray] = {}
    for model, run in runs.items():
        trained = load(bench.path(run))
        config = trained.model.config
        for state, weights in (
            (PAPER_START, _untrained(config, bench.seeds[0], **PAPER_INITIALIZERS.get(model, {}))),
            (PRESET_START, _untrained(config, bench.seeds[0])),
            (TRAINED, trained.model),
        ):
            translator = Translator(weights, trained.source_tokenizer, trained.target_tokenizer)
            curves[model, state] = source_gradients(
                translator, [sources[index] for index in chosen], [references[index] for index in chosen]
            )
    # The norms of a model are compared with each other only.
    shares = {key: values / values.max() for key, values in curves.items()}
    first = {key: float(values[: PARTS // 5].mean()) for key, values in shares.items()}
    attentive = min(first[model, PAPER_START] for model in (ATTENTION, TRANSFORMER))
    return Finding(
        method="The log-probability of the last target token is differentiated with respect to the embedding of each "
        "source token, in the 32 longest test sentences. The norms are averaged over tenths of the source, and "
        "divided by their maximum.",
        table=Table(
            ("model", "state", *(f"tenth {part}" for part in range(1, PARTS + 1))),
            [(MODELS[model], state, *map(float, values)) for (model, state), values in shares.items()],
            digits=3,
        ),
        verdict=Verdict(
            attentive > TIMES_THE_GRADIENT * first[LSTM, PAPER_START],
            "The gradient of the first fifth of the source, as a share of that of the strongest tenth: "
            + "; ".join(
                f"{state} " + ", ".join(f"{100 * first[model, state]:.2g} % ({MODELS[model]})" for model in MODELS)
                for state in (PAPER_START, PRESET_START, TRAINED)
            )
            + ".",
        ),
        charts=[
            Chart(
                f"gradients_{name}",
                "place in the source, tenths",
                "gradient norm, of its maximum",
                [Series(MODELS[model], range(1, PARTS + 1), shares[model, state].tolist()) for model in MODELS],
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
    """Loss against parameters and against updates, for four sizes of each translator and of GPT-1."""
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
    rows, by_size, by_update, fits, falls = [], [], [], {}, {}
    for name, each in runs.items():
        sizes = [count_weights(bench.path(group[0])) for group in each]
        losses = [[bench.results(run)["eval_loss"] for run in group] for group in each]
        means = [statistics.mean(group) for group in losses]
        rows += zip([name] * len(sizes), sizes, means, strict=True)
        exponents = [power_law(sizes, group)[0] for group in zip(*losses, strict=True)]
        fits[name] = mean_and_error(exponents, 3), power_law(sizes, means)[1]
        steps = [
            is_above([a - b for a, b in zip(*pair, strict=True)], 0) for pair in zip(losses, losses[1:], strict=False)
        ]
        falls[name] = all_hold(steps)
        by_size.append(over_seeds(name, sizes, losses))
        log = [line for line in bench.log(each[-1][0]) if line["kind"] == "eval"]
        by_update.append(Series(name, [line["update"] for line in log], [line["loss"] for line in log]))
    is_fitted = [explained >= WELL_FITTED for _, explained in fits.values()]
    undecided = [name for name, holds in falls.items() if holds is None]
    return Finding(
        method="Each model is trained in four widths with the same updates and data. A power law, loss = a N^-b, is "
        "fitted to the validation loss and the number of weights N.",
        table=Table(("model", "weights", "validation loss"), rows, digits=3),
        verdict=Verdict(
            all_hold([*falls.values(), *is_fitted]),
            "Exponents b, and the share of the variance that the fit explains: "
            + ", ".join(f"{exponent} and {explained:.2f} ({name})" for name, (exponent, explained) in fits.items())
            + f". The loss falls with each size for {', '.join(name for name in falls if falls[name]) or 'no model'}"
            + (f", and it is undecided for {', '.join(undecided)}." if undecided else "."),
        ),
        charts=[
            Chart("by_size", "weights", "validation loss", by_size, options={"log_x": True, "log_y": True}),
            Chart("by_update", "updates of the widest model", "validation loss", by_update, options={"log_y": True}),
        ],
        notes=[
            "Losses of translators have label smoothing in training only; losses of different data do not compare.",
            "The losses by update are those of the first seed.",
        ],
    )


def scaled_widths(bench: Workbench, model: str, factor: float) -> dict[str, Any]:
    """Returns the widths of the preset of the scale, times a factor."""
    multi30k = {
        LSTM: {"embedding_size": 512, "hidden_size": 512},
        ATTENTION: {"embedding_size": 256, "hidden_size": 512, "attention_size": 512, "maxout_size": 256},
        TRANSFORMER: {"d_model": 256, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512},
    }
    numbers = {
        LSTM: {"embedding_size": 64, "hidden_size": 256},
        ATTENTION: {"embedding_size": 64, "hidden_size": 192, "attention_size": 128, "maxout_size": 96},
        TRANSFORMER: {"d_model": 128, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256},
    }
    widths = numbers if bench.scale == "small" else multi30k
    return {name: int(value * factor) for name, value in widths[model].items()}


def count_weights(folder: Path) -> int:
    """Returns the number of weights that a folder's safetensors file holds."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def power_law(sizes: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Fits loss = a N^-b by least squares of the logarithms.

    Returns:
        b, and the share of the variance of the logarithms of the losses that the fit explains.
    """
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
        scales=("small", "multi30k", "novels"),
    ),
]
