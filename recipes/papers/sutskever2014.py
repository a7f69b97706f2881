"""Sutskever, Vinyals and Le 2014: Sequence to Sequence Learning with Neural Networks (arXiv 1409.3215)."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch

from papers_to_gpt.papers.experiment import (
    Chart,
    Experiment,
    Finding,
    Table,
    Verdict,
    by_seed,
    combine,
    compare,
    is_above,
    mean_and_error,
    over_seeds,
)
from papers_to_gpt.papers.translators import (
    LSTM,
    best_candidates,
    bleu,
    columns_of,
    length_of,
    load,
    make_groups,
    means_over,
    name_seed,
    rarity_of,
    run_of,
    runs_of,
    scores_by,
    short_and_long,
    test_pairs,
    training_curves,
)
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.plots.line_plots import Series
from papers_to_gpt.plots.scatter import plot_points
from seq2seq_scratch.data.forced_scores import score_translations
from seq2seq_scratch.data.nbest_lists import Candidate, choose_candidates
from seq2seq_scratch.encoding import encode_sources, pad_right

PAPER = "sutskever2014"
FEW_UPDATES = (
    "A likely cause, not tested: with so few updates, deeper stacks learn more slowly than they gain; the paper had "
    "12 million pairs."
)
BEAMS = (1, 2, 12)
MEMBERS = 5
LAYERS = (1, 2, 3, 4)


def reversed_source(bench: Workbench) -> Finding:
    """Section 3.3: LSTMs that read the source backwards or forwards."""
    groups = {
        "reversed": runs_of(bench, LSTM, reverse_source=True),
        "as it is": runs_of(bench, LSTM, reverse_source=False),
    }
    make_groups(bench, groups)
    results = {name: [bench.results(run) for run in runs] for name, runs in groups.items()}
    rows = [
        (name, seed, result["eval_perplexity"], result["test_sacrebleu"])
        for name, each in results.items()
        for seed, result in zip(bench.seeds, each, strict=True)
    ]
    scores = {name: [result["test_sacrebleu"] for result in each] for name, each in results.items()}
    logs = {
        f"source {name}{name_seed(bench, index)}": bench.log(run)
        for name, runs in groups.items()
        for index, run in enumerate(runs)
    }
    return Finding(
        method="The same LSTM is trained with the tokens of the source in reverse order and in their own order, with "
        "the same seeds, batches and updates. Both translate the test set with the beam of the preset.",
        table=Table(("source", "seed", "validation perplexity", "test BLEU"), rows, digits=3),
        paper=Table(
            ("source", "test perplexity", "test BLEU"), [("reversed", 4.7, 30.6), ("as it is", 5.8, 25.9)], digits=1
        ),
        verdict=compare(
            scores["reversed"], scores["as it is"], ("the source reversed", "the source as it is"), score="BLEU"
        ),
        pictures={"training_curves": lambda: training_curves(logs)},
    )


def ensemble_members(bench: Workbench) -> list[Run]:
    """Trains the five LSTMs, which share the vocabulary of the first, and returns their runs."""
    first = run_of(bench, LSTM, 1, reverse_source=True)
    (folder,) = bench.make(first)
    others = [
        run_of(bench, LSTM, seed, reverse_source=True, tokenizer_name=str(folder)) for seed in range(2, MEMBERS + 1)
    ]
    bench.make(*others)
    return [first, *others]


def ensembles(bench: Workbench) -> Finding:
    """Table 1: one, two and five models, and beams of 1, 2 and 12."""
    folders = [bench.path(run) for run in ensemble_members(bench)]
    sources, references = test_pairs(bench)

    def scores_of(count: int, beams: Sequence[int], first: int = 0) -> list[float]:
        translator = load(*folders[first : first + count])
        return [bleu(bench, translator.translate(sources, num_beams), references) for num_beams in beams]

    first, two, five = (scores_of(count, BEAMS) for count in (1, 2, MEMBERS))
    single = [first[-1], *(scores_of(1, BEAMS[-1:], index)[0] for index in range(1, MEMBERS))]
    best = max(single)
    rows = [
        (f"{name}, beam {num_beams}", score)
        for name, scores in (("first model", first), ("2 models", two), (f"{MEMBERS} models", five))
        for num_beams, score in zip(BEAMS, scores, strict=True)
    ]
    rows += [(f"model {index}, beam {BEAMS[-1]}", score) for index, score in enumerate(single, 1)]
    return Finding(
        method=f"{MEMBERS} LSTMs are trained from different seeds with one vocabulary. Together they decode by the "
        "mean of their probabilities at every step.",
        table=Table(("system", "test BLEU"), rows),
        paper=Table(
            ("system", "test BLEU"),
            [
                ("single, beam 12", 30.59),
                ("5 models, beam 1", 33.00),
                ("5 models, beam 2", 34.50),
                ("5 models, beam 12", 34.81),
            ],
        ),
        verdict=Verdict(
            five[-1] > best,
            f"BLEU with beam {BEAMS[-1]}: {five[-1]:.2f} with {MEMBERS} models, {best:.2f} with the best and "
            f"{statistics.mean(single):.2f} with the average one of them.",
            numbers={"mean of the models": statistics.mean(single)},
        ),
        charts=[
            Chart(
                "beams",
                "beams",
                "test BLEU",
                [
                    Series("1 model", BEAMS, first),
                    Series("2 models", BEAMS, two),
                    Series(f"{MEMBERS} models", BEAMS, five),
                ],
                options={"log_x": True},
            )
        ],
        notes=["The seeds of the members are 1 to 5, whatever `--seeds` says."],
    )


def rescoring(bench: Workbench) -> Finding:
    """Table 2: n-best lists of another system, chosen from with the LSTMs' probabilities."""
    (baseline,) = bench.make(run_of(bench, LSTM, 1, reverse_source=False))
    folders = [bench.path(run) for run in ensemble_members(bench)]
    sources, references = test_pairs(bench)
    size = BEAMS[-1]
    candidates = [
        Candidate(index, hypothesis.text, hypothesis.score)
        for index, found in enumerate(load(baseline).candidates(sources, size, size))
        for hypothesis in found
    ]

    def rescored(*members: object) -> float:
        translator = load(*members)
        scored = score_translations(
            translator.model,
            translator.source_tokenizer,
            translator.target_tokenizer,
            [sources[each.source] for each in candidates],
            [each.text for each in candidates],
        )
        totals = [None if score is None else math.fsum(score.log_probabilities) for score in scored]
        return bleu(bench, choose_candidates(candidates, totals, 0.5, len(sources)), references)

    before = bleu(bench, choose_candidates(candidates, [None] * len(candidates), 0.0, len(sources)), references)
    one, five = rescored(folders[0]), rescored(*folders)
    best = best_candidates(candidates, references)
    systems = {
        "the list's best": before,
        "rescored with 1 LSTM": one,
        f"rescored with {MEMBERS} LSTMs": five,
        "oracle: the candidate nearest to the reference": bleu(bench, best, references),
    }
    return Finding(
        method=f"Another system, an LSTM that reads the source forwards, lists its {size} best translations of each "
        "sentence. The candidate with the best even average of its score and the LSTMs' log-probability is chosen.",
        table=Table(("system", "test BLEU"), list(systems.items())),
        paper=Table(
            ("system", "test BLEU"),
            [
                ("baseline", 33.30),
                ("rescored with 1 reversed LSTM", 35.85),
                ("rescored with 5 LSTMs", 36.5),
                ("oracle", 45.0),
            ],
        ),
        verdict=Verdict(
            five > before and one > before,
            f"BLEU: {before:.2f} before, {one:.2f} rescored with one LSTM, {five:.2f} with {MEMBERS}.",
        ),
        charts=[
            Chart(
                "systems",
                "",
                "test BLEU",
                [Series("BLEU", [name.partition(":")[0] for name in systems], list(systems.values()))],
                kind="bars",
            )
        ],
        notes=["The seeds of the models are 1 to 5, whatever `--seeds` says."],
    )


