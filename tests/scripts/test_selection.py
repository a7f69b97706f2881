"""Which rows choose a fine-tuned checkpoint, and what a table says of its seeds, by the scripts on tiny models."""

import itertools
import json
import sys

import numpy as np
import pytest
import torch
import yaml
from killed_runs import forget_the_end
from safetensors.torch import load_file
from scipy.stats import t as student
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, f1_score

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from gpt1_scratch.finetuning.constant_answers import constant_score
from gpt1_scratch.finetuning.models import load_pretrained
from gpt1_scratch.finetuning.tasks import MULTI_LABEL, TASKS, Task
from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt import finetune_gpt1
from papers_to_gpt.gpt1.task_data import load_data
from papers_to_gpt.settings.finetuning import TaskSettings

NOUNS = "kite lamp mill tree boat song".split()
TINY = "--num_train_epochs 1 --per_device_train_batch_size 8 --learning_rate 1e-2 --bf16 false --logging_steps 4"


def sentences(count, seed):
    """Returns different sentences, two in three of them good, as one word of each decides."""
    nouns = np.random.default_rng(seed).permutation(list(itertools.product(NOUNS, repeat=3)))[:count]
    rows = []
    for index, row in enumerate(nouns):
        verb, label = ("broke", "bad") if index % 3 == 0 else ("shone", "good")
        rows.append((f"the {' and the '.join(row)} {verb}", label))
    return rows


def write_csv(path, rows):
    path.write_text("".join(f"{text},{label}\n" for text, label in [("text", "label"), *rows]))
    return str(path)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = train_tokenizer([text for text, _ in sentences(60, 0)], merges=80)
    torch.manual_seed(0)
    sizes = {"max_position_embeddings": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    config = GPT1Config(vocab_size=len(tokenizer), initializer_range=0.2, **sizes, **ids)
    GPT1ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def finetune(tmp_path, pretrained, monkeypatch):
    """Runs the script in this process and returns the folder of the model."""

    def start(*arguments, name="run"):
        settings = ["--model_name_or_path", pretrained, *TINY.split(), "--output_dir", tmp_path / name, *arguments]
        monkeypatch.setattr(sys, "argv", ["finetune_gpt1.py", *map(str, settings)])
        finetune_gpt1.main()
        return tmp_path / name

    return start


def results_of(folder):
    return json.loads((folder / "all_results.json").read_text())


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_no_seed_trains_on_the_rows_that_are_held_out(finetune, pretrained, tmp_path):
    rows, validation = sentences(60, 1), write_csv(tmp_path / "validation.csv", sentences(20, 2))
    train = write_csv(tmp_path / "train.csv", rows)
    settings = TaskSettings(train_file=train, validation_file=validation, selection="train_holdout")
    backbone, tokenizer = load_pretrained(str(pretrained))
    held_out = load_data(None, settings, backbone, tokenizer, lambda line: None).examples["train_holdout"]
    assert held_out.labels.tolist().count(1) == 4 and len(held_out) == 6  # a tenth of each class
    tokens = [list(example["input_ids"][0]) for example in held_out]
    places = [place for place, (text, _) in enumerate(rows) if tokenizer(text).input_ids in tokens]
    assert len(places) == 6

    def series(name, replaced):
        texts = [(f"kite {text}" if place in replaced else text, label) for place, (text, label) in enumerate(rows)]
        file = write_csv(tmp_path / f"{name}.csv", texts)
        return finetune("--train_file", file, "--validation_file", validation, "--seeds", 1, 2, name=name)

    before, after = series("before", []), series("after", places)
    other = series("other", [next(place for place in range(60) if place not in places)])
    assert results_of(before)["selection"] == "train_holdout"
    for seed in ("seed_1", "seed_2"):
        old, new = results_of(before / seed), results_of(after / seed)
        assert (old["train_examples"], old["selection_rows"]) == (54, 6)
        # Other texts in the rows held out change their score and nothing else.
        assert same(weights_of(before / seed), weights_of(after / seed))
        assert old["holdout_loss"] != new["holdout_loss"] and old["eval_loss"] == new["eval_loss"]
        assert not same(weights_of(before / seed), weights_of(other / seed))


def test_validation_rows_do_not_choose_the_checkpoint(finetune, tmp_path):
    rows = sentences(30, 2)
    wrong = [(text, "bad" if label == "good" else "good") for text, label in rows]
    train = write_csv(tmp_path / "train.csv", sentences(60, 1))
    files = {name: write_csv(tmp_path / f"{name}.csv", part) for name, part in (("right", rows), ("wrong", wrong))}

    def chosen(selection, validation):
        arguments = ("--train_file", train, "--validation_file", files[validation], "--selection", selection)
        folder = finetune(*arguments, "--num_train_epochs", 4, name=f"{selection}_{validation}")
        return results_of(folder), weights_of(folder), (folder / "README.md").read_text()

    (one, weights, card), (other, same_weights, _) = (chosen("train_holdout", name) for name in files)
    assert one["best_update"] == other["best_update"] and same(weights, same_weights)
    assert one["holdout_accuracy"] == other["holdout_accuracy"] == one["best_accuracy"]
    assert one["eval_accuracy"] == pytest.approx(1 - other["eval_accuracy"])
    assert (
        "chosen on 6 rows of train that were held out" in card and "On the rows of train that were held out, f" in card
    )
    # The answers to these rows do choose it if they are asked.
    (one, _, card), (other, _, _) = (chosen("validation", name) for name in files)
    assert one["best_update"] != other["best_update"]
    assert "holdout_accuracy" not in one and one["eval_accuracy"] == one["best_accuracy"]
    assert "chosen on the validation split, so that its scores there are higher" in card


def test_another_selection_does_not_resume_a_run(finetune, tmp_path):
    train = write_csv(tmp_path / "train.csv", sentences(60, 1))
    folder = finetune("--train_file", train, "--selection", "train_holdout")
    forget_the_end(folder)
    with pytest.raises(ValueError, match="selection was 'train_holdout', is 'validation'"):
        finetune("--train_file", train)
    with pytest.raises(ValueError, match=r"holdout_share was 0.1, is 0.2"):
        finetune("--train_file", train, "--selection", "train_holdout", "--holdout_share", 0.2)


def test_runs_that_learn_nothing_are_counted(finetune, tmp_path):
    train, test = (write_csv(tmp_path / f"{name}.csv", sentences(count, 1)) for name, count in (("a", 120), ("b", 20)))
    arguments = ("--train_file", train, "--test_file", test, "--seeds", 1, 2, "--selection", "train_holdout")
    still = finetune(*arguments, "--learning_rate", 1e-9, "--from_scratch", "true", name="still")
    summary = results_of(still)["tasks"]["own"]
    runs = [results_of(still / f"seed_{seed}") for seed in (1, 2)]
    assert [run["constant_answer_accuracy"] for run in runs] == [7 / 11, 7 / 11]
    assert [run["failed_to_learn"] for run in runs] == [run["holdout_accuracy"] <= 7 / 11 for run in runs]
    failed = sum(run["failed_to_learn"] for run in runs)
    assert failed and len(summary["failed_runs"]) == failed
    assert f"| {failed} of 2 | 97 |" in (still / "results.md").read_text()
    moved = finetune(*arguments, "--num_train_epochs", 4, name="moved")
    assert results_of(moved)["tasks"]["own"]["failed_runs"] == []
    assert "| 0 of 2 | 97 |" in (moved / "results.md").read_text()


@pytest.mark.parametrize(("metric", "score"), [("accuracy", accuracy_score), ("f1", f1_score)])
def test_the_constant_answer_is_that_of_a_dummy_classifier(metric, score):
    generator = np.random.default_rng(0)
    train, labels = generator.choice(2, size=90, p=[0.3, 0.7]), generator.choice(2, size=40)
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((90, 1)), train).predict(np.zeros((40, 1)))
    task = Task("x", "classification", ("text",), ("a", "b"), (metric,))
    assert constant_score(task, train, labels) == pytest.approx(score(labels, dummy))


