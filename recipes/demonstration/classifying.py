"""Classifies a text, a pair of texts or several choices with a fine-tuned model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpt1_scratch.finetuning.label_sets import applies, join_labels
from papers_to_gpt.demonstration.inputs import check_text
from papers_to_gpt.demonstration.loading import ModelStore

# Tokens of a template: those that mark the start, the place between two texts, and the end.
TEMPLATE_TOKENS = 3


@dataclass(frozen=True)
class Prediction:
    """What a fine-tuned model predicts.

    Attributes:
        answer: the class, the classes that apply with "|" between them, the chosen text or the number.
        probabilities: the probability of each class or choice; empty for a number.
    """

    answer: str
    probabilities: dict[str, float]


def names_of_texts(config: Mapping[str, Any]) -> list[str]:
    """Returns the names of the texts that a fine-tuned model reads: its columns, or the context and the choices.

    Args:
        config: the content of its config.json.
    """
    task = config["finetuning_task"]
    if task["kind"] == "multiple_choice":
        return ["context", *config["id2label"].values()]
    return list(task["columns"])


def classify(store: ModelStore, name: str, texts: Sequence[str], max_input_tokens: int) -> Prediction:
    """Predicts for one example.

    Args:
        store: the models.
        name: a fine-tuned model.
        texts: a text for each name that `names_of_texts` returns; further ones are not read.
        max_input_tokens: the largest number of tokens of each text.

    Raises:
        ValueError: if a text is empty, or the texts are longer than allowed or than the model can read.
    """
    with store.borrow(name) as classifier:
        task, longest = classifier.task, classifier.max_length
        names = names_of_texts(store.found[name].config)
        given = list(texts)[: len(names)]
        lengths = [
            check_text(text, classifier.tokenizer, max_input_tokens, f"The text {column!r}")
            for column, text in zip(names, given, strict=True)
        ]
        read = lengths[0] + max(lengths[1:], default=0) + TEMPLATE_TOKENS
        if read > longest:
            raise ValueError(f"The texts have {read} tokens together. The model reads {longest}; shorten them.")
        logits = classifier.logits_of([tuple(given)])
    if task.is_regression:
        return Prediction(f"{logits[0, 0]:.3f}", {})
    scores = torch.from_numpy(logits[0])
    probabilities = (scores.sigmoid() if task.is_multi_label else scores.softmax(dim=0)).tolist()
    by_label = dict(zip(task.labels, probabilities, strict=True))
    if task.is_multi_label:
        return Prediction(join_labels(task, applies(logits)[0]) or "none", by_label)
    return Prediction(max(by_label, key=by_label.get), by_label)
