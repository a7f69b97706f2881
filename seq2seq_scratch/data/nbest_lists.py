"""n-best lists of other systems, and the choice from them by two scores (Sutskever, Vinyals and Le 2014, section 3.2).

A list is a text file with a candidate on each line, in the form of Moses, which many systems write:

    0 ||| a man walks ||| -4.31
    0 ||| a man goes ||| LM0= -12.1 TM0= -3.4 ||| -4.52

The fields are the number of the source, counted from 0, the candidate, the system's features, which may be left out
and are not read, and the system's score. Further fields are not read. Or it has three columns between tabs, as the
lists of translate.py: the number of the source, the score and the candidate. The first line decides the form.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..visible_text import has_visible_text
from .text_lines import numbered_lines
from .wording import counted

SEPARATOR = "|||"
FORM = '"id ||| candidate ||| score" or "id ||| candidate ||| features ||| score"'
FORM_OF_TABLES = '"id", "score" and "candidate" with a tab between them'


@dataclass(frozen=True)
class Candidate:
    """One translation of a source.

    Attributes:
        source: the index of the source, counted from 0.
        text: one line, without outer or doubled spaces.
        score: the other system's score, higher for a better candidate.
    """

    source: int
    text: str
    score: float


def read_nbest_list(path: str | Path, sources: Sequence[str]) -> list[Candidate]:
    """Reads an n-best list of some sources. The candidates of a source may be on any lines.

    Args:
        path: the file, also compressed.
        sources: the N sources.

    Returns:
        The candidates in the order of the lines.

    Raises:
        ValueError: the file cannot be read, a line has another form, a number does not belong to the sources, a score
            is no finite number, or a source with text has no candidate. The message names the file and the line.
    """
    candidates = []
    form = FORM
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        if number == 1 and SEPARATOR not in line and "\t" in line:
            form = FORM_OF_TABLES
        fields = _fields(line, form)
        if fields is None:
            raise ValueError(f"{where}: the line is no candidate of an n-best list. Write it as {form}.")
        name, text, score = fields
        if form == FORM_OF_TABLES and name.isdigit() and not (text or score):
            continue  # translate.py writes a line for a source without text
        if not (name.isascii() and name.isdigit()):
            raise ValueError(f"{where}: the id is {name!r}; it must be the number of the source, counted from 0.")
        if len(name.lstrip("0")) > len(str(len(sources))) or int(name) >= len(sources):
            raise ValueError(
                f"{where}: the id is {name}, but the sources have the ids 0 to {len(sources) - 1}. "
                "Give the sources that the n-best list was made from."
            )
        candidates.append(Candidate(int(name), text, _read_score(score, where, form)))
    found = {candidate.source for candidate in candidates}
    missing = [index for index, source in enumerate(sources) if index not in found and has_visible_text(source)]
    if missing:
        others = f" and {counted(len(missing) - 1, 'other')}" if missing[1:] else ""
        raise ValueError(
            f"{path} has no candidate for source {missing[0]}{others} (counted from 0). Give the sources that the "
            "n-best list was made from, or add what is missing."
        )
    return candidates


def _fields(line: str, form: str) -> tuple[str, str, str] | None:
    """Returns the number of the source, the candidate and the score; None if the line has another form."""
    parts = line.split(SEPARATOR) if form == FORM else line.split("\t", 2)
    fields = [" ".join(part.split()) for part in parts]
    if len(fields) < 3:
        return None
    if form == FORM_OF_TABLES:
        name, score, text = fields
        return name, text, score
    return fields[0], fields[1], fields[2] if len(fields) == 3 else fields[3]


def _read_score(text: str, where: str, form: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"{where}: the score is {text!r}; it must be a finite number. A line is {form}.")
    return score


def choose_candidates(
    candidates: Sequence[Candidate], model_scores: Sequence[float | None], weight: float, source_count: int
) -> list[str]:
    """Chooses the candidate of each source with the highest weighted mean of two scores.

    The paper takes "an even average" of the log-probability and the system's score, which is a weight of 0.5. The mean
    is meaningful only if both scores are of a similar size, so the weight is best chosen on other data.

    Args:
        candidates: N candidates.
        model_scores: the log-probability of each, N; None for one without text, which is chosen only if no other is
            there, unless the weight is 0.
        weight: weight of the model's score, from 0, which leaves the order of the list, to 1, which takes the model's.
        source_count: number of sources.

    Returns:
        The text for each source; empty for a source without candidates. Of equal candidates the first is chosen.
    """
    best: dict[int, tuple[tuple[float, float], str]] = {}
    for candidate, model_score in zip(candidates, model_scores, strict=True):
        mean = candidate.score
        if weight > 0:
            mean = -math.inf if model_score is None else weight * model_score + (1 - weight) * candidate.score
        key = (mean, candidate.score)
        if candidate.source not in best or key > best[candidate.source][0]:
            best[candidate.source] = key, candidate.text
    return [best[index][1] if index in best else "" for index in range(source_count)]
