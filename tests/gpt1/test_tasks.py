"""Tasks: the table, files of every kind, inferred columns and labels, errors, and the encoding of texts."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from pyarrow import parquet
from sklearn.utils.class_weight import compute_class_weight

from gpt1_scratch import GPT1Config, GPT1ForMultipleChoice, GPT1ForSequenceClassification
from gpt1_scratch.finetuning.class_weights import find_class_weights
from gpt1_scratch.finetuning.examples import collate_examples, predict, tokenize_task
from gpt1_scratch.finetuning.inference import ColumnOverrides
from gpt1_scratch.finetuning.loading import TaskSplit, hold_out, load_task, read_texts
from gpt1_scratch.finetuning.metrics import TaskMetric
from gpt1_scratch.finetuning.tables import groups_of_rows, read_table
from gpt1_scratch.finetuning.tasks import TASKS, Task, find_task
from gpt1_scratch.tokenization import add_task_template, train_tokenizer

ROWS = [
    ("a fine day", "good"),
    ('he said "no", twice', "bad"),
    ("two\nlines", "good"),
    ("None", "bad"),
    ("NA", "good"),
]


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["the red kite was in the tree by the mill", "anna and tom went to the old mill", "a b c d e f g h i j"]
    return add_task_template(train_tokenizer(texts * 3, merges=60, model_max_length=12))


def write(path, rows, header=("text", "label")):
    """Writes rows in the format of the file's extension."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".parquet":
        Dataset.from_dict({name: [row[place] for row in rows] for place, name in enumerate(header)}).to_parquet(path)
    elif path.suffix == ".tsv":
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in (header, *rows)), encoding="utf-8")
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def own(tmp_path):
    """Loads a user's task from rows for training and validation."""

    def load(train, validation=None, header=("text", "label"), extension=".csv", test=None, **columns):
        files = {"train": train, "validation": validation, "test": test}
        paths = {
            f"{split}_file": write(tmp_path / f"{split}{extension}", rows, header)
            for split, rows in files.items()
            if rows is not None
        }
        return load_task(**paths, own_columns=ColumnOverrides(**columns))

    return load


# The table


def test_the_table_is_consistent():
    assert {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"} < set(TASKS)
    assert {"snli", "scitail", "race", "story_cloze", "stories_similarity"} < set(TASKS)
    for task in TASKS.values():
        assert TaskMetric(task.metrics).of_numbers == task.is_regression, task.name
        assert len(task.columns) == {"similarity": 2}.get(task.kind, len(task.columns)), task.name
        assert bool(task.choices) == (task.kind == "multiple_choice"), task.name
        assert len(task.submissions) in (0, len(task.test)), task.name


def test_an_unknown_task_lists_those_there_are():
    with pytest.raises(ValueError, match="The task 'coala' is not known; known are cola, sst2, mrpc"):
        find_task("coala")


def test_glue_files_in_a_folder_are_read_by_the_tables_columns(tmp_path):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["unacceptable", "acceptable"])})
    (tmp_path / "cola").mkdir()
    for split, labels in (("train", [1, 0, 1]), ("validation", [0, 1, 1]), ("test", [-1, -1, -1])):
        rows = Dataset.from_dict({"sentence": [f"{split} {i}" for i in range(3)], "label": labels}, features=features)
        rows.to_parquet(tmp_path / "cola" / f"{split}.parquet")
    task, splits = load_task("cola", data_dir=tmp_path)
    assert task is TASKS["cola"]
    assert splits["train"] == TaskSplit([("train 0",), ("train 1",), ("train 2",)], [1, 0, 1])
    assert splits["test"].labels is None
    with pytest.raises(ValueError, match="has no folder 'sst2'; it has cola"):
        load_task("sst2", data_dir=tmp_path)
    (tmp_path / "cola" / "validation.parquet").unlink()
    with pytest.raises(ValueError, match="has no validation.parquet"):
        load_task("cola", data_dir=tmp_path)


def test_labels_of_a_known_task_may_be_names_or_numbers(tmp_path):
    header = ("sentence1", "sentence2", "label")
    names = write(tmp_path / "names.jsonl", [("a", "b", "not_entailment"), ("c", "d", "entailment")], header)
    numbers = write(tmp_path / "numbers.csv", [("a", "b", 1), ("c", "d", 0)], header)
    for file in (names, numbers):
        _, splits = load_task("rte", train_file=file, validation_file=file)
        assert splits["train"] == TaskSplit([("a", "b"), ("c", "d")], [1, 0])


def test_multiple_choice_reads_columns_or_lists(tmp_path):
    header = (*TASKS["story_cloze"].columns, *TASKS["story_cloze"].choices, "AnswerRightEnding")
    file = write(tmp_path / "cloze.csv", [(*"abcd", "e", "f", 2), (*"ghij", "k", "l", 1)], header)
    _, splits = load_task("story_cloze", train_file=file, validation_file=file)
    assert splits["train"] == TaskSplit([("a b c d", "e", "f"), ("g h i j", "k", "l")], [1, 0])
    header = ("article", "question", "options", "answer")
    rows = [("x", "why ?", ["a", "b", "c", "d"], "C"), ("y", "who ?", ["e", "f", "g", "h"], "A")]
    file = write(tmp_path / "race.jsonl", rows, header)
    _, splits = load_task("race", train_file=file, validation_file=file)
    assert splits["train"].texts[0] == ("x why ?", "a", "b", "c", "d")
    assert splits["train"].labels == [2, 0]
    file = write(tmp_path / "short.jsonl", [("x", "why ?", ["a", "b"], "C")], header)
    with pytest.raises(ValueError, match="options must be a list of 4 texts, but it is not in row 1"):
        load_task("race", train_file=file)


