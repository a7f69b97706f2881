"""Which numbers of a finding's sentences its data do not have."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from papers_to_gpt.papers.experiment import Finding

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def said_but_not_kept(finding: Finding) -> list[str]:
    """Returns the numbers of the verdict's reason, and those with decimals of the notes, that are, rounded as they are
    there, neither among the verdict's numbers nor in a table or a chart, and so in no CSV or JSON file."""
    charts = [(chart.x_label, chart.y_label, chart.rows()) for chart in finding.charts]
    kept = [finding.verdict.numbers, finding.verdict.seeds, finding.method, charts]
    kept += [finding.table.columns, finding.table.rows]
    values = [value for value in _values(kept) if math.isfinite(value)]
    said = NUMBER.findall(finding.verdict.reason)
    said += [number for note in finding.notes for number in NUMBER.findall(note) if "." in number]
    missing = []
    for text in said:
        number = Decimal(text.rstrip(",").replace(",", ""))
        half = 0.5000001 * 10.0 ** number.as_tuple().exponent
        if not any(abs(abs(value) - float(number)) <= half for value in values):
            missing.append(text)
    return missing


def _values(kept: Any) -> Iterator[float]:
    """Yields all numbers in nested data, and in its texts."""
    if isinstance(kept, str):
        yield from (float(each.replace(",", "")) for each in NUMBER.findall(kept))
    elif isinstance(kept, Mapping):
        yield from itertools.chain.from_iterable(map(_values, (*kept, *kept.values())))
    elif isinstance(kept, list | tuple):
        yield from itertools.chain.from_iterable(map(_values, kept))
    elif kept is not None:
        yield float(kept)