def depth(bench: Workbench) -> Finding:
    """Section 3.4: perplexity against the number of layers."""
    runs = {layers: runs_of(bench, LSTM, num_hidden_layers=layers) for layers in LAYERS}
    make_groups(bench, runs, may_diverge=True)
    perplexities = [bench.losses(runs[layers], "eval_perplexity") for layers in LAYERS]
    means = [statistics.mean(each) for each in perplexities]
    verdict = combine(
        *(
            compare(
                perplexities[index],
                perplexities[index - 1],
                (f"{LAYERS[index]} layers", str(LAYERS[index - 1])),
                score="Perplexity",
                lower_is_better=True,
                digits=3,
            )
            for index in range(1, len(LAYERS))
        )
    )
    return Finding(
        method="LSTMs of one to four layers are trained with the same updates and settings. Their perplexity on the "
        "validation set is compared.",
        table=Table(
            ("layers", "validation perplexity", "change"),
            [
                (layers, mean, "" if index == 0 else f"{100 * (mean / means[index - 1] - 1):+.1f} %")
                for index, (layers, mean) in enumerate(zip(LAYERS, means, strict=True))
            ],
            digits=3,
        ),
        paper=Table(("layers", "change of perplexity with each further layer"), [("2 to 4", "almost -10 %")]),
        verdict=verdict,
        charts=[
            Chart(
                "depth",
                "layers",
                "validation perplexity",
                [over_seeds("LSTM", LAYERS, perplexities)],
                options={"integer_x": True},
            )
        ],
    )