def test_rows_without_agreement_are_left_out_and_noted(tmp_path):
    header = ("premise", "hypothesis", "label")
    file = write(tmp_path / "snli.jsonl", [("a", "b", 0), ("c", "d", -1), ("e", "f", 2)], header)
    _, splits = load_task("snli", train_file=file, validation_file=file)
    assert splits["train"].labels == [0, 2] and splits["train"].texts == [("a", "b"), ("e", "f")]
    assert splits["train"].notes == ("1 row is left out for lack of a label",)


def test_a_task_without_a_download_says_what_to_do():
    with pytest.raises(ValueError, match="cannot be downloaded.*InputSentence1.*AnswerRightEnding"):
        load_task("story_cloze")


def test_without_a_network_a_task_of_the_hub_says_how_to_give_files(monkeypatch):
    def refuse(*arguments):
        raise ConnectionError("Couldn't reach the Hub.")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(ValueError, match="cola: Couldn't reach the Hub. Give the data with data_dir or train_file"):
        load_task("cola")


# The reader's own files


@pytest.mark.parametrize("extension", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_task(own, extension):
    rows = [row for row in ROWS if "\n" not in row[0]] if extension == ".tsv" else ROWS
    task, splits = own(rows, rows, extension=extension)
    assert (task.kind, task.columns, task.labels) == ("classification", ("text",), ("bad", "good"))
    assert splits["train"].texts == [(text,) for text, _ in rows]
    assert splits["validation"].labels == [int(label == "good") for _, label in rows]


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),  # as numbers: 9 before 10
        ([-1, 1, -1], ("-1", "1"), [0, 1, 0]),
        (["1.5", "x", "1.5"], ("1.5", "x"), [0, 1, 0]),
    ],
)
@pytest.mark.parametrize("extension", [".csv", ".jsonl"])
def test_strings_and_whole_numbers_are_classes(own, labels, names, numbers, extension):
    rows = [(f"text {index}", label) for index, label in enumerate(labels)]
    task, splits = own(rows, rows, extension=extension)
    assert task.labels == names and splits["train"].labels == numbers


@pytest.mark.parametrize("extension", [".csv", ".jsonl"])
def test_numbers_with_a_fraction_are_to_be_predicted_and_pairs_of_them_have_no_order(own, extension):
    rows = [("a", "b", 0.5), ("c", "d", 3.0), ("e", "f", 4.25)]
    task, splits = own(rows, rows, header=("premise", "hypothesis", "score"), extension=extension)
    assert task.is_regression and task.kind == "similarity" and task.metrics == ("pearson", "spearmanr")
    assert splits["train"].labels == [0.5, 3.0, 4.25]
    assert "score (a number) from premise and hypothesis, in both orders" in task.describe()


def test_what_is_found_out_can_be_forced(own):
    rows = [("a", "b", 1), ("c", "d", 2), ("e", "f", 3)]
    header = ("sentence1", "sentence2", "label")
    task, splits = own(rows, rows, header=header, problem_type="regression", both_orders=False)
    assert task.is_regression and task.kind == "classification" and splits["train"].labels == [1.0, 2.0, 3.0]
    task, splits = own([("a", 1.0), ("b", 2.0)], [("a", 2.0)], problem_type="classification")
    assert task.labels == ("1", "2") and splits["validation"].labels == [1]
    with pytest.raises(ValueError, match="label .label. is not a number in row 2 .*: 'x'"):
        own([("a", 1), ("b", "x")], problem_type="regression")


def test_columns_are_found_among_others_or_named(own):
    rows = [(7, "a", "b", "x", "yes"), (8, "c", "d", "y", "no")]
    header = ("idx", "Sentence1", "Sentence2", "comment", "Label")
    task, _ = own(rows, rows, header=header)
    assert (task.columns, task.label_column) == (("Sentence1", "Sentence2"), "Label")
    task, _ = own(rows, rows, header=header, text_column="comment", label_column="Sentence1")
    assert (task.columns, task.label_column) == (("comment",), "Sentence1")


def test_without_a_validation_file_a_tenth_is_held_out(own):
    rows = [(f"text {index}", "ab"[index % 2]) for index in range(50)]
    _, splits = own(rows)
    held_out, kept = splits["validation"], splits["train"]
    assert len(held_out) == 5 and len(kept) == 45
    assert sorted(held_out.texts + kept.texts) == sorted((text,) for text, _ in rows)
    assert all(
        ("ab"[int(text.split()[1]) % 2] == "b") == label
        for (text,), label in zip(kept.texts, kept.labels, strict=True)
    )
    assert "5 rows are held out for validation" in kept.notes and held_out.notes == ()


def test_rows_with_the_text_of_a_training_row_are_counted(own):
    _, splits = own([("a b", "x"), ("c d", "y")], [("a b", "y"), ("e f", "x"), ("a b", "x")], test=[("g h", "x")])
    assert splits["validation"].notes == ("2 with the text of a training row",) and splits["test"].notes == ()


