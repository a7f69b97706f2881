"""Compares the translations of several systems by sacreBLEU's paired bootstrap."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from papers_to_gpt.settings.decoding import BOOTSTRAP_SAMPLES, ScoringSettings
from papers_to_gpt.settings.wording import counted
from papers_to_gpt.translation.scored_splits import load_test_sets, references_of
from seq2seq_scratch.data.metrics import TranslationMetric
from seq2seq_scratch.data.text_lines import open_output, read_lines

EXPLANATION = (
    "{samples} of {sentences}. After ± is half of the 95 % interval of a score; p is the "
    "probability that a difference from the first system is as large by chance."
)


def compare(settings: ScoringSettings) -> None:
    """Prints a table of the scores of each system with p-values, and writes them to output_file if it is set.

    Raises:
        ValueError: if a file is missing, empty or not UTF-8, a folder does not hold the translations, or the numbers
            of lines differ.
    """
    name, where, references = read_references(settings)
    files = {system: find_hypotheses(Path(system), name) for system in settings.compare}
    refuse_overwriting(settings, files.values())
    systems = {}
    for system, file in files.items():
        lines = read_lines(file)
        if len(lines) != len(references):
            raise ValueError(
                f"{file} has {counted(len(lines), 'line')}, and {where} {len(references):,}. Each line must translate "
                "the sentence of that line."
            )
        systems[system] = lines
    samples = settings.paired_bs_n or BOOTSTRAP_SAMPLES
    metric = TranslationMetric(settings.target_language, settings.bleu_tokenizer)
    compared = metric.paired_bootstrap(systems, references, samples)
    print(format_comparison(list(systems), compared))
    print(
        f"\n{EXPLANATION.format(samples=counted(samples, 'resample'), sentences=counted(len(references), 'sentence'))}"
    )
    for score, values in compared.items():
        print(f"{score}: {values['signature']}")
    if settings.output_file is not None:
        written = {"references": where, "sentences": len(references), "samples": samples, "scores": compared}
        with open_output(settings.output_file) as output:
            print(json.dumps(written, indent=2, ensure_ascii=False), file=output)


def refuse_overwriting(settings: ScoringSettings, files: Iterable[Path]) -> None:
    """Raises ValueError if output_file is one of the files that are read."""
    languages = (settings.source_language, settings.target_language, *settings.reference_columns)
    texts = (f"{file}.{language}" for file in settings.test_file for language in languages)
    read = map(os.path.realpath, (*files, *settings.reference_file, *settings.test_file, *texts))
    if settings.output_file is not None and os.path.realpath(settings.output_file) in read:
        raise ValueError(
            f"output_file is {settings.output_file}, which is read and would be overwritten. Name another file."
        )


def read_references(settings: ScoringSettings) -> tuple[str, str, Sequence[Any]]:
    """Returns the name of the test set, where its references are, and N references or N lists of them."""
    if settings.reference_file:
        streams = [read_lines(file) for file in settings.reference_file]
        for file, stream in zip(settings.reference_file, streams, strict=True):
            if len(stream) != len(streams[0]):
                raise ValueError(
                    f"reference_file: {settings.reference_file[0]} has {counted(len(streams[0]), 'line')}, and {file} "
                    f"{len(stream):,}. They must be references of the same sentences."
                )
        references = streams[0] if len(streams) == 1 else list(map(list, zip(*streams, strict=True)))
        return settings.split[0], " and ".join(settings.reference_file), references
    ((name, texts),) = load_test_sets(settings).items()
    return name, f"{name} of {settings.dataset_name or ', '.join(settings.test_file)}", references_of(texts)


def find_hypotheses(path: Path, name: str) -> Path:
    """Returns the file of the translations of a test set: the path itself, or that in the folder of a run.

    Raises:
        ValueError: if the folder holds no such file, or several.
    """
    if not path.is_dir():
        return path
    file = path / f"{name}_hypotheses.txt"  # of a training
    if file.is_file():
        return file
    found = sorted(path.glob(f"{name}_beam*_hypotheses.txt"))
    if len(found) == 1:
        return found[0]
    what = f"several: {', '.join(each.name for each in found)}" if found else "no such file"
    raise ValueError(
        f"{path} must hold translations of {name} as {file.name} or {name}_beam5_hypotheses.txt; it has {what}. Name "
        "the file."
    )


def format_comparison(systems: Sequence[str], compared: dict[str, dict[str, Any]]) -> str:
    """Returns a Markdown table with a row for each system and a column for each score (see `paired_bootstrap`)."""
    rows = [["system", *compared], ["---"] * (1 + len(compared))]
    for system in systems:
        row = [system]
        for values in compared.values():
            of_system = values["systems"][system]
            p_value = of_system["p_value"]
            after = "" if p_value is None else f", p {p_value:.4f}"
            row.append(f"{of_system['score']:.2f} ± {of_system['interval']:.2f}{after}")
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
