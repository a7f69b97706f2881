"""The translators of the experiments: their data, their sizes and the runs that train them.

At the scale `small` the data are lists of numbers. A list of the training data has at most `LONGEST_IN_TRAINING`
numbers, a list of the test data up to twice as many.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sacrebleu.metrics import BLEU
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papers_to_gpt.engine.durable_files import write_durably
from papers_to_gpt.engine.operations import training_flops
from papers_to_gpt.papers.number_lists import write_number_lists
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.plots.curves import plot_curves
from papers_to_gpt.settings.wording import counted
from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.data.metrics import TranslationMetric
from seq2seq_scratch.data.nbest_lists import Candidate
from seq2seq_scratch.ensemble import load_ensemble
from seq2seq_scratch.tokenization import load_tokenizers
from seq2seq_scratch.translation import Hypothesis, load_translator, translate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LSTM, ATTENTION, TRANSFORMER = "rnn_seq2seq", "bahdanau", "transformer"
MODELS = {LSTM: "LSTM", ATTENTION: "attention", TRANSFORMER: "Transformer"}

LONGEST_IN_TRAINING = 15
TEST_LENGTHS = range(1, 2 * LONGEST_IN_TRAINING + 1)

SMALLEST_GROUP = 10  # test sentences

# Changes to the presets of `numbers` for the lists.
SMALL: dict[str, dict[str, Any]] = {
    LSTM: {"max_steps": 600, "max_tokens_per_batch": 1024},
    ATTENTION: {"max_steps": 600, "max_tokens_per_batch": 1024},
    TRANSFORMER: {"max_steps": 500, "max_tokens_per_batch": 1024, "warmup_steps": 100},
}

# Changes to presets of `multi30k`, so that all three keep the case, have 8,000 subwords and read each batch once.
MULTI30K: dict[str, dict[str, Any]] = {
    LSTM: {
        "lowercase": False,
        "vocab_size": 8000,
        "metric_for_best_model": "sacrebleu",
        "tune_length_penalty": False,
    },
    TRANSFORMER: {
        "lowercase": False,
        "vocab_size": 8000,
        "r_drop_weight": 0,
        "learning_rate": 1e-3,
        "warmup_steps": 300,
        "max_steps": 6000,
        "eval_steps": 500,
        "metric_for_best_model": "sacrebleu",
        "tune_length_penalty": False,
    },
}


def data_of(bench: Workbench) -> dict[str, Any]:
    """Returns the settings by which a recipe reads the data of the scale."""
    if bench.scale != "small":
        return bench.parallel_data()
    return write_number_lists(
        bench.data_folder / f"number_lists_{LONGEST_IN_TRAINING}",
        train_lengths=range(1, LONGEST_IN_TRAINING + 1),
        test_lengths=TEST_LENGTHS,
        **(
            {"train_size": 300, "validation_size": 20, "test_size_of_length": SMALLEST_GROUP} if bench.is_trial else {}
        ),
    )


def run_of(bench: Workbench, model: str, seed: int, **changes: Any) -> Run:
    """Returns the training run of a translator.

    Args:
        bench: the scale, and the folder of the data.
        model: LSTM, ATTENTION or TRANSFORMER.
        seed: of the run.
        changes: settings that differ from the preset.
    """
    if bench.scale != "small":
        settings = data_of(bench) | MULTI30K.get(model, {}) | {"seed": seed} | changes
        return Run("train_translation", f"multi30k/{model}", settings)
    steps = changes.get("max_steps", SMALL[model]["max_steps"])
    settings = SMALL[model] | {"eval_steps": max(1, steps // 4), "logging_steps": max(1, steps // 20)}
    return Run("train_translation", f"numbers/{model}", data_of(bench) | settings | {"seed": seed} | changes)


def runs_of(bench: Workbench, model: str, **changes: Any) -> list[Run]:
    """Returns the training runs of a translator with every seed."""
    return [run_of(bench, model, seed, **changes) for seed in bench.seeds]


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


def make_groups(bench: Workbench, groups: Mapping[Any, Sequence[Run]], *, may_diverge: bool = False) -> None:
    """Makes the runs of all groups together, so that several are trained at the same time."""
    bench.make(*(run for runs in groups.values() for run in runs), may_diverge=may_diverge)


@dataclass(frozen=True)
class Translator:
    """A model in evaluation mode, or an ensemble, with its tokenizers."""

    model: PreTrainedModel
    source_tokenizer: PreTrainedTokenizerBase
    target_tokenizer: PreTrainedTokenizerBase

    def translate(self, sources: Sequence[str], num_beams: int) -> list[str]:
        """Returns the best translation of each sentence."""
        return [found[0].text for found in self.candidates(sources, num_beams, 1)]

    def candidates(self, sources: Sequence[str], num_beams: int, count: int) -> list[list[Hypothesis]]:
        """Returns the best translations of each sentence, with their log-probabilities."""
        # Scores are sums of log-probabilities, as in the papers of 2014: lengths are not normalized.
        arguments = {"num_beams": num_beams, "num_return_sequences": count, "length_penalty": 0.0}
        if num_beams == 1:
            del arguments["length_penalty"]
        return translate(
            self.model, self.source_tokenizer, self.target_tokenizer, sources, with_scores=count > 1, **arguments
        )


def load(*folders: Path) -> Translator:
    """Loads a translator, or several as an ensemble, with the tokenizers."""
    if len(folders) == 1:
        return Translator(*load_translator(str(folders[0])))
    return Translator(*load_ensemble([str(folder) for folder in folders]))


def test_pairs(bench: Workbench) -> tuple[list[str], list[str]]:
    """Returns the sources and the references of the test set."""
    test = load_parallel_data(**data_of(bench) | {"dataset_name": None})["test"]
    return test["source"][:], test["target"][:]


def training_pairs(bench: Workbench) -> tuple[list[str], list[str]]:
    """Returns the sources and the targets of the training set."""
    pairs = load_parallel_data(**data_of(bench) | {"dataset_name": None})["train"]
    return pairs["source"][:], pairs["target"][:]


def metric_of(bench: Workbench) -> TranslationMetric:
    """Returns the metric for the target language."""
    return TranslationMetric(data_of(bench)["target_language"])


def bleu(bench: Workbench, hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Returns the BLEU of sacrebleu."""
    return metric_of(bench).compute(predictions=hypotheses, references=references)["sacrebleu"]