LABELS = [
    # labels as CSV has them, the classes, or None for numbers
    (["00", "01", "10"], ("00", "01", "10")),
    (["001", "002", "003"], ("001", "002", "003")),
    (["1", "001", "2"], ("001", "1", "2")),
    (["0.0", "1.0", "0.0"], ("0", "1")),
    (["10.0", "9.0", "-1"], ("-1", "9", "10")),
    (["1e5", "2e5", "1e5"], ("1e5", "2e5")),
    (["\u0660", "\u0661", "\u0660"], ("\u0660", "\u0661")),
    (["1_000", "2_000", "1_000"], ("1_000", "2_000")),
    (["inf", "nan", "inf"], ("inf", "nan")),
    (["True", "False", "True"], ("False", "True")),
    ([" pos", "neg ", "pos"], ("neg", "pos")),
    (["Neg", "neg", "neg"], ("Neg", "neg")),
    ([f"{number}" for number in range(77)] * 2, tuple(map(str, range(77)))),
    ([f"{number}.0" for number in range(20)], tuple(map(str, range(20)))),
    ([f"{number}.0" for number in range(21)], None),
    (["1.0", "2.5", "3"], None),
    (["0.25", "1e-05", "-1"], None),
]


@pytest.mark.parametrize(("labels", "classes"), LABELS)
def test_only_plain_decimal_numbers_are_numbers_to_predict(own, labels, classes):
    rows = [(f"text {index}", label) for index, label in enumerate(labels)]
    task, splits = own(rows, rows)
    assert task.labels == classes
    found = [label if classes is None else task.labels[label] for label in splits["train"].labels]
    expected = [float(label) if classes is None else label.strip().removesuffix(".0") for label in labels]
    assert found == expected
    # As classes they keep their names.
    forced, _ = own(rows, rows, problem_type="classification")
    assert forced.labels == classes or classes is None


@pytest.mark.parametrize("extension", [".jsonl", ".parquet"])
def test_floats_of_typed_files_are_numbers_however_small(own, extension):
    rows = [("a b", 1e-7), ("c d", 0.5), ("e f", 2.0)]
    task, splits = own(rows, rows, extension=extension)
    assert task.is_regression and splits["train"].labels == [1e-7, 0.5, 2.0]
    rows = [("a b", 1.0), ("c d", 0.0), ("e f", 1.0)]
    assert own(rows, rows, extension=extension)[0].labels == ("0", "1")
    rows = [("a b", True), ("c d", False), ("e f", True)]
    assert own(rows, rows, extension=extension)[0].labels == ("False", "True")


def test_numbers_in_odd_spellings_are_no_numbers_even_if_asked_for(own):
    for label in ("1_000", "\u0661", "inf"):
        with pytest.raises(ValueError, match="is not a number in row 2"):
            own([("a b", "1.5"), ("c d", label)], problem_type="regression")


@pytest.mark.parametrize("extension", [".jsonl", ".parquet"])
@pytest.mark.parametrize(("labels", "what"), [([["x", "y"], ["y"]], "a list"), ([{"a": 1}, {"a": 2}], "an object")])
def test_labels_that_are_lists_or_objects_are_refused(own, extension, labels, what):
    rows = [(f"text {index}", label) for index, label in enumerate(labels)]
    with pytest.raises(
        ValueError, match=rf"train{extension}: the label \(label\) is {what} in rows 1, 2 .*for each text"
    ):
        own(rows, rows, extension=extension, problem_type="classification")


# Several labels for a text

SETS = [("a b", ["x"]), ("c d", ["y", "x"]), ("e f", []), ("g h", ["y"]), ("i j", ["x"])]


@pytest.mark.parametrize("form", ["lists.jsonl", "lists.parquet", "cells.csv", "cells.tsv", "columns.csv"])
def test_lists_cells_and_columns_of_labels_are_the_same_task(own, form, tokenizer):
    kind, _, extension = form.partition(".")
    rows, header, settings = SETS, ("text", "label"), {}
    if kind == "cells":
        rows = [(text, "|".join(labels)) for text, labels in SETS]
        settings = {"problem_type": "multi_label_classification"}
    elif kind == "columns":
        rows = [(text, int("x" in labels), int("y" in labels)) for text, labels in SETS]
        header, settings = ("text", "x", "y"), {"label_columns": ("x", "y")}
    task, splits = own(rows, rows[:2], header, f".{extension}", **settings)
    assert task.labels == ("x", "y") and task.is_multi_label and task.columns == ("text",)
    assert task.problem_type == "multi_label_classification" and task.metrics == ("f1_micro", "f1_macro")
    assert splits["train"].labels == [(0,), (0, 1), (), (1,), (0,)]
    examples = tokenize_task(task, splits["train"], tokenizer, 12)
    batch = collate_examples([examples[index] for index in range(3)], 0)
    assert batch["labels"].tolist() == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


def test_lists_of_numbered_classes_have_the_names_that_parquet_gives(tmp_path):
    feature = List(ClassLabel(names=["joy", "fear", "none"]))
    rows = {"text": ["a b", "c d", "e f"], "labels": [[1], [0, 1], [2]]}
    path = tmp_path / "train.parquet"
    Dataset.from_dict(rows, features=Features({"text": Value("string"), "labels": feature})).to_parquet(path)
    task, splits = load_task(train_file=str(path), validation_file=str(path))
    assert task.labels == ("joy", "fear", "none") and splits["train"].labels == [(1,), (0, 1), (2,)]


