"""No label of a task made of stories can be told without reading."""

import re
from collections import Counter
from itertools import pairwise

import pytest
import torch
from story_rows import COLUMNS, words

from gpt1_scratch.stories.tasks import load_story_task
from gpt1_scratch.stories.world import PEOPLE


def accuracy_of_word_counts(splits, columns, pairs=False):
    """Returns the test accuracy of logistic regression on the words (and pairs of neighbours) of each column."""

    def count(row):
        counts = Counter()
        for column in columns:
            told = words(row[column])
            counts.update((column, word) for word in told)
            counts.update((column, pair) for pair in pairwise(told) if pairs)
        return counts

    counted = {split: [count(row) for row in splits[split]] for split in ("train", "test")}
    index = {feature: i for i, feature in enumerate({feature: None for row in counted["train"] for feature in row})}
    inputs, labels = {}, {}
    for split, rows in counted.items():
        inputs[split] = torch.zeros(len(rows), len(index))
        for i, row in enumerate(rows):
            for feature, number in row.items():
                if feature in index:
                    inputs[split][i, index[feature]] = number
        labels[split] = torch.tensor(splits[split]["label"], dtype=torch.float32)
    weights = torch.zeros(len(index) + 1, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.02)
    for _ in range(100):
        logits = inputs["train"] @ weights[1:] + weights[0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels["train"])
        optimizer.zero_grad()
        (loss + 1e-3 * weights.square().sum()).backward()
        optimizer.step()
    with torch.no_grad():
        guessed = inputs["test"] @ weights[1:] + weights[0] > 0
    return (guessed == labels["test"].bool()).float().mean().item()


def test_word_counts_find_labels_that_words_give_away():
    """Otherwise the bounds below would show nothing."""
    rows = load_story_task("sentiment", 1_500, 1, 400)
    rows = rows.map(lambda row: {"sentence": row["sentence"] + (" Good." if row["label"] else " Bad.")})
    assert accuracy_of_word_counts(rows, ["sentence"]) > 0.95


@pytest.mark.parametrize(
    ("name", "columns", "bound"),
    [
        ("entailment", ["hypothesis"], 0.58),
        ("entailment", ["premise"], 0.58),
        ("entailment", ["premise", "hypothesis"], 0.6),
        ("cloze", ["ending1", "ending2"], 0.58),
        ("cloze", ["context", "ending1", "ending2"], 0.6),
        ("paraphrase", ["sentence1", "sentence2"], 0.6),
        ("sentiment", ["sentence"], 0.8),
        ("acceptability", ["sentence"], 0.75),
    ],
)
def test_word_counts_do_not_tell_the_label(name, columns, bound, tasks):
    assert accuracy_of_word_counts(tasks[name], columns) < bound


@pytest.mark.parametrize("name", ["entailment", "cloze"])
def test_neither_the_first_nor_the_last_nor_the_most_frequent_name_is_the_answer(name, tasks):
    people = {person.name for person in PEOPLE}

    def named(text):
        return [word for word in re.findall(r"\w+", text) if word in people]

    for choose in (lambda names: names[0], lambda names: names[-1], lambda names: Counter(names).most_common()[0][0]):
        right = []
        for row in tasks[name]["train"]:
            person = choose(named(row[COLUMNS[name][0]]))
            agree = [person in named(row[column])[:1] for column in COLUMNS[name][1:]]
            if name == "entailment" and named(row["hypothesis"]):
                right.append(agree[0] == (row["label"] == 0))
            elif name == "cloze" and agree[0] != agree[1]:
                right.append(agree.index(True) == row["label"])
        assert len(right) > 200 and sum(right) / len(right) < 0.7


def overlap(row):
    first, second = set(words(row["sentence1"])), set(words(row["sentence2"]))
    return len(first & second) / len(first | second)


def test_shared_words_alone_do_not_tell_paraphrases(tasks):
    rows = tasks["paraphrase"]["train"].to_list()
    shares = [overlap(row) for row in rows]
    best = max(
        sum((share > bound) == row["label"] for share, row in zip(shares, rows, strict=True)) for bound in set(shares)
    )
    assert best < 0.62 * len(rows), best / len(rows)


def test_shared_words_alone_do_not_tell_similarity(tasks):
    rows = tasks["similarity"]["train"].to_list()
    table = torch.tensor([[overlap(row), row["label"]] for row in rows]).T
    assert 0.3 < torch.corrcoef(table)[0, 1] < 0.88
