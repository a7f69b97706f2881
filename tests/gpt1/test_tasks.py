"""Tasks: the table, files of every kind, inferred columns, and errors."""

import re

import pyarrow
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from pyarrow import parquet
from task_files import write

from gpt1_scratch.finetuning.held_out import hold_out
from gpt1_scratch.finetuning.inference import ColumnOverrides
from gpt1_scratch.finetuning.loading import TaskSplit, load_task, read_texts
from gpt1_scratch.finetuning.metrics import TaskMetric
from gpt1_scratch.finetuning.tables import groups_of_rows, read_table
from gpt1_scratch.finetuning.tasks import TASKS, find_task

ROWS = [
    ("a fine day", "good"),
    ('he said "no", twice', "bad"),
    ("two\nlines", "good"),
    ("None", "bad"),
    ("NA", "good"),
]


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


def test_a_data_set_that_the_hub_no_longer_has_says_how_to_give_files(monkeypatch):
    def refuse(*arguments):
        raise FileNotFoundError("Dataset 'nyu-mll/glue' doesn't exist on the Hub.")

    monkeypatch.setattr("huggingface_hub.HfApi.file_exists", lambda *arguments, **keywords: False)
    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(ValueError, match="cola: Dataset .* exist on the Hub. Give the data with data_dir or train_f"):
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


def test_a_column_of_one_value_is_no_text_beside_others_unless_its_name_says_so(own):
    rows = [("a b", "en", "x"), ("c d", "en", "y")]
    for header, found in ((("comment", "lang", "label"), ("comment",)), (("question", "sentence", "label"), None)):
        task, _ = own(rows, rows, header=header)
        assert task.columns == (found or header[:2])
    task, _ = own([("a b", "x"), ("a b", "y")], [("a b", "x")])
    assert task.columns == ("text",)


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


@pytest.mark.parametrize("kind", ["classes", "numbers", "sets"])
def test_rows_with_the_same_texts_are_held_out_together(kind):
    labels = {"classes": [0, 1, 2], "numbers": [0.5, 1.5, 2.5], "sets": [(0,), (1, 2), ()]}[kind]
    # Ten different pairs; each stands twice more, once in the other order, and some with another label.
    pairs = [(f"left {index}", f"right {index}") for index in range(10)]
    texts = [*pairs, *(pair[::-1] for pair in pairs), *pairs]
    split = TaskSplit(texts, [labels[(row + row // 25) % 3] for row in range(30)])
    for seed in range(20):
        train, held_out = hold_out(split, 0.3, seed, keep_classes=kind != "numbers")
        known = set(map(frozenset, train.texts))
        assert len(held_out) in (3, 6, 9) and known.isdisjoint(map(frozenset, held_out.texts))
        assert len(train) + len(held_out) == 30 and set(train.labels) == set(labels)


def test_rows_with_the_text_of_a_training_row_are_counted(own):
    _, splits = own([("a b", "x"), ("c d", "y")], [("a b", "y"), ("e f", "x"), ("a b", "x")], test=[("g h", "x")])
    assert splits["validation"].notes == ("2 with the text of a training row",) and splits["test"].notes == ()


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
