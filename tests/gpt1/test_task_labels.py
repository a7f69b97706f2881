"""Labels of a user's own task: classes, numbers, sets of labels, weights, and what is held out by them."""

import json
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from pyarrow import parquet
from sklearn.utils.class_weight import compute_class_weight
from task_files import write

from gpt1_scratch.finetuning.class_weights import find_class_weights
from gpt1_scratch.finetuning.held_out import hold_out
from gpt1_scratch.finetuning.inference import ColumnOverrides
from gpt1_scratch.finetuning.loading import TaskSplit, load_task
from gpt1_scratch.finetuning.tasks import TASKS, Task

GOOD = [("a", "x"), ("b", "y")]


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
def test_lists_cells_and_columns_of_labels_are_the_same_task(own, form):
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


def test_lists_of_numbered_classes_have_the_names_that_parquet_gives(tmp_path):
    feature = List(ClassLabel(names=["joy", "fear", "none"]))
    rows = {"text": ["a b", "c d", "e f"], "labels": [[1], [0, 1], [2]]}
    path = tmp_path / "train.parquet"
    Dataset.from_dict(rows, features=Features({"text": Value("string"), "labels": feature})).to_parquet(path)
    task, splits = load_task(train_file=str(path), validation_file=str(path))
    assert task.labels == ("joy", "fear", "none") and splits["train"].labels == [(1,), (0, 1), (2,)]


@pytest.mark.parametrize("sets", [[[0], [1], [0, 1]], [[0, 1], [1, 2], [2, 0]], [[0, 0, 1], [1], [0]]])
def test_lists_of_numbers_are_labels_unless_they_are_of_0_and_1_for_each_label(own, sets):
    rows = [(f"text {index}", numbers) for index, numbers in enumerate(sets)]
    _, splits = own(rows, rows, extension=".jsonl")
    assert splits["train"].labels == [tuple(sorted(set(numbers))) for numbers in sets]


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
        ([("a b", [1, 0, 0]), ("c d", [0, 1, 1])], {}, "is 3 numbers 0 and 1 in every row.*set label_columns"),
        ([("a b", [True, False]), ("c d", [True, True])], {}, "is 2 numbers 0 and 1 in every row"),
        ([("a b", [0.0, 0.0]), ("c d", [0.0, 1.0])], {}, "is 2 numbers 0 and 1 in every row"),
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
    # A file for a task with given classes may lack one.
    with pytest.raises(ValueError, match="no row of training has the label neutral, whose weight would be infinite"):
        find_class_weights("balanced", TASKS["mnli"], [0, 2, 2])


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
    with pytest.raises(ValueError, match="Each class has a single text.*set validation_file"):
        own(GOOD)


@pytest.mark.parametrize("share", [0.999, 0.99])
def test_a_share_that_leaves_no_row_to_train_on_is_refused(tmp_path, share):
    file = write(tmp_path / "rows.csv", [(f"text {index}", "xy"[index % 2]) for index in range(30)])
    with pytest.raises(ValueError, match=f"validation_share {share} leaves no row of 30 to train on"):
        load_task(train_file=file, validation_share=share)


def test_rows_of_one_text_are_not_blamed_on_the_share(tmp_path):
    file = write(tmp_path / "rows.csv", [("same", "xy"[index % 2]) for index in range(30)])
    with pytest.raises(ValueError, match=r"There is only one text, in 30 rows, .* Add texts, or set validation_file"):
        load_task(train_file=file)


@pytest.mark.parametrize("name", ["own_name", "__index_level_0__", "Unnamed: 0", ""])
@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_row_names_are_no_text(tmp_path, name, extension):
    rows = [(f"row {'abcd'[index]}", f"text {'wxyz'[index]}", "xy"[index % 2]) for index in range(4)]
    columns = dict(zip((name, "text", "label"), zip(*rows, strict=True), strict=True))
    file = tmp_path / f"rows.{extension}"
    if extension == "csv":
        file.write_text("\n".join(map(",".join, [tuple(columns), *rows])) + "\n")
    else:
        pandas = {"index_columns": [name], "columns": []}
        table = pyarrow.table(columns).replace_schema_metadata({"pandas": json.dumps(pandas)})
        parquet.write_table(table, file)
    is_index = extension == "parquet" or name != "own_name"
    task, _ = load_task(train_file=str(file), validation_file=str(file))
    assert task.columns == (("text",) if is_index else (name, "text"))
    # A user may still name it.
    task, _ = load_task(train_file=str(file), validation_file=str(file), own_columns=ColumnOverrides(text_column=name))
    assert task.columns == (name,)


def test_declared_classes_keep_their_order(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "ant"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    rows.to_parquet(tmp_path / "rows.parquet")
    task, splits = load_task(train_file=str(tmp_path / "rows.parquet"), validation_file=str(tmp_path / "rows.parquet"))
    assert task.labels == ("zebra", "ant") and splits["train"].labels == [0, 1]