def best_candidates(candidates: Sequence[Candidate], references: Sequence[str]) -> list[str]:
    """Returns for each reference the candidate with the highest BLEU of its own, which no system can know."""
    measure = BLEU(effective_order=True)  # of sentences, which may be shorter than four words
    best = [(-1.0, "")] * len(references)
    for each in candidates:
        score = measure.sentence_score(each.text, [references[each.source]]).score
        best[each.source] = max(best[each.source], (score, each.text), key=lambda scored: scored[0])
    return [text for _, text in best]


def length_of(bench: Workbench) -> Callable[[str, str], int]:
    """Returns a function from source and reference to a length in source words: of lists every length is a group of
    its own, of sentences five lengths are."""
    if bench.scale == "small":
        return lambda source, reference: len(reference.split())
    return lambda source, reference: len(source.split()) // 5 * 5


def rarity_of(bench: Workbench) -> Callable[[str, str], int]:
    """Returns a function from source and reference to a group: the mean frequency rank of the reference's words in the
    training data, rounded down to a multiple of a fourth of the largest mean."""
    counts = Counter(word for text in training_pairs(bench)[1] for word in text.split())
    ranks = {word: rank for rank, (word, _) in enumerate(counts.most_common())}

    def mean_rank(reference: str) -> float:
        return statistics.mean([ranks.get(word, len(ranks)) for word in reference.split()] or [0])

    step = max(1.0, max(map(mean_rank, test_pairs(bench)[1])) / 4)
    return lambda source, reference: int(mean_rank(reference) // step * step)


def group_test_pairs(bench: Workbench, group_of: Callable[[str, str], int]) -> dict[int, list[int]]:
    """Returns the places in the test set of the sentences of every group, groups in their order.

    Args:
        bench: the data.
        group_of: function from source and reference to a group. Groups of less than 10 sentences are left out.
    """
    groups: dict[int, list[int]] = {}
    for index, pair in enumerate(zip(*test_pairs(bench), strict=True)):
        groups.setdefault(group_of(*pair), []).append(index)
    return {group: members for group, members in sorted(groups.items()) if len(members) >= SMALLEST_GROUP}


def short_and_long(bench: Workbench) -> tuple[list[int], list[int]]:
    """Returns the lengths of the test set, as groups of its sentences: the shorter half and the longer half.

    Raises:
        ValueError: the test set has less than two such groups.
    """
    lengths = list(group_test_pairs(bench, length_of(bench)))
    if len(lengths) < 2:
        raise ValueError(
            f"test_file has {counted(len(lengths), 'group')} of {SMALLEST_GROUP} or more sentences of about the same "
            "length (five lengths are a group); short and long ones are compared, so it needs two. Name a larger file."
        )
    return lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]


