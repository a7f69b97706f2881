"""What an experiment finds and how it decides, against counts by hand."""

import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from papers_to_gpt.engine.operations import count_multiplied_weights
from papers_to_gpt.papers import number_lists, sutskever2014, translators, why_transformers
from papers_to_gpt.papers.bahdanau2014 import alignment_scores, chance_share, diagonal_share, likely_words
from papers_to_gpt.papers.encoder_heads import describe_heads
from papers_to_gpt.papers.experiment import (
    Chart,
    Experiment,
    Finding,
    Table,
    Verdict,
    combine,
    compare,
    critical_t,
    is_above,
    mean_and_error,
    over_seeds,
)
from papers_to_gpt.papers.number_lists import write_number_lists
from papers_to_gpt.papers.recall_lists import DISTANCES, letters_of, recalled, write_recall
from papers_to_gpt.papers.registry import EXPERIMENTS, list_experiments, select
from papers_to_gpt.papers.reports import write_report, write_summary
from papers_to_gpt.papers.sutskever2014 import principal_components
from papers_to_gpt.papers.translators import best_candidates, means_over, short_and_long, words_are_known
from papers_to_gpt.papers.why_transformers import loss_by_tokens, power_law
from papers_to_gpt.papers.word_alignment import WordTranslations
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.papers.zero_shot_tasks import passages
from papers_to_gpt.plots.line_plots import Series
from papers_to_gpt.settings.reproduction import NEEDED, parse
from seq2seq_scratch import RNNSeq2SeqConfig, RNNSeq2SeqForConditionalGeneration
from seq2seq_scratch.alignments import Alignment
from seq2seq_scratch.data.nbest_lists import Candidate
from seq2seq_scratch.modeling_transformer import sinusoids


def test_one_seed_decides_a_direction_and_several_need_a_margin():
    names = ("a", "b")
    assert compare([2.0], [1.0], names, score="BLEU").holds
    assert not compare([2.0], [1.0], names, score="loss", lower_is_better=True).holds
    assert compare([2.0, 2.1, 2.2], [1.0, 1.0, 1.3], names, score="BLEU").holds
    # Gains of 2 and -1: a mean of 0.5 with a standard error of 1.5.
    verdict = compare([3.0, 1.0], [1.0, 2.0], names, score="BLEU")
    assert verdict.holds is None
    assert compare([1.0, 1.0, 1.3], [2.0, 2.1, 2.2], names, score="BLEU").holds is False
    assert "gain of 0.50 with a standard error of 1.50 over 2 seeds." in verdict.reason
    with pytest.raises(ValueError, match="no scores"):
        compare([], [], names, score="BLEU")


def test_a_mean_over_seeds_is_above_a_limit_by_a_margin():
    assert is_above([1.1], 1.0) is True and is_above([0.9], 1.0) is False
    assert is_above([1.3, 1.4, 1.5], 1.0) is True and is_above([0.5, 0.6, 0.7], 1.0) is False
    assert is_above([0.0, 3.0], 1.0) is None and is_above([1.2, 1.2], 1.2) is None
    assert is_above([math.nan], 1.0) is None and is_above([1.0, math.nan], 0.0) is None
    # Deviations of 1 from 2: a standard deviation of 1, divided by the root of 3.
    assert mean_and_error([1.0, 2.0, 3.0], 2) == "2.00 (standard error 0.58)" and mean_and_error([4.56]) == "4.6"