def test_the_constant_answer_of_several_labels_is_a_set_of_them_and_of_a_correlation_what_chance_reaches():
    task = Task("x", "classification", ("text",), ("a", "b"), ("f1_micro",), is_multi_label=True)
    assert task.problem_type == MULTI_LABEL
    train = np.array([[1, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32)
    labels = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
    assert constant_score(task, train, labels) == pytest.approx(f1_score(labels, [[1, 0]] * 3, average="micro"))
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=(10_000, 2, 50))
    chance = constant_score(TASKS["stsb"], numbers[0, 0], numbers[0, 1])
    above = np.mean([np.corrcoef(pair)[0, 1] > chance for pair in numbers])
    assert 0.015 < above < 0.035


def test_a_table_reports_rows_that_chose_nothing_unless_it_is_asked_to(tmp_path):
    def selection(*arguments):
        parts = finetune_gpt1.parse([*map(str, arguments), "--model_name_or_path", "model", "--output_dir", "out"])
        return next(part.selection for part in parts if isinstance(part, TaskSettings))

    for preset in ("glue/gpt1", "glue/gpt1_small"):
        assert selection(preset, "--task", "cola") == "train_holdout"
        assert selection(preset, "--selection", "validation") == "validation"
    assert selection("--task", "cola") == selection("--train_file", "a.csv") == "validation"  # a single run
    assert selection("--task", "cola", "--seeds", 1, 2) == selection("--task", "cola", "sst2") == "train_holdout"
    assert selection("--task", "cola", "--seeds", 1, 2, "--selection", "validation") == "validation"
    assert selection("--train_file", "a.csv", "--seeds", 1, 2) == "train_holdout"
    assert selection("--train_file", "a.csv", "--test_file", "b.csv", "--seeds", 1, 2) == "validation"
    assert selection("--task", "stories", "--seeds", 1, 2) == "validation"  # they have a test split


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--selection", "test"], "selection: invalid choice: 'test'"),
        (["--holdout_share", 1], "holdout_share is 1.0; it must be above 0 and below 1"),
        (
            ["--selection", "train_holdout", "--holdout_share", 0.99],
            "holdout_share 0.99 leaves no row of 9 to train on",
        ),
    ],
)
def test_a_selection_that_is_none_is_refused(finetune, tmp_path, arguments, expected):
    train = write_csv(tmp_path / "train.csv", sentences(10, 1))
    with pytest.raises(ValueError, match=expected):
        finetune("--train_file", train, *arguments)


