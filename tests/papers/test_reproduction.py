"""The command that measures the papers, with trainings of two updates."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml

from gpt1_scratch import GPT1Config, GPT1ForCausalLM, GPT1ForMaskedLM
from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt.papers import sutskever2014, timing, why_transformers
from papers_to_gpt.papers.language_models import finetuned, task_scores, train_rows, what_is_scored
from papers_to_gpt.papers.radford2018 import runs_by_size
from papers_to_gpt.papers.registry import EXPERIMENTS
from papers_to_gpt.papers.reports import write_summary
from papers_to_gpt.papers.reproduction import run as reproduce
from papers_to_gpt.papers.translators import MODELS as TRANSLATORS
from papers_to_gpt.papers.translators import run_of, scaled_widths
from papers_to_gpt.papers.why_transformers import SCALES
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.reproduce import parse
from papers_to_gpt.settings.finetuning import parse as parse_finetuning
from papers_to_gpt.settings.translation import parse as parse_translation
from papers_to_gpt.translation.model_to_train import make_config
from seq2seq_scratch.translation import Hypothesis

GLUE = ["--scale", "glue", "--model_name_or_path", "m"]
MODELS = ("model", "lstm_model")
WORDS = ("kite", "lamp", "mill", "tree")


def test_four_experiments_run_share_their_models_and_are_not_measured_twice(tmp_path, capsys):
    names = ["reversed_source", "alignments", "heads", "gradients"]
    arguments = ["run", *names, "--trial", "true", "--jobs", "1", "--output_dir", str(tmp_path)]
    reproduce(parse(arguments))
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in names}
    assert all(found["verdict"] == "undecided" and found["rows"] for found in results.values())
    for name in names:
        suffixes = {path.suffix for path in (tmp_path / name).iterdir()}
        assert suffixes == {".md", ".json", ".csv"} | ({".png", ".svg"} if find_spec("matplotlib") else set())
    # Two LSTMs, one attention model and one Transformer for seven uses.
    assert len(list((tmp_path / "runs").glob("*.json"))) == 4
    assert sum(len(found["runs"]) for found in results.values()) == 7
    if find_spec("matplotlib"):
        assert {f"heads_layer_{layer}.png" for layer in (0, 1)} <= {
            path.name for path in (tmp_path / "heads").iterdir()
        }
    assert "Run 1 of 1: " in capsys.readouterr().out
    reproduce(parse(arguments))
    said = capsys.readouterr().out
    assert said.count("Measured before") == 4 and "Run 1" not in said
    summary = (tmp_path / "README.md").read_text()
    assert all(f"[{name}]({name}/report.md)" in summary for name in names)


class Asked(Exception):
    """Ends an experiment where it asks for its runs."""


SEEDED = """depth sentence_vectors length_and_rarity sentence_limits attention_by_length alignments positions schedule
    score_by_flops variations heads long_range gradients scaling""".split()


@pytest.mark.parametrize("name", SEEDED)
def test_experiments_train_every_setting_with_every_seed(name, tmp_path, monkeypatch):
    def make(bench, *runs, **options):
        raise Asked(runs)

    monkeypatch.setattr(Workbench, "make", make)
    (settings,) = parse(["run", name, "--seeds", "3", "5", "--output_dir", str(tmp_path)])
    with pytest.raises(Asked) as asked:
        EXPERIMENTS[name].measure(Workbench(settings, name))
    (runs,) = asked.value.args
    seeds = {}
    for run in runs:
        others = {key: value for key, value in run.settings.items() if key != "seed"}
        seeds.setdefault(replace(run, settings=others).name, []).append(run.settings["seed"])
    assert seeds and all(found == [3, 5] for found in seeds.values())


@pytest.mark.parametrize("name", ["sentence_limits", "variations"])
def test_tables_of_settings_are_drawn_with_a_bar_for_each_setting(name, tmp_path, monkeypatch):
    scores = {"test_sacrebleu": 20.0, "eval_perplexity": 2.5}
    monkeypatch.setattr(Workbench, "make", lambda bench, *runs, **options: [bench.path(run) for run in runs])
    monkeypatch.setattr(Workbench, "results", lambda bench, run: scores)
    (settings,) = parse(["run", name, "--trial", "true", "--output_dir", str(tmp_path)])
    finding = EXPERIMENTS[name].measure(Workbench(settings, name))
    (chart,) = finding.charts
    (bars,) = chart.series
    assert list(bars.x) == [row[0] for row in finding.table.rows] and set(bars.y) <= set(scores.values())


def test_rescoring_is_drawn_with_a_bar_for_each_system(tmp_path, monkeypatch):
    lists = SimpleNamespace(
        candidates=lambda sources, beams, count: [[Hypothesis("b", -1.0)]],
        **dict.fromkeys(("model", "source_tokenizer", "target_tokenizer")),
    )
    for name, stub in {
        "load": lambda *folders: lists,
        "test_pairs": lambda bench: (["a"], ["b"]),
        "score_translations": lambda *arguments: [None],
        "bleu": lambda bench, hypotheses, references: 25.0,
    }.items():
        monkeypatch.setattr(sutskever2014, name, stub)
    monkeypatch.setattr(Workbench, "make", lambda bench, *runs, **options: [bench.path(run) for run in runs])
    (settings,) = parse(["run", "rescoring", "--trial", "true", "--output_dir", str(tmp_path)])
    finding = EXPERIMENTS["rescoring"].measure(Workbench(settings, "rescoring"))
    (chart,) = finding.charts
    assert [name.partition(":")[0] for name, _ in finding.table.rows] == list(chart.series[0].x)
    assert list(chart.series[0].y) == [25.0] * 4


def test_the_cost_of_a_layer_stands_beside_its_steps_and_its_longest_path(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "median_seconds", lambda work: 0.001)
    (settings,) = parse(["run", "layer_cost", "--output_dir", str(tmp_path)])
    table = EXPERIMENTS["layer_cost"].measure(Workbench(settings, "layer_cost")).table
    assert table.columns[-2:] == ("sequential operations of the two", "longest path of the two")
    assert table.rows[1] == (64, 64, 1.0, 1.0, "1, 64", "1, 64")


def test_the_summary_names_results_that_are_damaged_and_has_all_others(tmp_path, capsys):
    whole = json.dumps({"verdict": "holds", "reason": "9 > 8.", "minutes": 1.0}).encode()
    texts = {"alignments": whole, "heads": b"[]", "positions": b'{"verdict": ', "depth": b"\xff", "schedule": b"{}"}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes(text)
    write_summary(tmp_path, list(EXPERIMENTS.values()))
    said = capsys.readouterr().out.splitlines()
    assert {line.rpartition(" have ")[2] for line in said} == {f"{name}. Run it again." for name in [*texts][1:]}
    assert (tmp_path / "README.md").read_text().count("/report.md)") == 1


@pytest.mark.parametrize("setting", ["output_dir", "pictures_dir"])
def test_a_file_in_place_of_a_folder_is_named_before_anything_is_trained(setting, tmp_path):
    (tmp_path / "file").write_text("mine")
    folders = {"output_dir": tmp_path / "out", setting: tmp_path / "file"}
    with pytest.raises(ValueError, match="which is a file or would be in one. Name a folder"):
        reproduce(parse(["run", "heads", *(f"--{name}={folder}" for name, folder in folders.items())]))
    assert not list((tmp_path / "out").glob("*"))


def test_sequences_are_timed_in_batches_of_several_sizes_too(tmp_path, monkeypatch):
    asked = []

    def seconds(work, repetitions):
        asked.append(work.args[1:])
        return 1.0

    monkeypatch.setattr(Workbench, "make", lambda bench, *runs, **options: [bench.path(run) for run in runs])
    monkeypatch.setattr(why_transformers, "load", lambda folder: SimpleNamespace(model=torch.nn.Identity()))
    monkeypatch.setattr(why_transformers, "median_seconds", seconds)
    (settings,) = parse(["run", "parallel_training", "--output_dir", str(tmp_path)])
    finding = EXPERIMENTS["parallel_training"].measure(Workbench(settings, "parallel_training"))
    by_length, by_batch = finding.charts
    assert list(by_batch.series[0].x) == [1, 4, 16, 64] and list(by_batch.series[0].y) == [32, 128, 512, 2048]
    assert all(set(series.y) == {2048} for series in by_length.series)
    assert len(asked) == 3 * 7 and [row[:2] for row in finding.table.rows] == sorted(
        row[:2] for row in finding.table.rows
    )


def test_a_run_that_fails_names_its_command_and_its_last_line(tmp_path):
    (settings,) = parse(["run", "heads", "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match=r"train_translation.py .*ended with status 2: .*d_model.*Its output is in"):
        Workbench(settings, "heads").make(Run("train_translation", "numbers/transformer", {"d_model": -1}))


def test_by_default_no_more_trainings_run_at_once_than_this_process_may_use_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    asked = []
    monkeypatch.setattr(Workbench, "_make", lambda self, waiting, jobs, active, may_diverge: asked.append(jobs))
    (settings,) = parse(["run", "heads", "--output_dir", str(tmp_path)])
    Workbench(settings, "heads").make(*(Run("pretrain_gpt1", "stories/gpt1_mini", {"seed": n}) for n in range(8)))
    (jobs,) = asked
    assert 1 <= jobs <= 3  # fewer where a container has a limit of its own


def test_ctrl_c_ends_the_trainings_too(tmp_path):
    command = [sys.executable, "-m", "papers_to_gpt", "reproduce", "run", "alignments", "--output_dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = None
    for _ in range(600):
        log = next(iter((tmp_path / "runs").glob("*.log")), None)
        if log is not None and log.read_text().strip():  # the training has begun
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in output
    name = log.stem
    assert not any(name in line for line in subprocess.check_output(["ps", "-eo", "args"], text=True).splitlines()), (
        os.linesep.join([output, log.read_text()])
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "action is not set. Usage: reproduce.py list"),
        (["measure"], "The action is 'measure'; it must be one of list, run"),
        (["run"], "nothing says which experiments to run"),
        (["list", "core"], "names is core, but list shows all experiments"),
        (["run", "all", "--scale", "multi30k", "--train_file", "t"], "needs validation_file and test_file"),
        (["run", "all", "--seeds", "1", "1"], "every seed may stand there once"),
        (
            ["run", "all", "--scale", "novels", "--train_file", "t"],
            "needs validation_file. recipes/RESULTS.md, Data, ",
        ),
        (["run", "all", "--scale", "glue"], "needs model_name_or_path. pretrain_gpt1.py novels/gpt1_small makes such"),
        (["run", "all", *GLUE, "--validation_file", __file__], "validation_file is set, but train_file is not"),
        (
            ["run", "all", *GLUE, "--train_file", __file__, "--data_dir", "."],
            "train_file and data_dir are both set. Name one",
        ),
        (["run", "all", "--task", "cola"], "task is set, but scale is small, .* set --scale to novels and glue."),
        (
            ["run", "all", "--train_file", "t"],
            "train_file is set, but scale is small, .* multi30k and novels and glue.",
        ),
        (["run", "all", *GLUE, "--source_language", "fr"], "source_language is set, but scale is glue"),
        (["run", "all", "--finetuning_preset", "glue/gpt1"], "finetuning_preset is set, but scale is small"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_trained(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        parse(arguments)


def test_data_that_is_not_there_is_named_with_where_it_comes_from(tmp_path):
    arguments = ["run", "all", *GLUE, "--data_dir", "no/such", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(
        ValueError, match="data_dir: there is no file or folder no/such. recipes/RESULTS.md, Data, says"
    ):
        reproduce(parse(arguments))
    assert not (tmp_path / "out").exists()


def test_a_scale_that_an_experiment_lacks_names_those_that_it_has(tmp_path):
    arguments = ["--scale", "multi30k", *parallel_files(tmp_path), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="The experiment long_range does not have the scale multi30k. It has small."):
        reproduce(parse(["run", "heads", "long_range", *arguments]))
    with pytest.raises(
        ValueError, match="table_5 does not have the scale multi30k. It has small and novels and glue."
    ):
        reproduce(parse(["run", "table_5", *arguments]))
    with pytest.raises(ValueError, match="None of these experiments has the scale multi30k.*: reversed_source, "):
        reproduce(parse(["run", "radford2018", *arguments]))
    assert not (tmp_path / "out").exists()


def parallel_files(folder):
    """Writes a few sentences of two languages and returns the arguments that name the files."""
    nouns = {"Hund": "dog", "Mann": "man", "Ball": "ball", "Baum": "tree"}
    pairs = [
        (f"der {first} sieht den {second}.", f"the {nouns[first]} sees the {nouns[second]}.")
        for first in nouns
        for second in nouns
    ]
    lines = ["\t".join(pair) for pair in [("de", "en"), *pairs]]
    for split in ("train", "validation", "test"):
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return [f"--{split}_file={folder / split}.tsv" for split in ("train", "validation", "test")]


def test_translators_of_multi30k_have_the_same_text_and_read_each_batch_once(tmp_path):
    (settings,) = parse(["run", "heads", "--scale", "multi30k", *parallel_files(tmp_path)])
    found = set()
    for name in TRANSLATORS:
        arguments = run_of(Workbench(settings, "heads"), name, 1).arguments()
        parts = parse_translation([*arguments, "--output_dir", "unused"])
        names = ("lowercase", "vocab_size", "r_drop_weight", "metric_for_best_model", "tune_length_penalty")
        found.add(tuple(next(getattr(part, each) for part in parts if hasattr(part, each)) for each in names))
    assert found == {(False, 8000, 0, "sacrebleu", False)}


@pytest.mark.parametrize("trial", ["false", "true"])
@pytest.mark.parametrize("name", TRANSLATORS)
def test_the_presets_of_multi30k_can_be_tried_and_scaled(tmp_path, name, trial):
    (settings,) = parse(["run", "scaling", "--scale", "multi30k", "--trial", trial, *parallel_files(tmp_path)])
    bench = Workbench(settings, "scaling")
    for factor in SCALES:
        arguments = bench.as_made(run_of(bench, name, 1, **scaled_widths(bench, name, factor))).arguments()
        choice, model_settings, *_ = parse_translation([*arguments, "--output_dir", "unused"])
        make_config(choice, model_settings)


def glue_folder(folder):
    """Writes a few rows of CoLA and SST-2 in GLUE's layout and returns the folder."""
    for task in ("cola", "sst2"):
        (folder / task).mkdir(parents=True)
        for split in ("train", "validation"):
            sentences = [f"{word} tall trees by the {place}" for word in ("two", "the") for place in WORDS]
            rows = {"sentence": sentences, "label": [index % 2 for index in range(len(sentences))]}
            pyarrow.parquet.write_table(pyarrow.table(rows), folder / task / f"{split}.parquet")
    return str(folder)