def test_several_seeds_are_tested_at_the_level_of_five_percent_whatever_their_number():
    # The two-sided 95 % quantiles as tables of Student's t print them.
    assert [round(critical_t(number), 3) for number in (2, 3, 5, 10, 31)] == [12.706, 4.303, 2.776, 2.262, 2.042]
    assert critical_t(4) == pytest.approx(student.ppf(0.975, 3))
    # Values whose mean is 1 and whose p-value crosses 5 %.
    for values in ([0.55, 1.0, 1.45], [0.65, 1.0, 1.35], [0.9, 1.1], [0.95, 1.05], [0.0, 0.5, 1.0, 1.5, 2.0, 1.0]):
        assert (is_above(values, 0) is True) == (ttest_1samp(values, 0).pvalue < 0.05)
    # Three standard errors: too few for three seeds.
    verdict = compare([2.0, 3.0, 4.0], [1.5, 1.0, 1.5], ("a", "b"), score="BLEU")
    assert (verdict.holds, verdict.seeds) == (None, 3)
    assert "over 3 seeds, two-sided, at the 5 % level, with 2 degrees of freedom." in verdict.test
    assert "more than 4.30 standard errors from its limit" in verdict.test
    assert compare([2.0], [1.0], ("a", "b"), score="BLEU").test is None
    one = Verdict(True, "1 > 0.")
    assert combine(one, verdict).test == verdict.test and combine(one, one).test is None


def test_a_run_that_diverged_is_worse_than_any_loss_and_as_bad_as_another():
    def holds(with_it, without):
        return compare(with_it, without, ("it", "none"), score="Loss", lower_is_better=True).holds

    for diverged in (math.nan, math.inf):
        assert holds([1.0], [diverged]) is True and holds([diverged], [1e20]) is False
        assert holds([1.0, 1.1, 1.2], [diverged] * 3) is True and holds([diverged] * 3, [1.0, 1.1, 1.2]) is False
        assert holds([diverged] * 3, [diverged] * 3) is None
        # One of three that diverged is one deviation, and decides as little as one very large loss.
        assert holds([1.0, 1.0, 1.0], [1.0, 1.0, diverged]) is holds([1.0, 1.0, 1.0], [1.0, 1.0, 1e9]) is None
    verdict = compare([1.0, 1.0], [math.inf, 2.0], ("it", "none"), score="Loss", lower_is_better=True)
    assert verdict.reason == (
        "Loss: 1.00 with it, inf with none, over 2 seeds. Runs that diverged, which counts as worse than any finite "
        "value: 1 of 2 with none."
    )
    # A score that is not a number, such as a correlation with a constant, is no loss.
    assert compare([1.0], [math.nan], ("a", "b"), score="Pearson").holds is None


def test_a_claim_of_several_parts_holds_only_as_a_whole():
    yes, no, open_ = (Verdict(holds, f"{holds}.") for holds in (True, False, None))
    assert combine(yes, yes).holds is True
    assert combine(yes, open_).holds is None
    assert combine(open_, no).holds is False
    assert combine(yes, no).reason == "True. False."


def test_every_experiment_says_when_its_claim_holds_before_it_measures():
    assert all(
        each.criterion.startswith("It holds if ") and each.criterion.endswith(".") for each in EXPERIMENTS.values()
    )


def test_a_claim_that_does_not_hold_comes_with_the_likely_cause_of_its_scale():
    claim = "Ones are ones.", "It holds if all are."
    experiment = Experiment("one", "paper", "Table 1", *claim, lambda bench: None, 1, {"small": "Few are read."})
    for holds in (False, None):
        assert experiment.judge(Verdict(holds, "0 < 1."), "small") == Verdict(holds, "0 < 1. Few are read.")
        assert experiment.judge(Verdict(holds, "0 < 1."), "glue") == Verdict(holds, "0 < 1.")
    assert experiment.judge(Verdict(True, "1 > 0."), "small") == Verdict(True, "1 > 0.")
    for each in EXPERIMENTS.values():
        assert "small" in each.unless and set(each.unless) <= set(each.scales), each.name
        assert all(text.endswith(".") for text in each.unless.values())