def scores_by(bench: Workbench, runs: Sequence[Run], group_of: Callable[[str, str], int]) -> dict[int, list[float]]:
    """Returns the BLEU of every run, from the translations that it wrote, in every group of `group_test_pairs`."""
    references = test_pairs(bench)[1]
    translations = [test_hypotheses(bench.path(run)) for run in runs]
    return {
        group: [
            bleu(bench, [found[index] for index in members], [references[index] for index in members])
            for found in translations
        ]
        for group, members in group_test_pairs(bench, group_of).items()
    }


def means_over(groups: Sequence[int], scores: Mapping[int, Sequence[float]]) -> list[float]:
    """Returns the mean over some groups of the scores of `scores_by`, for every run."""
    return [statistics.mean(each) for each in zip(*(scores[group] for group in groups), strict=True)]


def columns_of(groups: Mapping[int, list[float]]) -> tuple[list[int], list[list[float]]]:
    """Returns the groups and their scores as two lists."""
    return list(groups), list(groups.values())


def test_hypotheses(folder: Path) -> list[str]:
    """Returns the translations of the test set that a training run wrote."""
    return (folder / "test_hypotheses.txt").read_text(encoding="utf-8").split("\n")[:-1]


def short_sentences(bench: Workbench) -> dict[str, str]:
    """Writes the training pairs whose source is at most half as long as the longest, and returns the setting."""
    settings = data_of(bench)
    languages = settings["source_language"], settings["target_language"]
    # The file is kept for this data alone: other data, or another direction, has other short sentences.
    digest = hashlib.sha256("\n".join((settings["train_file"], *languages)).encode()).hexdigest()[:10]
    path = bench.data_folder / f"{bench.scale}_short_{digest}.tsv"
    if not path.exists():
        sources, targets = training_pairs(bench)
        limit = max(len(source.split()) for source in sources) / 2
        lines = ["\t".join(languages)]
        for source, target in zip(sources, targets, strict=True):
            if len(source.split()) <= limit:
                lines.append("\t".join(" ".join(text.split()) for text in (source, target)))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, "\n".join(lines) + "\n")
    return {"train_file": str(path)}


def words_are_known(bench: Workbench, runs: Sequence[Run]) -> Callable[[str, str], int]:
    """Returns a function from source and reference to 1 if the vocabularies of all runs have all of their words."""
    pairs = [load_tokenizers(str(bench.path(run))) for run in runs]

    def are_known(source: str, reference: str) -> int:
        return int(
            all(
                tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
                for tokenizers in pairs
                for tokenizer, text in zip(tokenizers, (source, reference), strict=True)
            )
        )

    return are_known


def flops_of(bench: Workbench, run: Run) -> float:
    """Returns the floating-point operations of a run's training, by `training_flops`.

    A run counts the tokens of its targets, and its sources are about as long.
    """
    tokens = bench.results(run)["train_target_tokens"]
    return training_flops(load(bench.path(run)).model, tokens, tokens)


def name_seed(bench: Workbench, index: int) -> str:
    """Returns ", seed N" if there are several seeds."""
    return f", seed {bench.seeds[index]}" if len(bench.seeds) > 1 else ""


def training_curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Figure":
    """Draws the losses of runs by their names."""
    return plot_curves(logs, ["loss"])
