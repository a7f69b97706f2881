"""The table of a comparison, in HTML."""

import html
from collections.abc import Mapping, Sequence

from papers_to_gpt.demonstration.translating import ComparedTranslation

EXPLANATION = (
    "The time is that of the search alone. The log-probability is the model's own, of its translation with the end "
    "token, and its mean over the tokens. Those of two models compare only if they have one vocabulary."
)


def comparison_table(rows: Sequence[ComparedTranslation], languages: Mapping[str, str]) -> str:
    """Returns a table with a row for each model. What a row lacks stays empty.

    Args:
        rows: the translations.
        languages: the languages of each model, such as "en to de", by its name.
    """
    with_reference = any(row.chrf is not None for row in rows)
    header = _cells(["model", "languages", "translation"], "th")
    header += _cells(
        ["seconds", "log-probability", "per token", *(["chrF"] if with_reference else [])], "th", "number"
    )
    lines = []
    for row in rows:
        has_score = row.log_probability is not None
        numbers = [
            "" if row.seconds is None else f"{row.seconds:.3f}",
            f"{row.log_probability:.2f}" if has_score else "",
            f"{row.log_probability / row.tokens:.3f}" if has_score else "",
            *([] if not with_reference else ["" if row.chrf is None else f"{row.chrf:.1f}"]),
        ]
        words = [row.name, languages.get(row.name, ""), row.problem or row.text]
        lines.append(f"<tr>{_cells(words, 'td')}{_cells(numbers, 'td', 'number')}</tr>")
    return (
        f'<div class="comparison"><table><thead><tr>{header}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        f'<p class="note">{EXPLANATION}</p></div>'
    )


def _cells(texts: Sequence[str], tag: str, kind: str = "") -> str:
    opening = f'<{tag} class="{kind}">' if kind else f"<{tag}>"
    return "".join(f"{opening}{html.escape(text)}</{tag}>" for text in texts)