def test_experiments_are_selected_by_name_paper_and_core_in_the_order_of_the_papers():
    chosen = [each.name for each in select(["heads", "sutskever2014", "heads"])]
    assert chosen == [each.name for each in EXPERIMENTS.values() if each.paper == "sutskever2014"] + ["heads"]
    assert len(select(["core"])) == 12 and len(select(["all"])) == len(EXPERIMENTS)
    with pytest.raises(ValueError, match="no experiment 'alignment'. Nearest: alignments"):
        select(["alignment"])
    listed = list_experiments()
    assert all(f"{name} " in listed for name in EXPERIMENTS)


def test_the_experiments_of_radford_2018_are_in_the_order_of_its_section_5():
    items = [each.item for each in EXPERIMENTS.values() if each.paper == "radford2018"]
    assert items == ["Figure 2, left", "Figure 2, right", "section 5", "Table 5", "section 5"]


def test_a_report_has_table_paper_verdict_csv_and_json_and_pictures(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    runs = [Run("pretrain_gpt1", None, {"seed": 42}), Run("finetune_gpt1", None, {"seeds": [1, 2]})]
    bench = SimpleNamespace(folder=tmp_path / "one", seeds=[1, 2, 3], scale="small", runs=runs, command=str)
    claim = "Ones are ones.", "It holds if all are."
    experiment = Experiment("one", "sutskever2014", "Table 1", *claim, lambda bench: None, minutes=1, unless={})
    finding = Finding(
        method="Ones are counted.",
        table=Table(("what", "count"), [("one | two", 1.0), ("none", None)], digits=1),
        paper=Table(("what", "count"), [("one", 2)]),
        verdict=Verdict(False, "They are not.", 3, {"counts": {"by seed": [math.nan, math.inf, 1.5]}}),
        charts=[Chart("counts", "x", "y", [Series("a", [1, 2], [3.0, 4.0], [2.0, 3.0], [4.0, 5.0])])],
    )
    write_report(experiment, finding, bench, 0.5, {"experiment": "one", "scale": "novels"})
    report = (tmp_path / "one" / "report.md").read_text()
    title = "Sutskever et al. 2014: Sequence to Sequence Learning with Neural Networks"
    assert report.startswith(f"# one: Table 1\n\n{title}.\n\n**Claim:** Ones are ones. It holds if all are.\n")
    assert "Scale `small`, seeds of the runs 1, 2, 42, 0.5 minutes." in report
    assert "Values are means over the seeds; error bars reach from the lowest seed to the highest." in report
    for part in ("| one \\| two | 1.0 |", "| none |  |", "The claim does not hold here. They are not.", "![counts]"):
        assert part in report
    assert (tmp_path / "one" / "counts.csv").read_text() == "series,x,y,low,high\na,1,3.0,2.0,4.0\na,2,4.0,3.0,5.0\n"
    assert (tmp_path / "one" / "table.csv").read_text() == "what,count\none | two,1.0\nnone,\n"
    assert {"counts.png", "counts.svg"} <= {path.name for path in (tmp_path / "one").iterdir()}
    results = json.loads((tmp_path / "one" / "results.json").read_text())
    assert (results["verdict"], results["rows"]) == ("does not hold", [["one | two", 1.0], ["none", None]])
    assert results["paper"] == {"columns": ["what", "count"], "rows": [["one", 2]]}
    assert results["numbers"] == {"counts": {"by seed": ["nan", "inf", 1.5]}}  # JSON has no such numbers
    assert results["test"] == finding.verdict.test and f"**Test.** {finding.verdict.test}\n" in report
    summary = write_summary(tmp_path, [experiment])
    row = "sutskever2014, Table 1 | Ones are ones. | does not hold | They are not. | 0.5 | novels"
    assert f"| [one](one/report.md) | {row} |" in summary


def test_lists_of_numbers_have_one_word_a_number_and_held_out_lists_are_in_no_other_file(tmp_path, monkeypatch):
    sizes = {"train_size": 50, "validation_size": 10, "test_size_of_length": 3}
    settings = write_number_lists(tmp_path, train_lengths=[2, 3], test_lengths=[2, 5], **sizes)
    rows = {
        name: [line.split("\t") for line in open(settings[f"{name}_file"], encoding="utf-8").read().splitlines()[1:]]
        for name in ("train", "validation", "test")
    }
    assert {name: len(each) for name, each in rows.items()} == {"train": 50, "validation": 10, "test": 6}
    assert all(len(source.split()) == len(target.split()) for each in rows.values() for source, target in each)
    assert [len(source.split()) for source, _ in rows["test"]] == [2] * 3 + [5] * 3
    held_out = [source for name in ("validation", "test") for source, _ in rows[name]]
    assert len(set(held_out)) == len(held_out)
    assert not set(held_out) & {source for source, _ in rows["train"]}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "validation.tsv").unlink()  # as after an interruption
    write_number_lists(tmp_path, train_lengths=[2, 3], test_lengths=[2, 5], **sizes)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(number_lists, "num2words", lambda *arguments, **named: pytest.fail("drawn again"))
    assert write_number_lists(tmp_path, train_lengths=[2, 3], test_lengths=[2, 5], **sizes) == settings