# Two sentences of the same words, each with its passive: the meaning of the first two is one, and of the last two.
# They are written as the captions of Multi30k are.
SENTENCES = {
    "de": (
        "Ein Mann jagt einen Hund.",
        "Ein Hund wird von einem Mann gejagt.",
        "Ein Hund jagt einen Mann.",
        "Ein Mann wird von einem Hund gejagt.",
    ),
    "en": (
        "A man chases a dog.",
        "A dog is chased by a man.",
        "A dog chases a man.",
        "A man is chased by a dog.",
    ),
}


APART = 0.1  # of the length of a vector


def sentence_vectors(bench: Workbench) -> Finding:
    """Figure 2: principal components of the vectors that the encoder makes of sentences of the same words.

    At the scale `small` these are lists of numbers in different orders, otherwise active and passive sentences.
    """
    language = bench.settings.source_language
    if bench.scale != "small" and language not in SENTENCES:
        raise ValueError(
            f"source_language is {language}; sentence_vectors has sentences in {' and '.join(SENTENCES)}."
        )
    runs = runs_of(bench, LSTM, reverse_source=True)
    bench.make(*runs)
    if bench.scale == "small":
        words = ("twelve", "seven", "nineteen")
        orders = [(0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1), (1, 2, 0), (2, 1, 0)]
        sentences = [" ".join(words[index] for index in order) for order in orders]
        alike = [order[0] for order in orders]
        what = "six lists of the same three numbers in different orders"
    else:
        sentences, alike = list(SENTENCES[language]), [0, 0, 1, 1]
        what = "two sentences of the same words in another order, and the passive of each"
    translators = [load(bench.path(run)) for run in runs]
    vectors_by_seed = [encode_sentences(each.model, each.source_tokenizer, sentences) for each in translators]
    points = principal_components(vectors_by_seed[0])
    pairs = [(a, b) for a in range(len(sentences)) for b in range(a)]
    apart, near, far = [], [], []
    for vectors in vectors_by_seed:
        distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
        apart.append(float(np.mean([distances[pair] for pair in pairs]) / np.linalg.norm(vectors, axis=1).mean()))
        for means, same in ((near, True), (far, False)):
            means.append(float(np.mean([distances[a, b] for a, b in pairs if (alike[a] == alike[b]) is same])))
    distance = mean_and_error(near, 2), mean_and_error(far, 2)
    if bench.scale == "small":
        holds = is_above(apart, APART)
        reason = (
            "The mean distance of two orders, in percent of a vector's length, is "
            f"{mean_and_error([100 * each for each in apart], 0)}; the vectors of a bag of words would be equal. The "
            f"distance is {distance[0]} for lists that begin with the same number, {distance[1]} for others."
        )
    else:
        holds = is_above([b - a for a, b in zip(near, far, strict=True)], 0)
        reason = f"The distance is {distance[0]} for sentences of the same meaning, {distance[1]} for others."
    return Finding(
        method=f"The encoder reads {what}. Its last states, which are "
        "all that the decoder sees, are projected on their first two principal components. The table and the picture "
        "show the first seed.",
        table=Table(
            ("sentence", "component 1", "component 2"),
            [(sentence, *map(float, point)) for sentence, point in zip(sentences, points, strict=True)],
        ),
        verdict=Verdict(
            holds,
            reason,
            len(runs),
            {
                "percent of a vector's length": by_seed([100 * each for each in apart]),
                "distance of those alike": by_seed(near),
                "distance of others": by_seed(far),
            },
        ),
        pictures={"sentence_vectors": lambda: plot_points(points, sentences, title="Vectors of sentences")},
    )


@torch.inference_mode()
def encode_sentences(model: torch.nn.Module, tokenizer: object, sentences: Sequence[str]) -> np.ndarray:
    """Returns the last hidden and cell states of all layers of the LSTM, (N, 2 * layers * D)."""
    vectors = []
    for ids in encode_sources(tokenizer, list(sentences), None)[0]:
        inputs, _ = pad_right([ids], tokenizer.pad_token_id)
        state = model.get_encoder()(torch.from_numpy(inputs)).final_state
        vectors.append(state.flatten().numpy())
    return np.stack(vectors)


def principal_components(vectors: np.ndarray, count: int = 2) -> np.ndarray:
    """Projects (N, D) vectors on their first principal components, (N, count)."""
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:count].T


LOST_BLEU = 5  # by long sentences against short ones


