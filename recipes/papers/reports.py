"""Writes what an experiment found: a report, its tables as CSV, its numbers as JSON, its charts as PNG and SVG."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from papers_to_gpt.engine.durable_files import write_durably
from papers_to_gpt.papers.experiment import Cell, Experiment, Finding, Table
from papers_to_gpt.papers.registry import PAPERS
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.plots.style import save_figure

REPORT_FILE, RESULTS_FILE, SUMMARY_FILE = "report.md", "results.json", "README.md"
VERSIONS_OF = ("torch", "transformers", "datasets", "tokenizers", "accelerate", "sacrebleu")


def format_table(table: Table) -> str:
    """Returns a table in Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns)]
    lines += [[_shown(cell, table.digits) for cell in row] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return ""
    return f"{cell:,.{digits}f}" if isinstance(cell, float) else str(cell).replace("|", "\\|")


def write_report(
    experiment: Experiment, finding: Finding, bench: Workbench, minutes: float, identity: dict[str, Any]
) -> None:
    """Writes the files of an experiment; `results.json`, which says that it has been measured, comes last."""
    folder = bench.folder
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "table.csv", finding.table.columns, finding.table.rows)
    for chart in finding.charts:
        _write_csv(folder / f"{chart.name}.csv", ("series", chart.x_label, chart.y_label, "low", "high"), chart.rows())
    names = [*(chart.name for chart in finding.charts), *finding.pictures]
    drawn = find_spec("matplotlib") is not None
    if drawn:
        _draw(finding, folder)
    elif names:
        print("No plots were drawn because matplotlib is not installed (pip install matplotlib).")
    text = _report(experiment, finding, bench, minutes, names if drawn else [])
    write_durably(folder / REPORT_FILE, text)
    results = {
        **identity,
        "item": experiment.item,
        "claim": experiment.claim,
        "criterion": experiment.criterion,
        "verdict": finding.verdict.word,
        "reason": finding.verdict.reason,
        "test": finding.verdict.test,
        "numbers": finding.verdict.numbers,
        "columns": list(finding.table.columns),
        "rows": [list(row) for row in finding.table.rows],
        "paper": None if finding.paper is None else {"columns": finding.paper.columns, "rows": finding.paper.rows},
        "minutes": round(minutes, 1),
        "versions": {name: version(name) for name in VERSIONS_OF},
        "runs": [bench.command(run) for run in bench.runs],
    }
    write_durably(folder / RESULTS_FILE, json.dumps(_strict(results), indent=2, ensure_ascii=False) + "\n")


def _strict(value: Any) -> Any:
    """Returns a value with text for numbers that are not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _report(
    experiment: Experiment, finding: Finding, bench: Workbench, minutes: float, pictures: Sequence[str]
) -> str:
    seeds, title = seeds_of(bench.runs), PAPERS.get(experiment.paper)
    parts = [
        f"# {experiment.name}: {experiment.item}",
        f"{title[0] if title else experiment.paper}.",
        f"**Claim:** {experiment.claim} {experiment.criterion}",
        f"**Verdict.** {finding.verdict.sentence} {finding.verdict.reason}",
        *([] if finding.verdict.test is None else [f"**Test.** {finding.verdict.test}"]),
        f"**Method.** {finding.method}",
        "## Measured here",
        format_table(finding.table),
    ]
    if finding.paper is not None:
        parts += ["## The paper", format_table(finding.paper)]
    parts += [f"![{name}]({name}.png)" for name in pictures]
    parts += finding.notes
    if any(series.low is not None for chart in finding.charts for series in chart.series):
        parts.append("Values are means over the seeds; error bars reach from the lowest seed to the highest.")
    if any(not math.isfinite(y) for chart in finding.charts for series in chart.series for y in series.y):
        parts.append("Values that are not finite, as the losses of runs that diverged, are not drawn.")
    words = [f"Scale `{bench.scale}`", *([f"seeds of the runs {', '.join(map(str, seeds))}"] if seeds else [])]
    parts.append(f"{', '.join(words)}, {minutes:.1f} minutes.")
    if bench.runs:
        commands = "\n".join(bench.command(run) for run in bench.runs)
        parts += ["## The runs", f"```bash\n{commands}\n```"]
    return "\n\n".join(parts) + "\n"


def seeds_of(runs: Sequence[Run]) -> list[int]:
    """Returns the seeds of runs. An experiment may use fewer than the user has named, or others."""
    given = [run.settings.get("seeds", run.settings.get("seed", [])) for run in runs]
    return sorted({seed for each in given for seed in (each if isinstance(each, list) else [each])})


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_durably(path, text.getvalue())


def _draw(finding: Finding, folder: Path) -> None:
    for chart in finding.charts:
        save_figure(chart.draw(), folder / chart.name)
    for name, draw in finding.pictures.items():
        save_figure(draw(), folder / name)


def read_measured(path: Path) -> dict[str, Any] | None:
    """Returns what `results.json` says of an experiment; None if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"verdict", "reason", "minutes"} <= found.keys() else None


def write_summary(output_dir: Path, experiments: Sequence[Experiment]) -> str:
    """Writes a table of all experiments that have a report, and returns it."""
    rows = []
    for each in experiments:
        path = output_dir / each.name / RESULTS_FILE
        found = read_measured(path)
        if found is not None:
            link = f"[{each.name}]({each.name}/{REPORT_FILE})"
            verdict = found["verdict"], found["reason"], found["minutes"]
            rows.append((link, f"{each.paper}, {each.item}", each.claim, *verdict, found.get("scale")))
        elif path.exists():
            print(f"{path} is damaged, so the summary does not have {each.name}. Run it again.")
    columns = ("experiment", "where", "claim", "verdict", "numbers", "minutes", "scale")
    table = format_table(Table(columns, rows, digits=1))
    write_durably(output_dir / SUMMARY_FILE, f"# The papers' claims, measured\n\n{table}\n")
    return table
