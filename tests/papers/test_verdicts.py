"""Every claim is decided by all seeds, by the numbers that its criterion names."""

import importlib
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from said_numbers import said_but_not_kept

from papers_to_gpt.papers import bahdanau2014, radford2018, sutskever2014, timing, vaswani2017, why_transformers
from papers_to_gpt.papers.experiment import Chart, Finding, Table, Verdict
from papers_to_gpt.papers.registry import EXPERIMENTS
from papers_to_gpt.papers.workbench import Workbench
from papers_to_gpt.plots.line_plots import Series
from papers_to_gpt.settings.reproduction import parse


@pytest.fixture
def decide(tmp_path, monkeypatch):
    """Returns a function that gives the finding of an experiment whose runs are not made but have given results."""

    def find(name, seeds, results_of=lambda run: {}, module=None, **stubs):
        made = {}

        def make(bench, *runs, **options):
            made.update((bench.path(run), run) for run in runs)
            return [bench.path(run) for run in runs]

        monkeypatch.setattr(Workbench, "make", make)
        monkeypatch.setattr(Workbench, "results", lambda bench, run: results_of(run))
        for stub, value in stubs.items():
            monkeypatch.setattr(module, stub, value)
        words = ["run", name, "--seeds", *map(str, seeds), "--output_dir", str(tmp_path)]
        (settings,) = parse([*words, "--trial", "true"])  # little data
        find.made = made
        return EXPERIMENTS[name].measure(Workbench(settings, name))

    return find


@pytest.mark.parametrize(
    ("perplexities", "holds"),
    [
        ({1: [4, 4.1], 2: [3, 3.1], 3: [2, 2.1], 4: [1, 1.1]}, True),
        ({1: [4, 4.1], 2: [3, 3.1], 3: [2, 2.1], 4: [3, 3.1]}, False),
        ({1: [4, 4.1], 2: [3, 4.2], 3: [2, 2.1], 4: [1, 1.1]}, None),
    ],
)
def test_every_layer_is_to_lower_the_perplexity(perplexities, holds, decide):
    def results_of(run):
        return {"eval_perplexity": perplexities[run.settings["num_hidden_layers"]][run.settings["seed"] - 1]}

    assert decide("depth", [1, 2], results_of).verdict.holds is holds


@pytest.mark.parametrize(
    ("scores", "flops", "holds"),
    [
        ({"transformer": [30, 31], "bahdanau": [20, 21]}, {"transformer": 1}, True),
        ({"transformer": [30, 31], "bahdanau": [20, 21]}, {"transformer": 3}, False),
        ({"transformer": [20, 21], "bahdanau": [30, 31]}, {"transformer": 1}, False),
        ({"transformer": [30, 31], "bahdanau": [20, 40]}, {"transformer": 1}, None),
    ],
)
def test_the_best_score_is_to_come_with_the_fewest_operations(scores, flops, holds, decide):
    def results_of(run):
        found = scores.get(run.preset.split("/")[1], [10, 11])
        return {"test_sacrebleu": found[run.settings["seed"] - 1], "train_seconds": 1.0}

    stubs = {"flops_of": lambda bench, run: float(flops.get(run.preset.split("/")[1], 2))}
    assert decide("score_by_flops", [1, 2], results_of, vaswani2017, **stubs).verdict.holds is holds


@pytest.mark.parametrize(
    ("learned", "absent", "holds"),
    [([30.2, 31.1], [5, 6], True), ([40, 41], [5, 6], False), ([30, 31], [40, 41], False), ([30, 34], [5, 6], None)],
)
def test_sinusoids_are_to_beat_no_positions_and_to_be_as_good_as_learned_ones(learned, absent, holds, decide):
    scores = {"learned": learned, "absent": absent, None: [30, 31]}

    def results_of(run):
        found = scores[run.settings.get("position_embedding_type")]
        return {"test_sacrebleu": found[run.settings["seed"] - 1], "eval_perplexity": 1.0}

    assert decide("positions", [1, 2], results_of).verdict.holds is holds


