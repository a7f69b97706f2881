"""The constraints of `translate.py`: the files that state them, the column of prefixes, and the report on terms."""

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papers_to_gpt.settings.decoding import TranslationSettings
from papers_to_gpt.settings.wording import counted
from seq2seq_scratch.constraints import Constraints
from seq2seq_scratch.data.text_lines import groups_of_lines, numbered_lines, open_output, without_line_end
from seq2seq_scratch.translation import check_prefixes, make_constraints
from seq2seq_scratch.visible_text import has_visible_text


def read_entries(file: str | None, setting: str, columns: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Reads the tab-separated columns of a file, without outer spaces. Empty lines are passed over.

    Args:
        file: None for no entries.
        setting: the setting that names the file, for messages.
        columns: number of columns of each line.

    Returns:
        The columns of each entry, and its file and line.

    Raises:
        ValueError: if the file is missing or holds nothing, or a line has another number of columns.
    """
    entries: list[tuple[str, ...]] = []
    places: list[str] = []
    for number, line in [] if file is None else numbered_lines(file):
        if not has_visible_text(line):
            continue
        entry = tuple(column.strip() for column in without_line_end(line).split("\t"))
        if len(entry) != columns:
            wanted = "a word or phrase without tabs" if columns == 1 else "a source term, a tab and a target term"
            raise ValueError(
                f"{file}, line {number}: {counted(len(entry), 'tab-separated field')}, {line.strip()[:60]!r}. "
                f"Write {wanted}."
            )
        entries.append(entry)
        places.append(f"{file}, line {number}")
    if file is not None and not entries:
        raise ValueError(f"{setting} is {file}, which holds no entry. Write one a line, or leave {setting} out.")
    return entries, places


def read_constraints(
    settings: TranslationSettings, model: PreTrainedModel, target_tokenizer: PreTrainedTokenizerBase
) -> Constraints | None:
    """Returns the constraints that the files of the settings state; None if there are none.

    Raises:
        ValueError: if a file cannot be read, or an entry cannot be met; the message has the file and line.
    """
    if settings.forbidden_words is None and settings.terminology is None and not settings.with_prefixes:
        return None
    words, word_places = read_entries(settings.forbidden_words, "forbidden_words", 1)
    pairs, term_places = read_entries(settings.terminology, "terminology", 2)
    constraints = make_constraints(
        model,
        target_tokenizer,
        forbidden_words=[word for (word,) in words],
        terminology=[(source, target) for source, target in pairs],
        places={"forbidden_words": word_places, "terminology": term_places},
        **({} if settings.term_bias is None else {"term_bias": settings.term_bias}),
    )
    unwritable = [term for term in constraints.terms if not term.variants]
    if unwritable:
        print(
            f"{settings.terminology}: the model's vocabulary lacks a word of "
            f"{counted(len(unwritable), 'target term')}, such as {unwritable[0].target!r}; they cannot be met.",
            file=sys.stderr,
        )
    return constraints


def split_prefixes(lines: Sequence[str], first: int, name: str) -> tuple[list[str], list[str], list[str]]:
    """Splits lines into sentences and the beginnings of their translations.

    Args:
        lines: a sentence, and after a tab the beginning; a line without a tab has none.
        first: index of the first line in its file.
        name: that of the file.

    Returns:
        The sentences, the beginnings, and the file and line of each.

    Raises:
        ValueError: if a line has more than one tab.
    """
    places = [f"{name}, line {number}" for number in range(first + 1, first + len(lines) + 1)]
    sentences, prefixes = [], []
    for line, place in zip(lines, places, strict=True):
        sentence, _, prefix = line.partition("\t")
        if "\t" in prefix:
            raise ValueError(
                f"{place}: {counted(line.count(chr(9)) + 1, 'tab-separated field')}. With with_prefixes, a line is a "
                "sentence, a tab and the beginning of its translation."
            )
        sentences.append(sentence)
        prefixes.append(prefix)
    return sentences, prefixes, places


class PrefixReader:
    """Splits the lines of the input, and checks the beginnings of translations before any of them is translated.

    Args:
        settings, model, source_tokenizer, constraints: those of the run.
    """

    def __init__(
        self,
        settings: TranslationSettings,
        model: PreTrainedModel,
        source_tokenizer: PreTrainedTokenizerBase,
        constraints: Constraints,
    ):
        self.name = settings.input_file or "standard input"
        self._arguments = (model, source_tokenizer, constraints)
        self._limits = {
            "max_source_length": settings.max_source_length,
            "max_new_tokens": settings.max_new_tokens,
        }

    def read(self, lines: Sequence[str], first: int) -> tuple[list[str], list[str]]:
        """Returns the sentences of lines, and the beginnings of their translations; `first` is the first's index.

        Raises:
            ValueError: if a beginning cannot be met; the message has the file and line.
        """
        sentences, prefixes, places = split_prefixes(lines, first, self.name)
        check_prefixes(*self._arguments, sentences, prefixes, places=places, **self._limits)
        return sentences, prefixes

    def check_file(self, input_file: str | None, lines_at_a_time: int) -> None:
        """Checks the whole input if it is a file, which can be read twice."""
        first = 0
        if input_file is not None and Path(input_file).is_file():
            for lines in groups_of_lines(input_file, lines_at_a_time):
                self.read(lines, first)
                first += len(lines)


class TermReport:
    """Counts the terms that translations have and lack, and writes them on request.

    Args:
        constraints: those of the run.
        output: for a line of JSON for each translation; None for none.
    """

    def __init__(self, constraints: Constraints, output: TextIO | None):
        self.constraints, self.output = constraints, output
        self.met = self.terms = self.lines_met = self.lines = self._index = 0

    def add(self, sentences: Sequence[str], translations: Sequence[str]) -> None:
        """Judges the translations of some sentences."""
        for sentence, translation in zip(sentences, translations, strict=True):
            found: dict[str, list[list[str]]] = {"met": [], "not_met": []}
            for term in self.constraints.terms_in(sentence):
                found["met" if term.is_met(translation) else "not_met"].append([term.source, term.target])
            self.met += len(found["met"])
            self.terms += len(found["met"]) + len(found["not_met"])
            self.lines += any(found.values())
            self.lines_met += bool(found["met"]) and not found["not_met"]
            if self.output is not None:
                print(json.dumps({"index": self._index, **found}, ensure_ascii=False), file=self.output)
            self._index += 1
        if self.output is not None:
            self.output.flush()

    def print_counts(self) -> None:
        """Prints the counts to standard error, because translations may go to standard output."""
        print(
            f"Terminology: {self.met:,} of {counted(self.terms, 'term')} met; all terms met in {self.lines_met:,} of "
            f"{counted(self.lines, 'line')} with terms.",
            file=sys.stderr,
        )


def open_report(file: str | None) -> AbstractContextManager[TextIO | None]:
    """Opens the file of the report, if there is one."""
    return nullcontext() if file is None else open_output(file)