def test_an_alignment_is_right_where_the_weights_are_on_the_words_own_tokens():
    # Two source words of two tokens and one token; "\u2581" begins a word.
    source, target = ("\u2581for", "ty", "\u2581six", "</s>"), ("\u2581vierzig", "\u2581se", "chs")
    weights = np.array([[0.2, 0.5, 0.2, 0.1], [0.6, 0.1, 0.2, 0.1], [0.0, 0.1, 0.9, 0.0]])
    share, hits, near = alignment_scores([Alignment(source, target, weights), None])
    assert share == pytest.approx((0.7 + 0.2 + 0.9) / 3)
    assert (hits, near) == (pytest.approx(2 / 3), 1.0)


def test_alignments_are_compared_with_the_words_that_are_known_to_be_right():
    source, target = ("\u2581a", "\u2581b", "</s>"), ("\u2581x", "\u2581y")
    crossed = Alignment(source, target, np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1]]))
    assert alignment_scores([crossed], [[1, 0]]) == (pytest.approx(0.65), 1.0, 1.0)
    assert alignment_scores([crossed], [[0, None]]) == (pytest.approx(0.2), 0.0, 1.0)
    # Words between spaces that are not those of the tokens, and no known word at all.
    assert alignment_scores([crossed], [[0, 1, 1]]) == alignment_scores([crossed], [[None, None]]) == (0, 0, 0)
    right = [[1, 0, None], [0]]
    assert diagonal_share(right, ["a b c", "a"], ["x y z", "x"]) == pytest.approx(1 / 3)


def test_the_chance_of_a_right_word_counts_words_as_the_hits_do():
    # A guess is right for one word of one, and for one of three: two of four words.
    assert chance_share(["seven", "one two three"]) == pytest.approx(2 / 4)


def test_word_translations_are_those_that_expectation_maximization_finds():
    pairs = [("das haus", "the house"), ("das buch", "the book"), ("ein Buch", "a book")]
    sources, targets = ([text.split() for text in side] for side in zip(*pairs, strict=True))
    counted = WordTranslations(sources, targets, iterations=1)
    # By hand: the empty word and two source words share each target word. "das" gets a third of the, house, the and
    # book, so half of what it gets is "the".
    by_hand = {"das": {"the": 1 / 2, "house": 1 / 4, "book": 1 / 4}, "haus": {"the": 1 / 2, "house": 1 / 2}}
    for word, translations in by_hand.items():
        for translation, probability in translations.items():
            assert counted._probability(translation, word) == pytest.approx(probability)
    aligned = WordTranslations(sources, targets, iterations=30).align(["Das", "Buch"], ["the", "book", "unheard"])
    assert aligned.shape == (3, 2) and aligned[:2].argmax(axis=1).tolist() == [0, 1]
    assert aligned[2].tolist() == [0.0, 0.0] and (aligned.sum(axis=1) <= 1).all()
    assert likely_words(WordTranslations(sources, targets, iterations=30), "das buch.", "Book, unheard") == [1, None]
    with pytest.raises(ValueError, match="no pair of sentences"):
        WordTranslations([["a"]], [[]])