@pytest.mark.parametrize(("lost", "holds"), [([4.0, 4.02], True), ([8.0, 8.1], False), ([3.0, 8.0], None)])
def test_few_points_are_to_be_lost_by_long_sentences(lost, holds, decide):
    stubs = {
        "length_of": lambda bench: None,
        "rarity_of": lambda bench: None,
        "short_and_long": lambda bench: ([1], [2]),
        "scores_by": lambda bench, runs, group_of: {1: [20.0, 20.0], 2: [20 - each for each in lost]},
    }
    assert decide("length_and_rarity", [1, 2], module=sutskever2014, **stubs).verdict.holds is holds


@pytest.mark.parametrize(
    ("hits", "guess", "holds"), [([0.9, 0.8], 0.1, True), ([0.9, 0.4], 0.1, False), ([0.9, 0.8], 0.85, False)]
)
def test_attention_is_to_be_on_the_right_word_with_every_seed_and_more_often_than_a_guess(hits, guess, holds, decide):
    left = list(hits)
    translator = SimpleNamespace(translate=lambda texts, beams: texts)
    stubs = {
        "load": lambda folder: translator,
        "_parts": lambda translator: (None, None, None),
        "test_hypotheses": lambda folder: [],
        "align": lambda *arguments: [],
        "alignment_scores": lambda found, right: (0.5, left.pop(0), 1.0),
        "chance_share": lambda sources: guess,
    }
    assert decide("alignments", [1, 2], module=bahdanau2014, **stubs).verdict.holds is holds


@pytest.mark.parametrize(
    ("most", "far", "holds"),
    [
        ([0.9, 0.89], [6.0, 6.1], True),
        ([0.9, 0.2], [6, 6.1], None),
        ([0.9, 0.89], [6, 2], None),
        ([0.4, 0.39], [6, 6.1], False),
    ],
)
def test_the_heads_of_every_seed_decide_whether_they_specialise(most, far, holds, decide):
    class Words:
        all_special_tokens = ()

        def __call__(self, text):
            return SimpleNamespace(input_ids=[0])

        def convert_ids_to_tokens(self, ids):
            return ["word"]

    described = iter(
        {(0, 0): (2.0, "-1", share, 1.0), (0, 1): (distance, "0", 0.1, 1.0)}
        for share, distance in zip(most, far, strict=True)
    )
    stubs = {
        "load": lambda folder: SimpleNamespace(source_tokenizer=Words()),
        "encoder_attention": lambda translator, sentences: [np.zeros((1, 2, 1, 1))] * len(sentences),
        "describe_heads": lambda attention: next(described),
    }
    finding = decide("heads", [1, 2], module=vaswani2017, **stubs)
    assert finding.verdict.holds is holds
    assert finding.verdict.reason.startswith(
        f"With the first seed, {int(most[0] > 0.5)} of 2 heads put more than 50 %"
    )


@pytest.mark.parametrize(("lstm", "holds"), [([0.01, 0.0101], True), ([0.01, 0.5], None), ([0.5, 0.6], False)])
def test_the_gradients_of_every_seed_decide_and_with_the_papers_initial_weights(lstm, holds, decide):
    def gradients(translator, sources, references):
        model, state, seed = translator.model.config
        first = lstm[seed - 1] if (model, state) == ("LSTM", "paper") else 0.001 if model == "LSTM" else 1.0
        return np.array([first] * 2 + [1.0] * 8)

    def load(folder):
        run = decide.made[folder]
        model = "LSTM" if run.preset.endswith("rnn_seq2seq") else "other"
        config = model, "trained", run.settings["seed"]
        return SimpleNamespace(model=SimpleNamespace(config=config), source_tokenizer=None, target_tokenizer=None)

    def untrained(config, seed, **initializers):
        return SimpleNamespace(config=(config[0], "paper" if initializers else "preset", seed))

    stubs = {"load": load, "_untrained": untrained, "source_gradients": gradients}
    assert decide("gradients", [1, 2], module=why_transformers, **stubs).verdict.holds is holds