@pytest.mark.parametrize(
    ("train", "settings", "expected"),
    [
        ([("a b", ["x"]), ("c d", "y")], {}, r"is 'y', not a list, in row 2 .* but a list in other rows"),
        ([("a b", ["x"]), ("c d", None)], {}, "is missing in row 2.*has an empty list"),
        ([("a b", ["x"]), ("c d", ["y", ""])], {}, "holds '' in row 2"),
        ([("a b", ["x"]), ("c d", ["y|z"])], {}, "'y|z' has '|'.*row 2.*Rename it"),
        ([("a b", []), ("c d", [])], {}, "there is no label in the column 'label'"),
        ([("a b", ["x", "y"]), ("c d", ["y", "x"])], {}, r"every row has the label \['x', 'y'\]"),
        ([("a b", ["x"]), ("c d", [])], {}, "there is one label, x.*set label_column"),
        ([("a b", 1), ("c d", 0)], {"label_columns": ("label",)}, "there is one label, label.*set label_column"),
        (
            [("a b", "['x', 'y']"), ("c d", "['x']")],
            {"problem_type": "multi_label_classification"},
            "a list written as text in rows 1, 2",
        ),
        ([("a b", "1"), ("c d", "0")], {"label_columns": ("label", "toxic")}, "no column 'toxic'"),
        ([("a b", "1"), ("c d", "0")], {"label_columns": ("label", "label")}, "names a column twice"),
        ([("a b", 1)], {"label_columns": ("label",), "label_column": "label"}, "Set one of them"),
        ([("a b", 1)], {"label_columns": ("label",), "problem_type": "regression"}, "problem_type is regression"),
    ],
)
def test_labels_that_are_no_sets_are_refused(own, train, settings, expected):
    with pytest.raises(ValueError, match=expected):
        own(train, extension=".jsonl", **settings)


def test_cells_of_labels_without_the_setting_that_divides_them_are_pointed_out(own):
    rows = [("a b", "x|y"), ("c d", "y"), ("e f", "x|y"), ("g h", "y")]
    _, splits = own(rows, rows)
    assert "set problem_type to multi_label_classification" in splits["train"].notes[-1]
    with pytest.raises(ValueError, match="is missing .* row 2.*set problem_type to multi_label_classification"):
        own([("a b", "x|y"), ("c d", "")])


def test_a_test_file_may_lack_the_label_columns_or_hold_minus_one(own):
    rows, header = [("a b", 1, 0), ("c d", 0, 1), ("e f", 1, 1)], ("text", "x", "y")
    columns = {"label_columns": ("x", "y")}
    _, splits = own(rows, rows, header, test=[("g h", -1, -1)], **columns)
    assert splits["test"].labels is None
    _, splits = own(rows, rows, header, test=[("g h", 0, 1), ("i j", 0, 0)], **columns)
    assert splits["test"].labels == [(1,), ()]


@pytest.mark.parametrize("value", ["2", "", "yes"])
def test_a_label_column_of_other_values_than_0_and_1_is_refused(own, value):
    rows = [("a b", 1, 0), ("c d", 0, value)]
    with pytest.raises(ValueError, match=f"train.csv: the label column 'y' is '{value}' in row 2.*must be 0 or 1"):
        own(rows, rows, ("text", "x", "y"), label_columns=("x", "y"))


def test_an_unknown_label_in_a_list_is_named_with_its_row(own):
    with pytest.raises(ValueError, match="validation.jsonl.*is 'z' in row 2.*none of the classes in the training"):
        own(SETS, [("k l", ["x"]), ("m n", ["x", "z"])], extension=".jsonl")


def test_rows_with_several_labels_are_held_out_by_their_rarest_label():
    often, rarely, together = [(0,)] * 80, [(0, 1)] * 20, [(2, 3)] * 2
    labels = [*often, *rarely, *together]
    split = TaskSplit([(str(index),) for index in range(len(labels))], labels)
    for seed in range(20):
        train, held_out = hold_out(split, 0.5, seed, keep_classes=True)
        assert sum(1 in row for row in held_out.labels) in (9, 10, 11)
        assert {label for row in train.labels for label in row} == {0, 1, 2, 3}


def test_a_label_that_occurs_only_beside_rarer_ones_is_kept_in_training():
    split = TaskSplit([(str(index),) for index in range(4)], [(0, 2), (0,), (1, 2), (1,)])
    for seed in range(20):
        train, held_out = hold_out(split, 0.5, seed, keep_classes=True)
        assert {label for row in train.labels for label in row} == {0, 1, 2} and len(held_out) > 0


# Weights of classes


@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 0, 1, 2, 2], [2, 1, 0]])
def test_balanced_weights_are_those_of_scikit_learn(labels):
    task = Task("own", "classification", ("text",), ("a", "b", "c"), ("accuracy",))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert find_class_weights("balanced", task, labels) == pytest.approx(expected.tolist())
    several = replace(task, is_multi_label=True)
    # Eight rows, of which two have the first label, four the second and six the third.
    sets = [(0, 1, 2)] * 2 + [(1, 2)] * 2 + [(2,)] * 2 + [()] * 2
    assert find_class_weights("balanced", several, sets) == [3.0, 1.0, pytest.approx(1 / 3)]


