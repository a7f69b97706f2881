"""Translates a sentence with the picture of its alignment, and compares the translations of several models."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sacrebleu.metrics import CHRF

from papers_to_gpt.demonstration.inputs import check_text
from papers_to_gpt.demonstration.loading import ModelStore
from papers_to_gpt.demonstration.problems import describe_problem
from papers_to_gpt.settings.decoding import TranslationSettings
from papers_to_gpt.translation.decoding import make_translator
from papers_to_gpt.visualization import figures
from papers_to_gpt.visualization.models import LoadedModel
from seq2seq_scratch.data.forced_scores import score_translations
from seq2seq_scratch.visible_text import has_visible_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTHING = "The model translates this sentence by nothing."


@dataclass(frozen=True)
class Translation:
    """A translation with what the page shows of it.

    Attributes:
        text: the translation.
        seconds: the time of the search, without that of loading the model and of drawing.
        figure: its alignment, or the probabilities of its tokens if the model has no attention; None if it is empty.
        note: why there is no alignment; an empty text if there is one.
    """

    text: str
    seconds: float
    figure: "Figure | None"
    note: str = ""


@dataclass(frozen=True)
class ComparedTranslation:
    """One model's translation in a comparison.

    Attributes:
        name: the model.
        text: its translation.
        seconds: the time of the search.
        log_probability: of the translation with its end token under the model, in nats; None if it is empty.
        tokens: number of tokens of the translation with its end token.
        chrf: chrF2 against a reference, from 0 to 100; None without one.
        problem: why the model has no translation; an empty text if it has one.
    """

    name: str
    text: str = ""
    seconds: float | None = None
    log_probability: float | None = None
    tokens: int | None = None
    chrf: float | None = None
    problem: str = ""


def translate(store: ModelStore, name: str, sentence: str, max_input_tokens: int) -> Translation:
    """Translates a sentence and draws its alignment (Bahdanau et al. 2014, figure 3).

    A model without attention has no alignment. The note says what it has in its place, and the picture shows the
    probability of each token.

    Raises:
        ValueError: if the sentence is empty or too long.
    """
    with store.borrow(name) as loaded:
        text, seconds = _translate(loaded, sentence, max_input_tokens)
        if not has_visible_text(text):
            return Translation(text, seconds, None, NOTHING)
        source = " ".join(sentence.split())
        try:
            return Translation(text, seconds, figures.alignment(loaded, source, text))
        except ValueError as error:
            drawn = figures.probabilities(loaded, source, text)
            return Translation(text, seconds, drawn["probabilities"], str(error))


def compare(
    store: ModelStore, names: Sequence[str], sentence: str, reference: str, max_input_tokens: int
) -> Iterator[ComparedTranslation]:
    """Yields the translation of each model, one after the other.

    A model that cannot translate the sentence, such as one that splits it into too many tokens or cannot be loaded,
    yields the problem, and the others their translations.

    Args:
        store: the models.
        names: the models to compare.
        sentence: the sentence.
        reference: a translation by a person, to score the models' against; may be empty.
        max_input_tokens: the largest number of tokens of the sentence, by each model's own tokenizer.

    Raises:
        ValueError: if no model is named, or the sentence is empty.
    """
    if not names:
        raise ValueError("No model is chosen. Choose at least one.")
    if not has_visible_text(sentence or ""):
        raise ValueError("The sentence is empty. Type at least a word.")
    source = " ".join(sentence.split())
    for name in names:
        try:
            row = _compared(store, name, source, reference, max_input_tokens)
        except Exception as error:
            row = ComparedTranslation(name, problem=describe_problem(error))
        yield row


def _compared(store: ModelStore, name: str, source: str, reference: str, max_input_tokens: int) -> ComparedTranslation:
    with store.borrow(name) as loaded:
        text, seconds = _translate(loaded, source, max_input_tokens)
        tokenizers = loaded.tokenizer, loaded.target_tokenizer
        (score,) = score_translations(loaded.model, *tokenizers, [source], [text])
    return ComparedTranslation(
        name,
        text,
        seconds,
        log_probability=None if score is None else sum(score.log_probabilities),
        tokens=None if score is None else len(score.tokens),
        chrf=CHRF().sentence_score(text, [reference]).score if has_visible_text(reference or "") else None,
        problem="" if score else NOTHING,
    )


def _translate(loaded: LoadedModel, sentence: str, max_input_tokens: int) -> tuple[str, float]:
    """Returns the translation as `translate.py` writes it, and the time of the search in seconds."""
    check_text(sentence, loaded.tokenizer, max_input_tokens)
    settings = TranslationSettings(model_name_or_path=[loaded.name])
    search = make_translator(settings, loaded.model, loaded.tokenizer, loaded.target_tokenizer)
    start = time.perf_counter()
    ((best, *_),) = search([" ".join(sentence.split())])
    return best.text, time.perf_counter() - start