@pytest.mark.parametrize(
    ("model", "losses", "holds"),
    [
        (None, None, True),
        ("transformer", [[4.0, 4.1], [3.0, 3.1], [2.0, 2.1], [2.5, 2.6]], False),
        ("transformer", [[4.0, 4.1], [3.0, 4.2], [2.0, 2.1], [1.5, 1.6]], None),
        # Every step is a fall, but the last one is no part of a power law.
        ("gpt1_mini", [[4.0, 4.1], [3.99, 4.09], [3.98, 4.08], [1.0, 1.1]], False),
    ],
)
def test_the_loss_of_every_model_is_to_fall_with_each_size_by_a_power_law(model, losses, holds, decide):
    def width(run):
        return run.settings.get("hidden_size", run.settings.get("d_model"))

    def results_of(run):
        if model is None or not run.preset.endswith(model):
            return {"eval_loss": 5.0 * width(run) ** -0.3 + 0.001 * run.settings.get("seed", 1)}
        widths = sorted({width(each) for each in decide.made.values() if each.preset == run.preset})
        return {"eval_loss": losses[widths.index(width(run))][run.settings["seed"] - 1]}

    stubs = {
        "count_weights": lambda folder: width(decide.made[folder]),
        "loss_by_tokens": lambda name, bench, runs: Series(name, [1, 2], [2.0, 1.0]),
    }
    assert decide("scaling", [1, 2], results_of, why_transformers, **stubs).verdict.holds is holds


@pytest.mark.parametrize(
    ("transformer", "lstm", "holds"),
    [([60, 80], [60, 70], True), ([80, 70], [60, 65], False), ([60, 80], [60, 90], False)],
)
def test_pretraining_is_to_teach_tasks_and_the_transformer_more_than_the_lstm(transformer, lstm, holds, decide):
    scores = iter([*transformer, *lstm])
    stubs = {
        "_checkpoints": lambda folder: [1, 2],
        "update_of": int,
        "GPT1ForCausalLM": SimpleNamespace(from_pretrained=lambda name: SimpleNamespace(eval=lambda: None)),
        "AutoTokenizer": SimpleNamespace(from_pretrained=lambda name: None),
        "heuristics_of_stories": lambda: ({"cloze": lambda model, tokenizer: next(scores)}, "A note."),
    }
    finding = decide("zero_shot", [1, 2], lambda run: {"train_updates": 2}, radford2018, **stubs)
    assert finding.verdict.holds is holds
    assert finding.notes == [
        "A note.",
        "There is one pre-training of each model, with seed 42, whatever `--seeds` says.",
    ]
    # From chance, which is 50, to 100.
    assert list(finding.charts[0].series[0].y) == [(each - 50) / 50 for each in transformer]


def test_gains_on_tasks_of_several_sizes_are_drawn_from_the_lowest_seed_to_the_highest(monkeypatch):
    found = {"small": (10, {radford2018.WITH: [5.0, 9.0], radford2018.WITHOUT: [4.0, 4.0]})}
    found["large"] = (90, {radford2018.WITH: [8.0, 9.0], radford2018.WITHOUT: [1.0, 1.0]})
    stubs = {"_by_task": lambda bench, model: (found, ""), "pretrained_models": lambda bench, *kinds: ["model"]}
    (settings,) = parse(["run", "auxiliary_loss", "--scale", "glue", "--model_name_or_path", "m"])
    for name, stub in stubs.items():
        monkeypatch.setattr(radford2018, name, stub)
    finding = EXPERIMENTS["auxiliary_loss"].measure(Workbench(settings, "auxiliary_loss"))
    (series,) = finding.charts[0].series
    assert (list(series.x), series.y, series.low, series.high) == ([10, 90], [3.0, 7.5], [1.0, 7.0], [5.0, 8.0])
    assert finding.verdict.holds is None  # 6 and 3 more: 4.5, with a standard error of 1.5, of which 12.7 decide