def test_the_scale_multi30k_compares_alignments_with_counted_word_translations(tmp_path):
    files = parallel_files(tmp_path)
    arguments = [
        "--scale",
        "multi30k",
        *files,
        "--trial",
        "true",
        "--jobs",
        "1",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    reproduce(parse(["run", "alignments", *arguments]))
    results = json.loads((tmp_path / "out" / "alignments" / "results.json").read_text())
    assert results["columns"][1] == "attention on the right word, %" and results["rows"][0][0] == 1
    assert "multi30k/bahdanau" in results["runs"][0] and str(tmp_path / "train.tsv") in results["runs"][0]


def test_the_scale_novels_pretrains_on_the_files_and_solves_tasks_of_glue(tmp_path):
    text = " ".join(f"{word} {place} stood by the mill and sang ." for word in WORDS for place in WORDS) + "\n"
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text(text * 40)
    files = [f"--{split}_file={tmp_path / split}.txt" for split in ("train", "validation")]
    arguments = ["--scale", "novels", *files, "--trial", "true", "--output_dir", str(tmp_path / "out")]
    for name in ("zero_shot", "table_5", "both_directions"):
        with pytest.raises(
            ValueError, match="needs the file .*cola/train.parquet for the task cola, which is missing"
        ):
            reproduce(parse(["run", name, *arguments, "--data_dir", str(tmp_path)]))
    assert not (tmp_path / "out" / "runs").exists()
    reproduce(parse(["run", "zero_shot", *arguments, "--data_dir", glue_folder(tmp_path / "glue")]))
    results = json.loads((tmp_path / "out" / "zero_shot" / "results.json").read_text())
    assert [row[:2] for row in results["rows"]] == [
        [kind, share] for kind in ("Transformer", "LSTM") for share in ("50 %", "100 %")
    ]
    assert {run.split()[2] for run in results["runs"]} == {"novels/gpt1_small", "novels/lstm_small"}


@pytest.fixture(scope="module")
def gpts(tmp_path_factory):
    """Tiny pre-trained models: a Transformer of two blocks, an LSTM, and a masked model."""
    folder = tmp_path_factory.mktemp("gpts")
    tokenizer = train_tokenizer([" ".join(WORDS)], merges=20, model_max_length=16)
    sizes = {"max_position_embeddings": 16, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    kinds = {"model": {}, "lstm": {"lstm_size": 12}, "masked": {"attention": "bidirectional"}}
    for name, changes in kinds.items():
        torch.manual_seed(0)
        model = (GPT1ForMaskedLM if name == "masked" else GPT1ForCausalLM)(GPT1Config(**sizes | changes))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_the_scale_glue_fine_tunes_given_models_on_files_of_ones_own_by_ones_own_preset(gpts, tmp_path):
    rows = [f"{word} {place},{label}" for word in WORDS for place, label in zip(WORDS, "abab", strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (tmp_path / "mine.yaml").write_text("num_train_epochs: 1\nlearning_rate: 0.01\nbf16: false\noutput_dir: unused\n")
    arguments = ["--scale", "glue", "--model_name_or_path", str(gpts / "model"), "--output_dir", str(tmp_path / "out")]
    arguments += ["--lstm_model_name_or_path", str(gpts / "lstm"), "--train_file", str(tmp_path / "rows.csv")]
    arguments += ["--finetuning_preset", str(tmp_path / "mine.yaml"), "--seeds", "1", "2", "--layers", "0"]
    reproduce(parse(["run", "table_5", "transferred_layers", *arguments, "--jobs", "1"]))
    results = {
        name: json.loads((tmp_path / "out" / name / "results.json").read_text())
        for name in ("table_5", "transferred_layers")
    }
    table = results["table_5"]
    assert table["columns"] == ["variant", "own"]
    assert [row[0] for row in table["rows"]] == ["full", "no pre-training", "no auxiliary loss", "LSTM"]
    assert [row[0] for row in results["transferred_layers"]["rows"]] == [0, 2]
    # What each variant changes, in the record of its runs; the full one is made once for both experiments.
    records = {}
    for path in sorted((tmp_path / "out" / "runs").glob("*/seed_*/run.yaml")):
        settings = yaml.safe_load(path.read_text())["settings"]
        assert (settings["learning_rate"], settings["num_train_epochs"]) == (0.01, 1)
        config = json.loads((path.parent / "config.json").read_text())
        key = (
            Path(settings["model_name_or_path"]).name,
            settings["from_scratch"],
            settings["transferred_layers"],
            settings["auxiliary_loss_weight"],
            config["lstm_size"],
        )
        records.setdefault(key, set()).add(settings["seed"])
    assert records == {
        ("model", False, None, 0.5, None): {1, 2},
        ("model", True, None, 0.5, None): {1, 2},
        ("model", False, None, 0.0, None): {1, 2},
        ("lstm", False, None, 0.5, 12): {1, 2},
        ("model", False, 0, 0.5, None): {1, 2},
    }
    # The table's numbers are those of the runs.
    scores = [
        json.loads(path.read_text())["eval_accuracy"]
        for path in (tmp_path / "out" / "runs").glob("*/seed_*/all_results.json")
        if yaml.safe_load((path.parent / "run.yaml").read_text())["settings"]["from_scratch"]
    ]
    assert table["rows"][1][1] == pytest.approx(100 * sum(scores) / 2)


@pytest.mark.parametrize("arguments", [[], [*GLUE, "--data_dir", "glue"], [*GLUE, "--train_file", "rows.csv"]])
def test_held_out_training_rows_choose_the_checkpoint_whatever_is_fine_tuned(arguments, tmp_path):
    (settings,) = parse(["run", "table_5", *arguments, "--output_dir", str(tmp_path)])
    run = finetuned(Workbench(settings, "table_5"), "stories/sentiment", ["stories_sentiment"], "model")
    _, data, *_ = parse_finetuning([*run.arguments(), "--output_dir", "unused"])
    assert data.selection == "train_holdout"


def test_scores_are_those_of_the_test_split_where_a_task_has_one(tmp_path):
    (settings,) = parse(["run", "table_5", "--seeds", "1", "2", "--output_dir", str(tmp_path)])
    bench = Workbench(settings, "table_5")
    run = finetuned(bench, "stories/sentiment", ["stories_sentiment", "cola"], "model")
    tasks = {
        "stories_sentiment": [
            {"eval_accuracy": 0.9, "test_accuracy": score, "train_rows": 3600} for score in (0.5, 0.7)
        ],
        "cola": [{"eval_matthews_correlation": score, "train_rows": 7696} for score in (0.1, 0.2)],
    }
    results = {"tasks": {name: {"runs": dict(zip("ab", runs, strict=True))} for name, runs in tasks.items()}}
    bench.path(run).mkdir(parents=True)
    (bench.path(run) / "all_results.json").write_text(json.dumps(results))
    assert task_scores(bench, run) == {"stories_sentiment": pytest.approx([50, 70]), "cola": pytest.approx([10, 20])}
    assert train_rows(bench, run) == {"stories_sentiment": 3600, "cola": 7696}
    said = what_is_scored(bench, run)
    assert "those of the test split, accuracy (sentiment) and those of the validation split, matthews" in said
    assert "standard errors are those of the fine-tuning: each pre-trained model is one run." in said


def test_the_rows_that_choose_and_those_that_are_reported_are_in_no_training_file(tmp_path):
    (settings,) = parse(["run", "auxiliary_loss", "--output_dir", str(tmp_path)])
    runs = runs_by_size(Workbench(settings, "auxiliary_loss"), "model")
    sizes = set()
    for (size, _), run in runs.items():
        _, data, *_ = parse_finetuning([*run.arguments(), "--output_dir", "unused"])
        assert (data.names(), data.selection) == (["stories_acceptability"], "validation")
        files = data.train_file, data.validation_file, data.test_file
        train, held_out, test = ({*Path(file).read_text().splitlines()[1:]} for file in files)
        assert train.isdisjoint(held_out | test) and held_out.isdisjoint(test)
        assert (len(train), len(held_out), len(test)) == (size, 500, 500)
        sizes.add(size)
    assert sizes == {250, 1000, 4000}


@pytest.mark.parametrize(
    ("experiment", "models", "arguments", "expected"),
    [
        (
            "transferred_layers",
            ("model", None),
            ["--layers", "3"],
            "layers is 3; the model has 2 blocks. Name numbers",
        ),
        ("transferred_layers", ("model", None), ["--layers", "2"], "layers is 2, all blocks of the model, .* smaller"),
        (
            "table_5",
            ("model", "model"),
            [],
            "lstm_model_name_or_path is .*model, which is a Transformer. .*lstm_small",
        ),
        ("table_5", ("lstm", None), [], "model_name_or_path is .*lstm, which is an LSTM. Name a .*novels/gpt1_small"),
        ("table_5", ("masked", None), [], "masked, which has bidirectional attention"),
        (
            "table_5",
            ("nothing", None),
            [],
            "model_name_or_path is .*nothing, which is no model that can be read: There is no folder .*nothing",
        ),
        ("auxiliary_loss", ("model", None), ["--task", "kola"], "The task 'kola' is not known"),
        ("auxiliary_loss", ("model", None), ["--finetuning_preset", "glue/gpt2"], "preset 'glue/gpt2' is not a file"),
    ],
)
def test_what_the_scale_glue_cannot_start_from_is_refused(gpts, tmp_path, experiment, models, arguments, expected):
    named = [f"--{name}_name_or_path={gpts / each}" for name, each in zip(MODELS, models, strict=True) if each]
    settings = ["--scale", "glue", *named, "--output_dir", str(tmp_path), *arguments]
    with pytest.raises(ValueError, match=expected):
        reproduce(parse(["run", experiment, *settings]))
    assert not (tmp_path / "runs").exists()