def test_passages_continue_with_their_own_words_and_with_those_of_another():
    words = [f"w{number}" for number in range(1000)]
    contexts, endings, labels = passages([" ".join(words[:400]), "\n".join(words[400:])], count=8)
    assert len(contexts) == len(endings) == len(labels) == 8 and set(labels) == {0, 1}
    for context, pair, label in zip(contexts, endings, labels, strict=True):
        last = int(context.split()[-1][1:])
        assert pair[label] == " ".join(words[last + 1 : last + 16]) and pair[0] != pair[1]
    assert len(passages([" ".join(words)], count=500)[0]) == 1000 // 75
    with pytest.raises(ValueError, match="100 words; zero_shot needs at least 150"):
        passages([" ".join(words[:100])], count=8)


def test_every_scale_has_experiments_and_the_list_shows_the_scales_of_each():
    listed = list_experiments().splitlines()
    for name, each in EXPERIMENTS.items():
        (line,) = (line for line in listed if line[3:].startswith(f"{name} "))
        assert line.endswith(f"[{', '.join(each.scales)}]")
    counts = {scale: sum(scale in each.scales for each in EXPERIMENTS.values()) for scale in NEEDED}
    assert counts["small"] == len(EXPERIMENTS) and min(counts.values()) >= 3
    assert {scale for each in EXPERIMENTS.values() for scale in each.scales} == set(NEEDED)


def test_heads_are_described_by_where_their_attention_is():
    previous = np.eye(4, k=-1)
    previous[0, 0] = 1.0
    uniform = np.full((4, 4), 0.25)
    described = describe_heads([np.stack([previous, uniform])[None]])
    assert described[0, 0] == (pytest.approx(0.75), "-1", pytest.approx(1.0), pytest.approx(0.0, abs=1e-6))
    distance, _, share, entropy = described[0, 1]
    assert (share, entropy) == (pytest.approx(0.25), pytest.approx(2.0))
    assert distance == pytest.approx(np.abs(np.subtract.outer(range(4), range(4))).mean())


def test_principal_components_are_those_of_the_covariance_matrix():
    vectors = np.random.default_rng(0).normal(size=(20, 5)) * [5, 3, 1, 1, 1]
    points = principal_components(vectors)
    values = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert points.var(axis=0, ddof=1) == pytest.approx(values[:2])
    assert abs(np.corrcoef(points.T)[0, 1]) < 1e-6


def test_the_best_candidate_is_the_reference_or_shares_most_of_its_words():
    texts = [(0, "one"), (0, "two three"), (1, "four six"), (1, "six six"), (1, "")]
    candidates = [Candidate(source, text, 0.0) for source, text in texts]
    assert best_candidates(candidates, ["two three", "four five"]) == ["two three", "four six"]


def test_a_power_law_is_found_again():
    sizes = [10, 100, 1000]
    assert power_law(sizes, [3 * size**-0.25 for size in sizes]) == pytest.approx((0.25, 1.0))
    exponent, explained = power_law([1, 10, 100], [1.0, 10.0, 1.0])
    assert (exponent, explained) == (pytest.approx(0.0, abs=1e-9), pytest.approx(0.0, abs=1e-9))
    # A size that diverged follows no law.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(power_law([1, 10, 100], [3.0, 2.0, math.inf])).all()


