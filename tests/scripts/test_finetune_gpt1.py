"""What the scripts of fine-tuning and prediction leave, with tiny models, and what they refuse."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from finetuning_runs import NOUNS, results_of, rows_of, sentences, write_csv
from safetensors.torch import load_file
from transformers import AutoModelForMultipleChoice, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from gpt1_scratch.finetuning.metrics import TaskMetric
from gpt1_scratch.finetuning.reports import glue_average, score, write_predictions
from gpt1_scratch.finetuning.tasks import TASKS
from papers_to_gpt.settings.arguments import run_script

ROOT = Path(__file__).parents[2]


# What a run leaves


def test_strings_in_a_csv_become_a_classifier_that_a_pipeline_uses(finetune, predict, files, capsys):
    folder = finetune(*files, "--num_train_epochs", 4)
    shown = capsys.readouterr().out
    assert "own: label (one of bad, good) from text" in shown and "train: 71 examples" in shown
    results = results_of(folder)
    assert results["eval_accuracy"] == results["test_accuracy"] == 1.0  # one word decides
    assert results["eval_confusion_matrix"] == [[12, 0], [0, 11]]
    assert "true \\ predicted  bad  good" in shown
    # 71 examples make nine batches of 8 or fewer.
    assert (results["train_updates"], results["train_examples"]) == (36, 4 * 71)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "bad", 1: "good"} and model.config.label2id == {"bad": 0, "good": 1}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("the kite shone").input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.cls_token_id)

    texts = [text for text, _ in sentences(10, 3)]
    answers = pipeline("text-classification", model=str(folder), trust_remote_code=False)(texts)
    rows = predict(folder, lines=texts)
    assert rows[0] == ["index", "prediction", "probability"]
    for index, (row, answer) in enumerate(zip(rows[1:], answers, strict=True)):
        assert row[:2] == [str(index), answer["label"]]
        assert float(row[2]) == pytest.approx(answer["score"], abs=1e-4)
    assert [row[:2] for row in rows] == rows_of(folder / "test_predictions.tsv")


def test_an_evaluation_reads_part_of_the_validation_split(finetune, files, capsys):
    finetune(*files, "--max_eval_samples", "8", "--max_steps", "1")
    out = capsys.readouterr().out
    assert "validation: 8 examples; of 23, at even distances" in out and "test: 10 examples" in out


def test_truncation_keeps_the_template_within_the_models_positions(finetune, files):
    folder = finetune(*files, "--max_steps", 1)  # from a model of 24 positions with a tokenizer made for 512
    classifier = pipeline("text-classification", model=str(folder), trust_remote_code=False)
    for checked in (classifier.tokenizer, AutoTokenizer.from_pretrained(folder / "checkpoint-1")):
        for texts in (["the kite " * 40], ["the kite " * 40, "shone " * 30]):
            ids = checked(*texts, truncation=True).input_ids
            assert len(ids) == 24 == classifier.model.config.max_position_embeddings
            assert (ids[0], ids[-1]) == (checked.bos_token_id, checked.cls_token_id)
            assert ids.count(checked.sep_token_id) == len(texts) - 1
    (answer,) = classifier("the kite " * 40, truncation=True)
    assert answer["label"] in ("good", "bad")


def test_numbers_in_a_csv_become_classes_or_a_regression(finetune, predict, tmp_path):
    rows = [(text, 3 + (label == "good")) for text, label in sentences(40)]
    folder = finetune("--train_file", write_csv(tmp_path / "stars.csv", rows, ("review", "rating")), name="stars")
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.id2label == {0: "3", 1: "4"}
    assert sum(map(sum, results_of(folder)["eval_confusion_matrix"])) == 4  # a tenth held out

    rows = [(text, "the lamp broke", 1.5 + 2 * (label == "good")) for text, label in sentences(120)]
    file = write_csv(tmp_path / "pairs.csv", rows, ("sentence1", "sentence2", "score"))
    folder = finetune("--train_file", file, "--num_train_epochs", 12, name="regression")
    results = results_of(folder)
    assert results["eval_pearson"] > 0.5 and "eval_confusion_matrix" not in results
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    assert model.config.both_orders
    printed = predict(folder, lines=["the kite shone\tthe lamp broke", "the lamp broke\tthe kite shone"])
    assert printed[0] == ["index", "prediction"]
    # Both orders are read, so the order says nothing.
    assert float(printed[1][1]) == pytest.approx(float(printed[2][1]), abs=1e-4)
    answer = pipeline("text-classification", model=str(folder), trust_remote_code=False)(
        {"text": "the kite shone", "text_pair": "the lamp broke"}
    )
    assert answer["score"] == pytest.approx(float(printed[1][1]), abs=1e-4)


def test_multiple_choice_learns_and_predicts(finetune, predict, tmp_path):
    generator = np.random.default_rng(0)
    rows = []
    for text, _ in sentences(48):
        right = int(generator.integers(2))
        endings = ["it broke", "it broke"]
        endings[right] = "it shone"
        rows.append((text, *endings, right))
    file = write_csv(tmp_path / "cloze.csv", rows, ("context", "ending1", "ending2", "label"))
    folder = finetune("--task", "stories_cloze", "--train_file", file, "--num_train_epochs", 8)
    assert results_of(folder)["eval_accuracy"] == 1.0
    assert AutoModelForMultipleChoice.from_pretrained(folder).choice_score.out_features == 1
    lines = ["the kite\tit shone\tit broke", "the kite\tit broke\tit shone"]
    assert [row[1] for row in predict(folder, lines=lines)[1:]] == ["ending1", "ending2"]


def test_several_labels_for_a_text_are_learned_and_predicted_over_the_threshold(finetune, predict, tmp_path):
    rows = [(text, [noun for noun in ("kite", "mill") if noun in text]) for text, _ in sentences(96)]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows))
    cells = [(text, "|".join(labels)) for text, labels in rows[:40]]
    test = write_csv(tmp_path / "test.csv", cells, ("text", "labels"))
    folder = finetune("--train_file", train, "--test_file", test, "--num_train_epochs", 16)
    results = results_of(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {0: "kite", 1: "mill"}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [text for text, _ in rows[:40]]
    with torch.no_grad():
        logits = torch.stack([model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts])
    probabilities = logits.sigmoid()
    labels = torch.tensor([["kite" in text, "mill" in text] for text in texts]).float()
    loss = torch.nn.functional.binary_cross_entropy(probabilities, labels).item()
    assert results["test_loss"] == pytest.approx(loss, rel=1e-3) and "test_confusion_matrix" not in results
    found = probabilities > 0.5
    both, either = (found & labels.bool()).sum().item(), (found.sum() + labels.sum()).item()
    assert results["test_f1_micro"] == pytest.approx(2 * both / either)
    assert [each["examples"] for each in results["test_label_scores"]] == labels.sum(dim=0).int().tolist()

    rows = predict(folder, lines=[*texts, ""])
    assert rows[-1] == ["40", "no text", ""]
    assert {len(row[1].split("|")) if row[1] else 0 for row in rows[1:-1]} == {0, 1, 2}
    for (_, names, shown), chosen, values in zip(rows[1:-1], found, probabilities, strict=True):
        assert names == "|".join(name for name, applies in zip(("kite", "mill"), chosen, strict=True) if applies)
        numbers = [float(number) for number in shown.split("|") if number]
        assert numbers == pytest.approx(values[chosen].tolist(), abs=1e-4)
    assert [row[:2] for row in rows[:-1]] == rows_of(folder / "test_predictions.tsv")
    card = (folder / "README.md").read_text()
    assert "to predict any of `kite`, `mill`" in card and "F1 over all pairs of a text and a label" in card


def test_class_weights_are_recorded_and_the_evaluation_names_the_weighted_loss(finetune, tmp_path, capsys):
    rows = sentences(48)
    few = [row for row in rows if row[1] == "bad"] + [row for row in rows if row[1] == "good"][:8]
    file = write_csv(tmp_path / "few.csv", few)
    settings = ("--train_file", file, "--validation_file", file, "--max_steps", 2, "--class_weights", "balanced")
    folder = finetune(*settings, "--metric_for_best_model", "weighted_loss")
    record = yaml.safe_load((folder / "run.yaml").read_text())
    assert record["class_weights"] == {"bad": 32 / (2 * 24), "good": 32 / (2 * 8)}
    assert record["settings"]["class_weights"] == "balanced"
    assert "class_weights: bad 0.6667, good 2" in capsys.readouterr().out
    results = results_of(folder)
    assert results["train_examples"] == 16
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = torch.stack([model(**tokenizer(text, return_tensors="pt")).logits[0] for text, _ in few])
    labels = torch.tensor([int(label == "good") for _, label in few])
    losses = [torch.nn.functional.cross_entropy(logits, labels, weight) for weight in (None, torch.tensor([2 / 3, 2]))]
    assert [results["eval_loss"], results["eval_weighted_loss"]] == pytest.approx([x.item() for x in losses], rel=1e-4)
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert all("weighted_loss" in line for line in lines if line["kind"] == "eval")


def test_the_best_epochs_model_is_kept_by_the_tasks_first_score(finetune, files):
    folder = finetune(*files, "--learning_rate", "3e-2", "--num_train_epochs", 4)
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert [line["update"] for line in evaluations] == [9, 18, 27, 36]
    results = results_of(folder)
    best = max(evaluations, key=lambda line: line["accuracy"])
    assert results["best_update"] == best["update"] and results["eval_accuracy"] == pytest.approx(best["accuracy"])
    weights = load_file(folder / f"checkpoint-{best['update']}" / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, weights[name])


# GLUE


def glue_folder(folder, task, splits):
    (folder / task).mkdir(parents=True)
    for split, columns in splits.items():
        Dataset.from_dict(columns).to_parquet(folder / task / f"{split}.parquet")


def test_test_sets_are_predicted_in_the_leaderboards_format(finetune, tmp_path):
    texts = [text for text, _ in sentences(36)]
    pair = {"premise": texts, "hypothesis": texts[::-1]}
    labelled, unlabelled = {**pair, "label": [0, 1, 2] * 12}, {**pair, "label": [-1] * 36}
    splits = {"train": labelled, "validation_matched": labelled, "validation_mismatched": labelled}
    splits |= {"test_matched": unlabelled, "test_mismatched": unlabelled}
    glue_folder(tmp_path / "glue", "mnli", splits)
    cola = {"sentence": texts, "label": [0, 1] * 18}
    glue_folder(tmp_path / "glue", "cola", {"train": cola, "validation": cola, "test": {**cola, "label": [-1] * 36}})
    similar = {"sentence1": texts, "sentence2": texts[::-1], "label": [index / 5 for index in range(36)]}
    glue_folder(tmp_path / "glue", "stsb", {"train": similar, "validation": similar, "test": similar})

    folder = finetune("--task", "all", "--data_dir", tmp_path / "glue", "--num_train_epochs", 1)
    for name in ("MNLI-m", "MNLI-mm"):
        rows = rows_of(folder / "mnli" / f"{name}.tsv")
        assert rows[0] == ["index", "prediction"] and [row[0] for row in rows[1:]] == [str(i) for i in range(36)]
        assert {row[1] for row in rows[1:]} <= {"entailment", "neutral", "contradiction"}
    assert {row[1] for row in rows_of(folder / "cola" / "CoLA.tsv")[1:]} <= {"0", "1"}
    numbers = [row[1] for row in rows_of(folder / "stsb" / "STS-B.tsv")[1:]]
    assert all(re.fullmatch(r"[0-4]\.\d{3}|5\.000", number) for number in numbers)

    results = results_of(folder)
    assert set(results["tasks"]) == {"cola", "stsb", "mnli"}
    mnli = results["tasks"]["mnli"]
    assert mnli["eval_accuracy"] == mnli["eval_accuracy_mismatched"]  # the same rows
    assert "test_accuracy" not in mnli
    assert results["glue_average_of"] == ["cola", "stsb", "mnli"]
    table = (folder / "results.md").read_text()
    assert table.splitlines()[0].startswith("| task | score | validation |")
    # Of the 36 rows of train, four chose the checkpoint.
    assert re.search(r"\| mnli \| accuracy \| \d+\.\d \|  \| 82.1 \| 75.7 \| [01] of 1 \| 32 \|", table)
    assert f"| average of 3 of GLUE |  | {results['glue_average']:.1f} |" in table


def test_numbers_are_cut_to_the_range_of_similarity_and_classes_are_numbered_or_named(tmp_path):
    def written(task, logits):
        write_predictions(tmp_path / "x.tsv", TASKS[task], np.array(logits))
        return rows_of(tmp_path / "x.tsv")[1:]

    assert written("stsb", [[-0.3], [2.34567], [7.0]]) == [["0", "0.000"], ["1", "2.346"], ["2", "5.000"]]
    assert written("stories_similarity", [[-0.3], [7.0]]) == [["0", "-0.300"], ["1", "7.000"]]
    assert written("mrpc", [[0.0, 1.0], [1.0, 0.0]]) == [["0", "1"], ["1", "0"]]
    assert written("rte", [[0.0, 1.0], [1.0, 0.0]]) == [["0", "not_entailment"], ["1", "entailment"]]


def test_the_average_is_the_leaderboards():
    """MRPC counts with the mean of F1 and accuracy, MNLI with the mean of both sets; only tasks of GLUE count."""
    summaries = {
        "cola": {"eval_matthews_correlation": 0.4, "eval_loss": 0.9},
        "mrpc": {"eval_f1": 0.8, "eval_accuracy": 0.7},
        "mnli": {"eval_accuracy": 0.6, "eval_accuracy_mismatched": 0.5},
        "stories_cloze": {"eval_accuracy": 1.0},
    }
    average = glue_average(summaries)
    assert average["glue_average"] == pytest.approx((40 + 75 + 55) / 3)
    assert average["glue_average_of"] == ["cola", "mrpc", "mnli"]


def test_the_loss_is_torchs():
    logits, labels = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32) * 50, np.arange(9) % 3
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    assert score(TASKS["mnli"], TaskMetric(("accuracy",)), logits, labels)["loss"] == pytest.approx(loss.item())
    numbers = labels.astype(np.float32)
    scores = score(TASKS["stsb"], TaskMetric(("pearson",)), logits[:, :1], numbers)
    assert scores["loss"] == pytest.approx(np.mean((logits[:, 0] - numbers) ** 2))


# Bad input


def failure(start, *arguments):
    """Runs a script that fails and returns its message and exit status."""
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: start(*arguments))
    return stop.value.code


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--task", "coala"], "The task 'coala' is not known; known are cola, sst2"),
        ([], "Set train_file, or task to some of cola"),
        (["--task", "cola", "sst2", "--train_file", "x.csv"], "train_file is one task's data, but task names 2"),
        (["--train_file", "nowhere.csv"], "There is no file nowhere.csv"),
        (["--task", "cola", "--data_dir", "nowhere"], "data_dir nowhere has no folder 'cola'"),
        (["--task", "all", "--data_dir", "nowhere"], "holds no folder of a known task. Name the folder"),
        (["FILES", "--label_column", "lable"], "no column 'lable' (label_column); it has text, label"),
        (["FILES", "--max_length", "100"], "max_length is 100; it must be from 5 to max_position_embeddings, 24"),
        (["FILES", "--seeds", "1", "1"], "seeds is [1, 1], which has a seed twice"),
        (["FILES", "--transferred_layers", "3"], "transferred_layers is 3;"),
        (["FILES", "--transferred_layers", "1", "--from_scratch", "true"], "are both set. Set one"),
        (["FILES", "--metric_for_best_model", "f1"], "metric_for_best_model is 'f1', which the evaluation does not"),
        (["FILES", "--model_name_or_path", "EMPTY"], "holds no model: config.json is not there"),
        (["FILES", "--model_name_or_path", "recipes/mini"], "There is no folder recipes/mini. Correct the path"),
        (["FILES", "--model_name_or_path", "./mini"], "There is no folder ./mini. Correct the path"),
        (["FILES", "--model_name_or_path", "runs/of/mine"], "There is no folder runs/of/mine. Correct the path"),
        (
            ["FILES", "--model_name_or_path", "NO_TOKENIZER"],
            "has no tokenizer that can be loaded. Copy the tokenizer.js",
        ),
        (["FILES", "--learning_rat", "1"], "unknown setting 'learning_rat'. Did you mean 'learning_rate'?"),
        (["FILES", "--label_smoothing_factor", "0.1"], "unknown setting 'label_smoothing_factor'"),
    ],
)
def test_wrong_input_ends_the_script_with_a_message(
    finetune, pretrained, files, tmp_path, capsys, arguments, expected
):
    (tmp_path / "empty").mkdir()
    without = tmp_path / "without"
    without.mkdir()
    for name in ("config.json", "model.safetensors"):
        (without / name).symlink_to(pretrained / name)
    places = {"EMPTY": [tmp_path / "empty"], "NO_TOKENIZER": [without], "FILES": files}
    arguments = [value for argument in arguments for value in places.get(argument, [argument])]
    assert failure(finetune, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and "Traceback" not in error


def test_a_metric_that_the_task_does_not_have_is_refused_before_the_first_update(finetune, files, capsys):
    arguments = [*files, "--metric_for_best_model", "eval_accuracy", "--eval_steps", 5, "--logging_steps", 1]
    assert failure(finetune, *arguments) == 2
    output, error = capsys.readouterr()
    assert "Did you mean 'accuracy'? It reports loss, accuracy" in error
    assert "train: 71 examples" in output and "train 1/" not in output


def test_wrong_rows_end_the_script_with_their_numbers(finetune, tmp_path, capsys):
    rows = [("a", "x"), ("b", ""), ("c", "x")]
    assert failure(finetune, "--train_file", write_csv(tmp_path / "bad.csv", rows)) == 2
    assert "bad.csv: the label (label) is missing or not a number in row 2" in capsys.readouterr().err


def test_texts_longer_than_the_context_are_counted(finetune, tmp_path, capsys):
    rows = [
        (" ".join([*NOUNS[: 1 + index // 4], *NOUNS * (10 if index == 7 else 1)]), "xy"[index % 2])
        for index in range(20)
    ]
    finetune("--train_file", write_csv(tmp_path / "long.csv", rows), "--max_steps", 1)
    assert re.search(
        r"train: 1\d examples;.*1 longer than 24 tokens and cut|validation: .*1 longer",
        capsys.readouterr().out,
    )


def test_texts_of_characters_outside_of_the_vocabulary_are_counted(finetune, tmp_path, capsys):
    train = [(f"the {noun} {verb}", "xy"[index]) for index, verb in enumerate(("shone", "broke")) for noun in NOUNS]
    train[3] = ("\U0001f600 \U0001f389", "x")
    files = ("--train_file", write_csv(tmp_path / "train.csv", train))
    files += ("--validation_file", write_csv(tmp_path / "validation.csv", [("the kite", "x"), ("the mill", "y")]))
    finetune(*files, "--max_steps", 1)
    lines = capsys.readouterr().out.splitlines()
    (shown,) = (line for line in lines if line.startswith("train: 12 examples"))
    assert shown.endswith("; 1 with characters that the vocabulary lacks, all read as <unk>")
    assert "validation: 2 examples" in lines


def test_predictions_cut_texts_where_training_does(finetune, predict, files):
    folder = finetune(*files, "--max_steps", 1, "--max_length", 7)
    long = "the kite shone and the lamp broke"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(long, truncation=True).input_ids
    assert len(tokens) == 7 < len(tokenizer(long).input_ids)
    short = tokenizer.decode(tokens[1:-1])
    assert tokenizer(short).input_ids == tokens
    long_answer, short_answer = predict(folder, lines=[long, short])[1:]
    assert long_answer[1:] == short_answer[1:]


def test_prediction_from_files_and_lines_is_checked(finetune, predict, files, pretrained, tmp_path):
    folder = finetune(*files, "--max_steps", 2)
    file = write_csv(tmp_path / "texts.csv", [(text, 0) for text, _ in sentences(9)], ("text", "other"))
    renamed = write_csv(tmp_path / "renamed.csv", [(text, 0) for text, _ in sentences(9)], ("body", "other"))
    lines = tmp_path / "texts.txt"
    lines.write_text("".join(f"{text}\n" for text, _ in sentences(9)))
    rows = predict(folder, "--input_file", file)
    assert len(rows) == 10
    assert rows == predict(folder, "--input_file", lines)
    assert rows == predict(folder, "--input_file", renamed, "--text_column", "body", "--batch_size", 2)
    predict(folder, "--input_file", lines, "--output_file", tmp_path / "out.tsv")
    assert rows_of(tmp_path / "out.tsv") == rows
    for arguments, typed, expected in (
        (["--input_file", renamed], (), r"no column 'text' .*it has body, other"),
        (["--input_file", "nowhere.txt"], (), "There is no file nowhere.txt"),
        (["--text_column", "a", "--text_pair_column", "b"], (), "trained on 1 column of text, not 2"),
        ([], ["a\tb"], "line 1: has 2 texts; it must have 1"),
        ([], [], "has no line"),
        (["--model_name_or_path", pretrained], ["a"], "GPT1ForCausalLM.* needs a GPT-1 that is fine-tuned for a task"),
        (["--model_name_or_path", tmp_path], ["a"], "holds no model"),
    ):
        with pytest.raises(ValueError, match=expected):
            predict(folder, *arguments, lines=typed)