def test_weights_in_a_file_are_read_by_the_names_of_classes(tmp_path):
    path = tmp_path / "weights.tsv"
    path.write_text("b\t0.5\n\na\t3\n")
    task = Task("own", "classification", ("text",), ("a", "b"), ("accuracy",))
    assert find_class_weights(str(path), task, [0, 1]) == [3.0, 0.5]
    for text, expected in (
        ("a\t1\nc\t1\n", "line 2: 'c' is none of the task's classes: a, b"),
        ("a\t1\n", "there is no weight of b"),
        ("a\t1\na\t2\n", "line 2: the class 'a' has a weight in line 1 already"),
        ("a 1\n", "line 1: has 1 field; it must have 2"),
        ("a\t0\n", "line 1: the weight of 'a' is '0'; it must be a number above 0"),
        ("a\tmany\n", "line 1: the weight of 'a' is 'many'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=expected):
            find_class_weights(str(path), task, [0, 1])
    with pytest.raises(ValueError, match="class_weights is balance; it must be balanced or a file"):
        find_class_weights("balance", task, [0, 1])


def test_weights_need_classes_and_every_label_a_row_without_it():
    for name, what in (("stsb", "predicts a number"), ("race", "chooses among texts")):
        with pytest.raises(ValueError, match=f"class_weights is balanced, but {name} {what}"):
            find_class_weights("balanced", TASKS[name], [0, 1])
    task = Task("own", "classification", ("text",), ("a", "b"), ("f1_micro",), is_multi_label=True)
    with pytest.raises(ValueError, match="every row of training has the label a"):
        find_class_weights("balanced", task, [(0,), (0, 1)])


def test_labels_of_mixed_types_are_classes_by_their_names(own):
    rows = [("a b", "x"), ("c d", 1), ("e f", 2.5), ("g h", True)]
    assert own(rows, rows, extension=".jsonl")[0].labels == ("1", "2.5", "True", "x")


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\rb"])
def test_class_names_that_would_break_lines_of_predictions_are_refused(own, name):
    with pytest.raises(ValueError, match="the label .label. holds a line break or a tab in row 2 .*rename the class"):
        own([("a b", "x"), ("c d", name)])


def test_a_column_of_ids_is_not_a_label_unless_the_user_says_so(own):
    rows = [(f"text number {index}", f"id_{index}") for index in range(40)]
    with pytest.raises(ValueError, match="40 different labels in 40 rows: is label a column of ids. Set label_column"):
        own(rows, rows)
    assert len(own(rows, rows, problem_type="classification")[0].labels) == 40
    task, _ = own(rows * 2, rows)
    assert task.describe() == (
        "own: label (one of id_0, id_1, id_10, id_11, id_12, id_13, id_14, id_15, id_16, id_17 and 30 more) from text"
    )


@pytest.mark.parametrize(
    "beside", ["tt0000{}", "a3f{}e9", "2020-01-{}", "{}.02.1999", "2020-01-{}T10:00:00Z"], ids=str
)
def test_ids_and_dates_beside_a_text_are_no_text(own, beside):
    rows = [(beside.format(10 + index), f"a text {index}", "xy"[index % 2]) for index in range(8)]
    header = ("first", "second", "label")
    assert own(rows, rows, header=header)[0].columns == ("second",)
    assert own(rows, rows, header=header, text_column="first")[0].columns == ("first",)


def test_what_is_found_out_is_shown_with_a_row(own):
    rows = [("a b " * 40, "c d", "x"), ("e f", "g h", "y")]
    _, splits = own(rows, [("g h", "i j", "x")], header=("premise", "hypothesis", "label"))
    (note,) = splits["train"].notes
    assert note == f"the first row is premise {'a b ' * 15 + '...'!r}, hypothesis 'c d' with label 'x'"
    assert splits["validation"].notes == ()


def test_classes_that_differ_only_in_capitals_are_reported(own):
    rows = [("a b", "Neg"), ("c d", "neg"), ("e f", "pos")]
    task, splits = own(rows, rows)
    assert task.labels == ("Neg", "neg", "pos")
    assert splits["train"].notes[1:] == (
        "classes that differ only in capitals or invisible characters: 'Neg' and 'neg'",
    )


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (["pos", "pos\u200b"], r"invisible characters: 'pos' and 'pos\u200b'"),
        (["caf\xe9", "cafe\u0301"], r"invisible characters: 'cafe\u0301' and 'caf\xe9'"),
        ([1, "1", "2"], "labels are of several types: int, str"),
        ([True, "no"], "labels are of several types: bool, str"),
    ],
)
def test_labels_that_only_look_alike_or_different_are_told(own, labels, note):
    _, splits = own([(f"text {index}", label) for index, label in enumerate(labels * 3)], extension=".jsonl")
    assert any(note in each for each in splits["train"].notes)


def test_a_constant_validation_of_numbers_is_told(own):
    _, splits = own([("a", 0.5), ("b", 1.5)], [("c", 2.5), ("d", 2.5)])
    assert splits["validation"].notes == ("every label is 2.5, so that every correlation is 0",)


def test_no_class_loses_its_only_row_to_validation_and_all_give_their_share(own):
    labels = ["a"] * 50 + ["b"] * 30 + ["c"] * 19 + ["d"]
    rows = [(f"text {index}", label) for index, label in enumerate(labels)]
    task, splits = own(rows)
    counts = [[split.labels.count(label) for label in range(4)] for split in (splits["train"], splits["validation"])]
    assert counts[0][3] == 1 and sum(counts[1]) == 10
    assert counts[1][0] == 5 and counts[1][1] == 3 and counts[1][2] == 2
    assert sorted(splits["train"].texts + splits["validation"].texts) == sorted((text,) for text, _ in rows)
    with pytest.raises(ValueError, match="Each of the 2 classes has a single row.*set validation_file"):
        own(GOOD)