def length_and_rarity(bench: Workbench) -> Finding:
    """Figure 3: scores by the length of the sentence and by the rarity of its words."""
    halves = short_and_long(bench)
    runs = runs_of(bench, LSTM, reverse_source=True)
    bench.make(*runs)
    lengths = scores_by(bench, runs, length_of(bench))
    rarities = scores_by(bench, runs, rarity_of(bench))
    short, long = (means_over(part, lengths) for part in halves)
    lost = [a - b for a, b in zip(short, long, strict=True)]
    rows = [
        (name, group, statistics.mean(scores))
        for name, groups in (("source words", lengths), ("mean rank of the words", rarities))
        for group, scores in groups.items()
    ]
    return Finding(
        method="The test set is divided by the length of the source, and by the mean frequency rank of the "
        "reference's words in the training data. Each part is scored by itself.",
        table=Table(("by", "from", "test BLEU"), rows, digits=1),
        paper=Table(("sentences", "BLEU"), [("below 35 words", "no degradation"), ("longest", "a minor degradation")]),
        verdict=Verdict(
            is_above([-each for each in lost], -LOST_BLEU),
            f"BLEU is {mean_and_error(short)} on average in the shorter half of the lengths, {mean_and_error(long)} "
            f"in the longer half, and {mean_and_error(lost)} are lost.",
            len(runs),
            {name: by_seed(each) for name, each in (("shorter", short), ("longer", long), ("lost", lost))},
        ),
        charts=[
            Chart("length", "source words", "test BLEU", [over_seeds("LSTM", *columns_of(lengths))]),
            Chart("rarity", "mean rank of the words", "test BLEU", [over_seeds("LSTM", *columns_of(rarities))]),
        ],
    )


EXPERIMENTS = [
    Experiment(
        "reversed_source",
        PAPER,
        "section 3.3, Table 1",
        "Reversing the words of the source makes the LSTM better.",
        "It holds if the test BLEU is higher.",
        reversed_source,
        minutes=3,
        unless={
            "small": "A likely cause, not tested: the initial weights of the small preset are so large that the first "
            "words have the largest gradient without being near (see the experiment gradients). On Multi30k, with the "
            "paper's initial weights, reading backwards wins: RESULTS.md, T3 and T5."
        },
        core=True,
        scales=("small", "multi30k"),
    ),
    Experiment(
        "depth",
        PAPER,
        "section 3.4",
        "Each further layer of the LSTM lowers the perplexity.",
        f"It holds if the validation perplexity falls with each further layer, from {LAYERS[0]} to {LAYERS[-1]}.",
        depth,
        minutes=8,
        unless={"small": FEW_UPDATES, "multi30k": FEW_UPDATES},
        scales=("small", "multi30k"),
    ),
    Experiment(
        "ensembles",
        PAPER,
        "Table 1",
        "Five models that decode together beat the best one of them.",
        f"It holds if their test BLEU with beam {BEAMS[-1]} is higher than that of each one.",
        ensembles,
        minutes=8,
        unless={
            "small": "A likely cause, not tested: after so few updates one seed may be far ahead, and the mean takes "
            "over the mistakes of the others. On Multi30k five models win: RESULTS.md, E1."
        },
        core=True,
        scales=("small", "multi30k"),
    ),
    Experiment(
        "rescoring",
        PAPER,
        "Table 2",
        "Choosing from another system's n-best lists with the LSTM makes that system better.",
        "It holds if the test BLEU is higher with one LSTM and with five.",
        rescoring,
        minutes=2,
        unless={
            "small": "A likely cause, not tested: both systems are LSTMs with the same training data, so one knows "
            "little that the other does not; the paper's lists came from a phrase-based system. score_translation.py "
            "--rescore shows it with the lists of another system."
        },
        core=True,
        scales=("small", "multi30k"),
    ),
    Experiment(
        "sentence_vectors",
        PAPER,
        "Figure 2",
        "The vector of a sentence knows the order of its words.",
        f"It holds if the vectors of lists in different orders are more than {100 * APART:.0f} % of a vector's length "
        "apart. At the scale multi30k, it holds if sentences of the same meaning are nearer to each other than to the "
        "others.",
        sentence_vectors,
        minutes=1,
        unless={
            "small": "A likely cause, not tested: in so few updates the LSTM does not learn the order; the scale "
            "multi30k trains longer, on sentences."
        },
        scales=("small", "multi30k"),
    ),
    Experiment(
        "length_and_rarity",
        PAPER,
        "Figure 3",
        "The LSTM translates long sentences as well as short ones.",
        f"It holds if fewer than {LOST_BLEU} BLEU are lost from the shorter half of the lengths to the longer half.",
        length_and_rarity,
        minutes=2,
        unless={
            "small": "The longest lists here are twice as long as any in training; the paper's training data had long "
            "sentences. The scale multi30k has lengths as in training."
        },
        scales=("small", "multi30k"),
    ),
]