def test_a_model_that_diverges_without_warm_up_needs_it(decide, monkeypatch, tmp_path):
    monkeypatch.setattr(Workbench, "has_diverged", lambda bench, run: run.settings.get("warmup_steps") == 0)
    monkeypatch.setattr(Workbench, "log", lambda bench, run: [])  # it ended before its first line
    finding = decide("schedule", [1, 2], lambda run: {"eval_loss": 2.0})
    assert finding.verdict.holds is True and not finding.pictures
    assert finding.verdict.reason.endswith(
        "Runs that diverged, which counts as worse than any finite value: 2 of 2 with the full rate from the start."
    )
    assert [row[1] for row in finding.table.rows] == [2.0, math.inf, 2.0, math.inf]
    depth = decide("depth", [1], lambda run: {"eval_perplexity": math.nan})  # of a model that is not finite
    assert depth.verdict.holds is False and [row[1] for row in depth.table.rows] == [math.inf] * 4
    variations = decide("variations", [1], lambda run: {"eval_perplexity": 2.0, "test_sacrebleu": 9.0})
    assert variations.table.rows[0][1:] == (2.0, 9.0)


def test_a_number_that_is_said_and_in_no_file_is_found():
    table = Table(("what", "BLEU"), [("a", 20.04), ("b", "2.10e+12")])
    chart = Chart("curve", "x", "y", [Series("a", [512], [0.97])])
    reason = "BLEU 20.0 over 2 seeds, 2.1e+12 FLOPs, a share of 0.97 at 512, -1.5 behind and 1,400 updates, not 20.1."
    verdict = Verdict(True, reason, 2, {"gain": {"by seed": [-1, -2], "mean": -1.5}})
    # `Finding` itself is checked in this folder.
    found = SimpleNamespace(verdict=verdict, table=table, charts=[chart], method="", notes=["Seeds 1 to 5: 0.31."])
    assert said_but_not_kept(found) == ["1,400", "20.1", "0.31"]
    with pytest.raises(AssertionError, match="1,400 updates"):
        Finding("", table, verdict, charts=[chart])


@pytest.mark.parametrize(
    "name", ["reversed_source", "ensembles", "attention_by_length", "sentence_limits", "layer_cost"]
)
def test_the_numbers_of_further_reports_are_in_their_files(name, decide, monkeypatch):
    scores = itertools.count(10.123, 1.37)

    def results_of(run):
        return {key: next(scores) for key in ("test_sacrebleu", "eval_perplexity")}

    monkeypatch.setattr(timing, "median_seconds", lambda work: next(scores))
    stubs = {
        "sutskever2014": {
            "load": lambda *folders: SimpleNamespace(translate=lambda sources, beams: sources),
            "bleu": lambda bench, translations, references: next(scores),
        },
        "bahdanau2014": {
            "scores_by": lambda bench, runs, group_of: {
                length: [next(scores) for _ in runs] for length in range(1, 31)
            }
        },
    }
    module = importlib.import_module(f"papers_to_gpt.papers.{EXPERIMENTS[name].paper}")
    finding = decide(name, [1, 2], results_of, module, **stubs.get(EXPERIMENTS[name].paper, {}))
    assert any(character.isdigit() for character in finding.verdict.reason)


@pytest.mark.parametrize("name", ["transferred_layers", "transfer_by_updates", "table_5", "both_directions"])
def test_the_numbers_of_reports_on_fine_tuning_are_in_their_files(name, decide, monkeypatch):
    scores = itertools.count(50.123, 1.37)
    module = importlib.import_module(f"papers_to_gpt.papers.{EXPERIMENTS[name].paper}")

    def of_tasks(bench, run):
        return {task: [next(scores) for _ in bench.seeds] for task in ("stories_acceptability", "stories_entailment")}

    stubs = {"task_scores": of_tasks, "what_is_scored": lambda bench, *runs: ""}
    if module is radford2018:
        stubs["config_of"] = lambda model, setting: SimpleNamespace(num_hidden_layers=4)
        stubs["_checkpoints"] = lambda folder: [Path(f"checkpoint-{update}") for update in (250, 500, 750, 1000)]
    else:
        stubs["count_weights"] = lambda folder: 1000
        stubs["tasks_of"] = lambda run: ["stories_acceptability"]
        stubs["short_name"] = lambda task: "acceptability"
    finding = decide(name, [1, 2], lambda run: {"train_seconds": 100.0, "train_updates": 1500}, module, **stubs)
    assert finding.verdict.numbers and finding.verdict.seeds == 2