@pytest.mark.parametrize("share", [0.999, 0.99])
def test_a_share_that_leaves_no_row_to_train_on_is_refused(tmp_path, share):
    file = write(tmp_path / "rows.csv", [(f"text {index}", "xy"[index % 2]) for index in range(30)])
    with pytest.raises(ValueError, match=f"validation_share {share} leaves no row of 30 to train on"):
        load_task(train_file=file, validation_share=share)


def test_declared_classes_keep_their_order(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "ant"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    rows.to_parquet(tmp_path / "rows.parquet")
    task, splits = load_task(train_file=str(tmp_path / "rows.parquet"), validation_file=str(tmp_path / "rows.parquet"))
    assert task.labels == ("zebra", "ant") and splits["train"].labels == [0, 1]


# Bad input

GOOD = [("a", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("train", "validation", "header", "columns", "expected"),
    [
        (
            GOOD,
            GOOD,
            ("text", "tag"),
            {},
            r"train.csv: no column is called label .*it has text, tag. Set label_column",
        ),
        (GOOD, GOOD, ("text", "label"), {"label_column": "lable"}, "train.csv: .*no column 'lable'.*has text, label"),
        (GOOD, GOOD, ("text", "label"), {"text_column": "txt"}, r"no column 'txt' \(text_column\).*has text, label"),
        ([(1, "x"), (2, "y")], GOOD, ("text", "label"), {}, "no column holds text; it has text, label"),
        ([("a", "b", "c", "x")], GOOD, ("p", "q", "r", "label"), {}, r"several columns hold text \(p, q, r\)"),
        (GOOD, [("c", "x"), ("d", "z")], None, {}, r"validation.csv: the label \(label\) is 'z' in row 2 .*: x, y"),
        ([("a", "x"), ("b", "x")], GOOD, None, {}, "train.csv: every row has the label x. There is nothing to learn"),
        ([("a", 1.5), ("b", 1.5)], GOOD, None, {}, "train.csv: every row has the label 1.5"),
        (
            [("a", "x"), (" \u200b", "y")],
            GOOD,
            None,
            {},
            "train.csv: no row of the class y has text",
        ),
        (
            GOOD,
            [("", "x")] * 9,
            None,
            {},
            "validation.csv: no row is left. 9 rows are left out: no text in the column .text. in rows 1, 2,",
        ),
        ([("a", "x"), ("b", "")], GOOD, None, {}, r"train.csv: the label \(label\) is missing .*row 2 "),
        ([("a", "1.5"), ("b", "nan")], GOOD, None, {}, "not a number in row 2 .*: 'nan'"),
        ([("a", "1.5"), ("b", "inf")], GOOD, None, {}, "not a number in row 2 .*: 'inf'"),
        ([("a", 1.5), ("b", 2.5)], [("c", "x")], None, {}, "validation.csv: .*not a number in row 1 .*: 'x'"),
        (GOOD, GOOD, None, {"both_orders": True}, "both_orders is set, but there is one text column, text"),
        (GOOD, GOOD, None, {"text_pair_column": "text"}, "text_pair_column is set, but text_column is not"),
        (GOOD, GOOD, None, {"text_column": "label"}, "text_column and label_column are both 'label'"),
        (
            [("a b", *["c d"] * 30, "x")],
            GOOD,
            (*(f"c{number}" for number in range(31)), "label"),
            {},
            r"several columns hold text \(c0, c1, .*c9 and 21 more\); it has c0, .* and 22 more",
        ),
    ],
)
def test_bad_rows_and_columns_are_named(own, train, validation, header, columns, expected):
    if validation is GOOD and header and len(header) != 2:
        validation = None
    with pytest.raises(ValueError, match=expected):
        own(train, validation, header=header or ("text", "label"), **columns)


def test_a_column_with_something_else_than_text_is_pointed_out(own):
    with pytest.raises(
        ValueError, match="it has text, label. The column 'text' holds int in row 2 .* is not text. Set"
    ):
        own([("a", "x"), (5, "y")], extension=".jsonl")


def test_columns_of_types_that_a_data_set_cannot_have_are_left_out(tmp_path):
    maps = pyarrow.array([[("key", "value")]] * 2, pyarrow.map_(pyarrow.string(), pyarrow.string()))
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "notes": maps, "label": [0, 1]}), tmp_path / "a.parquet")
    for table in (read_table(tmp_path / "a.parquet"), *groups_of_rows(tmp_path / "a.parquet", 9, ["text"])):
        assert table.names == ["text", "label"] and table.values("label") == [0, 1]


@pytest.mark.parametrize("extension", [".jsonl", ".parquet"])
def test_missing_values_of_typed_files_are_named(own, extension):
    _, splits = own([(None, "x"), ("b", "y"), ("c", "x")], GOOD, extension=extension)
    assert splits["train"].texts == [("b",), ("c",)]
    assert splits["train"].notes[0].startswith("1 row is left out: no text in the column 'text' in row 1 ")
    with pytest.raises(ValueError, match=r"the label \(label\) is missing or not a number in rows 2, 3 "):
        own([("a", 0.5), ("b", float("nan")), ("c", None), ("d", 1.5)], extension=extension)


