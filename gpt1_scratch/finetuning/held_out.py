"""Holds out rows of a split, for validation or to choose a checkpoint."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from random import Random
from typing import TYPE_CHECKING

from ..data.wording import counted
from .label_sets import rarest_labels

if TYPE_CHECKING:
    from .loading import TaskSplit


def hold_out(
    split: "TaskSplit",
    share: float,
    seed: int,
    *,
    keep_classes: bool = False,
    purpose: str = "for validation",
    setting: str = "validation_share",
    instead: str = "set validation_file",
) -> "tuple[TaskSplit, TaskSplit]":
    """Splits off a share of the rows, at least one, at random; returns the remaining and the held-out rows.

    Rows with the same texts, in any order, stay together, because scores of texts that the model is trained on say
    nothing of others. So there may be a few rows less than the share.

    Args:
        split: the split to divide.
        share: fraction of the rows that is held out.
        seed: determines which rows are held out.
        keep_classes: True if labels are classes. The share is then taken from each class, which keeps at least one
            text. A text with several labels counts as one of the class that is the rarest of them.
        purpose: what the rows are held out for, as the note on them says.
        setting: the setting that gives the share, for messages.
        instead: what a message names as the alternative to it.

    Raises:
        ValueError: if there is only one text, no row would be left to train on, or every class has a single text.
    """
    rows_of: dict[tuple[str, ...], list[int]] = {}
    for index, texts in enumerate(split.texts):
        rows_of.setdefault(tuple(sorted(texts)), []).append(index)
    groups = list(rows_of.values())
    if len(groups) == 1:
        raise ValueError(
            f"There is only one text, in {counted(len(split), 'row')}, so that none can be held out {purpose}. Add "
            f"texts, or {instead}."
        )
    count = max(1, round(share * len(split)))
    if count >= len(split):
        raise ValueError(
            f"{setting} {share} leaves no row of {len(split):,} to train on. Choose a smaller share, or {instead}."
        )
    random = Random(seed)
    if keep_classes:
        sets = [label if isinstance(label, tuple) else (label,) for label in split.labels]
        labels = [tuple(sorted(set(chain.from_iterable(sets[row] for row in rows)))) for rows in groups]
        drawn = _first_that_fit(_order_by_class(rarest_labels(labels), random), groups, count)
        drawn -= _last_of_their_label(labels, drawn)
        if not drawn:
            raise ValueError(
                f"Each class has a single text, so that none can be held out {purpose}. Add texts, or {instead}."
            )
    else:
        drawn = _first_that_fit(random.sample(range(len(groups)), len(groups)), groups, count)
    held_out = {row for group in drawn for row in groups[group]}
    note = f"{count_rows(len(held_out))} held out {purpose}"
    parts = []
    for inside in (False, True):
        rows = [index for index in range(len(split)) if (index in held_out) == inside]
        notes = () if inside else (*split.notes, note)
        texts, labels = ([values[index] for index in rows] for values in (split.texts, split.labels))
        parts.append(replace(split, texts=texts, labels=labels, notes=notes))
    return parts[0], parts[1]


def count_rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"


def _order_by_class(labels: Sequence[int], random: Random) -> list[int]:
    """Returns the groups of rows in a random order that keeps the proportions of classes, without one of each class.

    Args:
        labels: the class of each group.
        random: draws the order.
    """
    groups_of: dict[int, list[int]] = {}
    for group, label in enumerate(labels):
        groups_of.setdefault(label, []).append(group)
    ranked = []
    for label in sorted(groups_of):
        groups = groups_of[label]
        random.shuffle(groups)
        # Group i of n groups gets a random rank between i / n and (i + 1) / n, which keeps the proportions.
        ranked += [((place + random.random()) / len(groups), group) for place, group in enumerate(groups[:-1])]
    return [group for _, group in sorted(ranked)]


def _first_that_fit(order: Iterable[int], groups: Sequence[Sequence[int]], count: int) -> set[int]:
    """Returns the first groups that have at most `count` rows together; the smallest one if none is that small."""
    order, drawn, rows = list(order), set(), 0
    for group in order:
        if rows + len(groups[group]) <= count:
            drawn.add(group)
            rows += len(groups[group])
    return drawn or set(sorted(order, key=lambda group: len(groups[group]))[:1])


def _last_of_their_label(labels: Sequence[tuple[int, ...]], drawn: set[int]) -> set[int]:
    """Returns one of the groups drawn for each label that no other group has.

    Rare labels can occur together only, or with a text that has another label too.
    """
    kept = set(chain.from_iterable(each for group, each in enumerate(labels) if group not in drawn))
    returned = set()
    for group in sorted(drawn):
        if not kept.issuperset(labels[group]):
            returned.add(group)
            kept.update(labels[group])
    return returned