def test_the_loss_of_a_run_stands_over_the_tokens_that_it_had_read():
    def log(losses):
        lines = [{"kind": "eval", "update": update, "loss": loss} for update, loss in losses.items()]
        return [{"kind": "train", "update": 1, "loss": 9.0}, *lines]

    logs = {"a": log({10: 4.0, 40: 1.0}), "b": log({10: 2.0, 40: 2.0})}
    tokens = {"a": 1000, "b": 1200}
    bench = SimpleNamespace(log=logs.get, results=lambda run: {"train_target_tokens": tokens[run]})
    series = loss_by_tokens("model", bench, ["a", "b"])
    assert (series.x, series.y) == ([275, 1100], [3.0, 1.5])
    assert (series.low, series.high) == ([2.0, 1.0], [4.0, 2.0])


def test_letters_are_recalled_if_they_are_right_at_their_place(tmp_path):
    settings = write_recall(tmp_path, train_size=10, test_size_of_distance=2)
    references = letters_of(settings["test_file"])
    assert len(references) == 2 * len(DISTANCES) and all(len(each.split()) == 4 for each in references)
    lines = open(settings["test_file"], encoding="utf-8").read().splitlines()[1:]
    assert [len(line.split("\t")[0].split()) - 4 for line in lines] == [each for each in DISTANCES for _ in range(2)]
    # Of the first distance one answer is right and one half right; of all others nothing is.
    half = " ".join([*references[1].split()[:2], "I", "I"])
    assert recalled([references[0], half, *[""] * (len(references) - 2)], references) == [75, *[0] * 6]


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_matrix_of_the_softmax_is_counted_once_and_tables_are_not(is_tied):
    config = RNNSeq2SeqConfig(
        vocab_size=50, decoder_vocab_size=30, embedding_size=8, hidden_size=8, num_hidden_layers=1,
        tie_word_embeddings=is_tied,
    )  # fmt: skip
    # Encoder and decoder: four gates, each with a matrix for the input and one for the state; then the softmax.
    assert (
        sum(count_multiplied_weights(RNNSeq2SeqForConditionalGeneration(config))) == 2 * 4 * (8 * 8 + 8 * 8) + 30 * 8
    )


def test_products_of_sinusoids_depend_on_the_distance_alone():
    table = sinusoids(12, 8)
    products = table @ table.T
    for offset in range(6):
        torch.testing.assert_close(products.diagonal(offset), products[0, offset].expand(12 - offset))
    assert math.isclose(products[0, 0], 4.0, rel_tol=1e-6)


@pytest.mark.parametrize(("seeds", "holds"), [([1], True), ([1, 2], None)])
def test_a_recall_that_depends_on_the_seed_leaves_the_long_range_undecided(seeds, holds, tmp_path, monkeypatch):
    letters = {
        "transformer": [95, 15],
        "rnn_seq2seq": [50, 10],
        "bahdanau": [90, 90],
    }  # with the first seed, the second
    found = {}

    def percentages(folder, references):
        model = next(name for name in letters if folder.name.startswith(f"numbers_{name}"))
        runs = found.setdefault(model, [])
        if folder not in runs:
            runs.append(folder)
        return [letters[model][runs.index(folder)]] * len(DISTANCES)

    monkeypatch.setattr(Workbench, "make", lambda bench, *runs, **options: [bench.path(run) for run in runs])
    monkeypatch.setattr(why_transformers, "test_hypotheses", lambda folder: folder)
    monkeypatch.setattr(why_transformers, "recalled", percentages)
    words = ["run", "long_range", "--seeds", *map(str, seeds), "--output_dir", str(tmp_path)]
    (settings,) = parse(words)
    assert why_transformers.long_range(Workbench(settings, "long_range")).verdict.holds is holds