def test_a_known_class_without_training_rows_is_refused(tmp_path):
    header = ("premise", "hypothesis", "label")
    train = write(tmp_path / "train.csv", [("a", "b", "entailment"), ("c", "d", "neutral")], header)
    validation = write(tmp_path / "validation.csv", [("a", "b", "neutral"), ("e", "f", "contradiction")], header)
    with pytest.raises(
        ValueError, match=r"validation.csv: the label is 'contradiction' in row 2 .*, which does not occur in training"
    ):
        load_task("snli", train_file=train, validation_file=validation)


def test_misnamed_columns_of_a_known_task_list_the_files(tmp_path):
    file = write(tmp_path / "rte.csv", [("a", "b", 1)], ("premise", "hypothesis", "label"))
    with pytest.raises(
        ValueError, match="no column 'sentence1' and no 'sentence2'.*rte.*it has premise, hypothesis, label"
    ):
        load_task("rte", train_file=file)


def test_empty_texts_of_published_sets_are_only_noted(tmp_path):
    (tmp_path / "qqp").mkdir()
    for split in ("train", "validation"):
        columns = {"question1": ["a", ""], "question2": ["b", None], "label": [0, 1]}
        Dataset.from_dict(columns).to_parquet(tmp_path / "qqp" / f"{split}.parquet")
    _, splits = load_task("qqp", data_dir=tmp_path)
    assert splits["train"].texts == [("a", "b"), ("", "")]
    assert splits["train"].notes[1].startswith("no text in the column 'question2' in row 2 ")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "Set train_file, or a task: cola"),
        ({"name": "cola", "train_file": "x.csv", "data_dir": "y"}, "data_dir and train_file are both set"),
        ({"name": "cola", "validation_file": "x.csv"}, "validation_file is set, but train_file is not"),
        (
            {"name": "cola", "own_columns": ColumnOverrides("text", both_orders=True)},
            "text_column and both_orders is for",
        ),
        ({"train_file": "nowhere.csv"}, "There is no file nowhere.csv"),
        ({"train_file": "nowhere"}, "There is no file nowhere"),
        ({"train_file": "."}, r"^\. is a folder\. Name a file in it"),
        ({"train_file": "nowhere.csv", "validation_share": 1.0}, "validation_share is 1.0"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, expected):
    with pytest.raises(ValueError, match=expected):
        load_task(**settings)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.xlsx", b"x", "a.xlsx ends in none of .csv"),
        ("a.csv", b"", "a.csv is empty: it has no rows"),
        ("a.csv", b"text,label\n", "a.csv is empty: it has no rows"),
        ("a.csv", b"text,label\na,x\nb\n", "a.csv, line 3: has 1 field, but the first line names 2 columns"),
        ("a.csv", b'text,label\n"a,x\n', "a.csv, line 2: unexpected end of data"),
        ("a.csv", b"text,text\na,b\n", "names the column 'text' twice"),
        ("a.csv", "text,label\né,x\n".encode("latin-1"), "a.csv, line 2: byte 0xe9 at offset 11 .*is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1: holds list"),
        ("a.parquet", b"PAR", "a.parquet is not a parquet file"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        read_table(tmp_path / name)


def test_excel_and_editors_leave_marks_that_do_not_count(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufefftext,label\r\na,x\r\n\r\nb,y\r\n".encode())
    assert read_table(tmp_path / "a.csv").columns == {"text": ["a", "b"], "label": ["x", "y"]}


# Texts to tokens


def texts_of(tokenizer, ids):
    return tokenizer.decode(ids)


def test_texts_pairs_and_choices_get_the_papers_delimiters(tokenizer):
    def frame(task, *texts):
        examples = tokenize_task(TASKS[task], TaskSplit([texts], None), tokenizer, max_length=50)
        return [tokenizer.convert_ids_to_tokens(tokens) for tokens in examples[0]["input_ids"]]

    def plain(text):
        return tokenizer.tokenize(text)

    assert frame("sst2", "the mill") == [["<start>", *plain("the mill"), "<extract>"]]
    pair = ["<start>", *plain("the mill"), "<delimiter>", *plain("anna"), "<extract>"]
    assert frame("rte", "the mill", "anna") == [pair]
    # The model itself reads a pair in the other order.
    assert frame("stsb", "the mill", "anna") == [pair]
    choices = frame("stories_cloze", "the mill", "anna", "tom")
    assert choices == [pair, ["<start>", *plain("the mill"), "<delimiter>", *plain("tom"), "<extract>"]]


def test_long_texts_are_cut_and_counted_and_keep_their_frame(tokenizer):
    texts = [("a",), (" ".join("abcdefghij"),), (" ".join("abcdefghijabcdefghij"),)]
    examples = tokenize_task(TASKS["sst2"], TaskSplit(texts, [0, 1, 1]), tokenizer, max_length=12)
    assert examples.cut == 1
    assert examples.lengths.tolist() == [[3], [12], [12]]
    last = examples[2]["input_ids"][0]
    assert last.tolist() == [*examples[1]["input_ids"][0][:11], tokenizer.cls_token_id]
    pairs = [("a b c d e f g h i j", "a b"), ("a b", "a b c d e f g h i j"), ("a", "b")]
    examples = tokenize_task(TASKS["rte"], TaskSplit(pairs, [0, 1, 1]), tokenizer, max_length=9)
    assert examples.cut == 2
    # 9 places, 3 of them special: the shorter text stays whole.
    for index, expected in ((0, "<start> a b c d <delimiter> a b <extract>"), (1, "<start> a b <delimiter> a b c d")):
        tokens = tokenizer.convert_ids_to_tokens(examples[index]["input_ids"][0])
        assert " ".join(tokens).replace("</w>", "").startswith(expected)
    choices = tokenize_task(
        TASKS["stories_cloze"], TaskSplit([("a", "b", "a b c d e f g h"), ("a", "b", "c")], [0, 1]), tokenizer, 9
    )
    assert choices.cut == 1 and choices.lengths.tolist() == [[9], [5]]


def test_batches_are_padded_to_their_longest_and_labels_have_the_heads_type(tokenizer):
    split = TaskSplit([("a b c",), ("a",)], [1, 0])
    examples = tokenize_task(TASKS["sst2"], split, tokenizer, max_length=12)
    batch = collate_examples([examples[0], examples[1]], tokenizer.pad_token_id)
    reference = tokenizer(["a b c", "a"], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], reference.input_ids)
    assert torch.equal(batch["attention_mask"], reference.attention_mask)
    assert batch["labels"].dtype == torch.int64 and batch["labels"].tolist() == [1, 0]
    numbers = tokenize_task(TASKS["stsb"], TaskSplit([("a", "b")], [2.5]), tokenizer, max_length=12)
    assert collate_examples([numbers[0]], 0)["labels"].dtype == torch.float32
    cloze = tokenize_task(TASKS["stories_cloze"], TaskSplit([("a", "b", "c d e")] * 3, None), tokenizer, max_length=12)
    batch = collate_examples([cloze[index] for index in range(3)], tokenizer.pad_token_id)
    assert batch["input_ids"].shape == (3, 2, 7) and "labels" not in batch
    assert batch["attention_mask"].sum(dim=-1).tolist() == [[5, 7]] * 3


def test_many_texts_are_encoded_as_one_by_one(tokenizer, monkeypatch):
    monkeypatch.setattr("gpt1_scratch.finetuning.examples.SEQUENCE_CHUNK_SIZE", 7)
    words = np.random.default_rng(0).choice(list("abcdefghij"), size=(40, 9))
    texts = [(" ".join(row[: 1 + index % 9]),) for index, row in enumerate(words)]
    examples = tokenize_task(TASKS["sst2"], TaskSplit(texts, None), tokenizer, max_length=8)
    assert len(examples) == 40
    for index, (text,) in enumerate(texts):
        assert examples[index]["input_ids"][0].tolist() == tokenizer(text, truncation=True, max_length=8).input_ids
    assert examples.cut == sum(len(text.split()) > 6 for (text,) in texts)


# Predictions


def tiny_config(tokenizer, **settings):
    torch.manual_seed(0)
    return GPT1Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
        **settings,
    )