def write_series(folder, scores, selection="train_holdout"):
    """Writes the results of a finished series with these scores by seed, as a run of the script leaves them."""
    folder.mkdir()
    runs = {
        f"cola/seed_{seed}": {"eval_loss": 1.0, "eval_matthews_correlation": score} for seed, score in scores.items()
    }
    results = {"selection": selection, "tasks": {"cola": {"runs": runs}}}
    (folder / "all_results.json").write_text(json.dumps(results))
    (folder / "run.yaml").write_text(yaml.safe_dump({"settings": {}, "finished": True}))
    return folder


def compare(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["finetune_gpt1.py", "--compare", *map(str, arguments)])
    finetune_gpt1.main()


def test_series_are_compared_over_the_seeds_that_both_have(tmp_path, monkeypatch, capsys):
    before = write_series(tmp_path / "before", {1: 0.30, 2: 0.28, 3: 0.33, 4: 0.31})
    after = write_series(tmp_path / "after", {4: 0.36, 2: 0.31, 3: 0.35, 9: 0.99})
    compare(monkeypatch, before, after, "--output_file", tmp_path / "out.json")
    (row,) = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    # By the formula of the paired t-test: the mean difference over its standard error, with n - 1 degrees of freedom.
    differences = np.array([0.03, 0.02, 0.05])
    error = differences.std(ddof=1) / np.sqrt(3)
    assert row["seeds"] == [2, 3, 4] and row["score"] == "eval_matthews_correlation"
    assert row["difference"] == pytest.approx(differences.mean())
    assert row["p_value"] == pytest.approx(2 * student.sf(differences.mean() / error, 2))
    assert row["interval"] == pytest.approx(student.ppf(0.975, 2) * error)
    shown = f"| 2, 3, 4 | 30.7 | 34.0 | +3.3 ± {100 * row['interval']:.1f} | {row['p_value']:.4f} |"
    assert shown in capsys.readouterr().out

    same = write_series(tmp_path / "same", {1: 0.30, 2: 0.28}, selection="validation")
    shifted = write_series(tmp_path / "shifted", {1: 0.31, 2: 0.29})
    compare(monkeypatch, before, same, shifted)
    shown = capsys.readouterr().out
    assert f"Note: {before} has selection train_holdout, and {same} validation." in shown
    assert "| +0.0 ± 0.0 | 1.0000 |" in shown and "| +1.0 | the same for all seeds |" in shown


def test_series_that_cannot_be_compared_are_refused(tmp_path, monkeypatch):
    two = write_series(tmp_path / "two", {1: 0.3, 2: 0.4})
    other = write_series(tmp_path / "other", {2: 0.3, 3: 0.4})
    one = write_series(tmp_path / "one", {1: 0.3})
    unfinished = write_series(tmp_path / "unfinished", {1: 0.3, 2: 0.4})
    forget_the_end(unfinished)
    for arguments, expected in (
        ([two], "compare names only .*two. Name two or more"),
        ([two, two], "compare names .*two twice"),
        ([two, one], "one holds one seed of cola, but a paired test needs two"),
        ([two, other], "two has the seeds 1, 2, and .*other 2, 3. A paired test needs two that both have"),
        ([two, unfinished], "unfinished holds no finished series"),
        ([two, tmp_path / "none"], "none holds no finished series"),
        ([two, other, "--task", "cola"], "unknown setting 'task'"),
        ([two, other, "--output_file", two / "all_results.json"], "all_results.json, which is read"),
    ):
        with pytest.raises(ValueError, match=expected):
            compare(monkeypatch, *arguments)
    with pytest.raises(ValueError, match="output_file is set, but compare is not"):
        finetune_gpt1.parse(["--model_name_or_path", "x", "--task", "cola", "--output_dir", "y", "--output_file", "z"])