def test_unknown_words_are_those_of_any_vocabulary(monkeypatch):
    class Words:
        unk_token_id = 0

        def __init__(self, *words):
            self.words = words

        def __call__(self, text):
            return {"input_ids": [1 if word in self.words else 0 for word in text.split()]}

    pairs = {"short": (Words("ein", "Hund"), Words("a", "dog")), "all": (Words("ein", "Hund", "bellt"), Words("a"))}
    monkeypatch.setattr(translators, "load_tokenizers", pairs.get)
    bench = SimpleNamespace(path=str)
    known = {names: words_are_known(bench, names.split()) for names in ("short", "all", "short all")}
    texts = [("ein Hund", "a"), ("ein Hund bellt", "a"), ("ein Hund", "a dog")]
    assert [known["short"](*pair) for pair in texts] == [1, 0, 1]
    assert [known["all"](*pair) for pair in texts] == [1, 1, 0]
    assert [known["short all"](*pair) for pair in texts] == [1, 0, 0]


def test_a_test_set_without_short_and_long_sentences_is_refused_before_training(tmp_path, monkeypatch):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(["de\ten", *["ein Hund\ta dog"] * 12]) + "\n")
    files = [f"--{split}_file={tmp_path / split}.tsv" for split in ("train", "validation", "test")]
    monkeypatch.setattr(Workbench, "make", lambda *arguments: pytest.fail("trained"))
    for name in ("length_and_rarity", "attention_by_length"):
        (settings,) = parse(["run", name, "--scale", "multi30k", *files, "--output_dir", str(tmp_path)])
        with pytest.raises(ValueError, match="test_file has 1 group of 10 or more .*; short and long ones"):
            EXPERIMENTS[name].measure(Workbench(settings, name))


def test_lengths_are_halved_and_averaged_over_each_half(tmp_path):
    (settings,) = parse(["run", "heads", "--trial", "true", "--output_dir", str(tmp_path)])
    short, long = short_and_long(Workbench(settings, "heads"))
    assert (short, long) == (list(range(1, 16)), list(range(16, 31)))
    # Two runs, three lengths.
    assert means_over([1, 3], {1: [10, 20], 2: [0, 0], 3: [30, 60]}) == [20, 40]


@pytest.mark.parametrize(
    ("vectors", "holds"), [([[0, 1], [0, 1.1], [1, 0], [1.1, 0]], True), ([[0, 1], [1, 0], [0, 1.1], [1.1, 0]], False)]
)
def test_sentences_of_one_meaning_are_to_be_nearer_to_each_other_than_to_the_others(
    vectors, holds, tmp_path, monkeypatch
):
    read = []

    def encode(model, tokenizer, sentences):
        read.extend(sentences)
        return np.array(vectors)

    translator = SimpleNamespace(model=None, source_tokenizer=None)
    monkeypatch.setattr(Workbench, "make", lambda bench, *runs, **options: [bench.path(run) for run in runs])
    monkeypatch.setattr(sutskever2014, "load", lambda folder: translator)
    monkeypatch.setattr(sutskever2014, "encode_sentences", encode)
    files = [f"--{split}_file={split}.tsv" for split in ("train", "validation", "test")]
    (settings,) = parse(["run", "sentence_vectors", "--scale", "multi30k", *files, "--output_dir", str(tmp_path)])
    verdict = EXPERIMENTS["sentence_vectors"].measure(Workbench(settings, "sentence_vectors")).verdict
    assert verdict.holds is holds
    assert verdict.reason.startswith("The distance is ") and "orders" not in verdict.reason
    # As captions are written, which the model has learned from.
    assert all(text[0].isupper() and text.endswith(".") and " ." not in text for text in read)


@pytest.mark.parametrize("kind", ["lines", "bars"])
def test_the_loss_of_a_run_that_diverged_is_left_out_of_a_chart_and_kept_in_its_data(kind):
    pytest.importorskip("matplotlib")
    series = over_seeds("a", [1, 2, 3], [[1.0, 1.2], [math.inf, 1.1], [2.0, 2.0]])
    chart = Chart("losses", "x", "y", [series], kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (axes,) = chart.draw().axes
    assert axes.get_ylim()[1] < 3 and chart.rows()[1] == ("a", 2, math.inf, 1.1, math.inf)