@pytest.mark.parametrize("kind", ["classification", "similarity", "multiple_choice"])
def test_predictions_come_in_order_and_do_not_depend_on_the_batch_size(tokenizer, kind):
    generator = np.random.default_rng(0)
    words = [" ".join(generator.choice(list("abcdefghij"), size=size)) for size in generator.integers(1, 9, size=33)]
    task = {"classification": "sst2", "similarity": "stsb", "multiple_choice": "stories_cloze"}[kind]
    texts = [
        {"sst2": (a,), "stsb": (a, b), "stories_cloze": (a, b, c)}[task]
        for a, b, c in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]
    settings = {"both_orders": True, "delimiter_token_id": tokenizer.sep_token_id} if kind == "similarity" else {}
    head = GPT1ForMultipleChoice if kind == "multiple_choice" else GPT1ForSequenceClassification
    model = head(tiny_config(tokenizer, **settings)).eval()
    examples = tokenize_task(TASKS[task], TaskSplit(texts, None), tokenizer, max_length=32)
    one_by_one = []
    for text in texts:
        pairs = [(text[0], choice) for choice in text[1:]] if kind == "multiple_choice" else [text]
        inputs = tokenizer(*(list(column) for column in zip(*pairs, strict=True)), return_tensors="pt", padding=True)
        inputs = {name: tensor[None] if kind == "multiple_choice" else tensor for name, tensor in inputs.items()}
        one_by_one.append(model(**inputs).logits[0].tolist())
    for batch_size in (1, 4, 100):
        logits = predict(model, examples, tokenizer.pad_token_id, batch_size)
        np.testing.assert_allclose(logits, one_by_one, atol=1e-5)
    shares = predict(
        model,
        examples,
        tokenizer.pad_token_id,
        4,
        distribute=lambda function, items: function(items[:1]) + function(items[1:]),
    )
    np.testing.assert_array_equal(shares, predict(model, examples, tokenizer.pad_token_id, 4))


def test_texts_to_predict_from_need_no_label(tmp_path):
    file = write(tmp_path / "texts.csv", [("a", "1"), ("b", "2")], ("sentence", "id"))
    assert read_texts(TASKS["sst2"], read_table(file)) == [("a",), ("b",)]
    with pytest.raises(ValueError, match=re.escape("no column 'sentence1' and no 'sentence2'")):
        read_texts(TASKS["rte"], read_table(file))


def test_part_of_a_split_is_taken_at_even_distances_so_that_a_sorted_file_keeps_its_classes():
    split = TaskSplit([(str(number),) for number in range(10)], [0] * 5 + [1] * 5, ("a note",))
    part = split.spread(4)
    assert part.texts == [("0",), ("2",), ("5",), ("7",)] and part.labels == [0, 0, 1, 1]
    assert part.notes == ("of 10, at even distances", "a note")
    assert split.spread(10) is split.spread(99) is split
