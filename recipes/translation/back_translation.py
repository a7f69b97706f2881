"""Pairs of sentences that people wrote and of translations that a model made.

Back-translation (Sennrich et al. 2016) has real targets, and sources that a reverse model has translated. Forward, the
sources are real and the targets translated: a model learns from its own translations (self-training), or from those of
a larger model (sequence-level distillation, Kim and Rush 2016).

Edunov et al. 2018 draw the sources from the model (`do_sample`), which gives more varied ones than a search. Caswell
et al. 2019 put a tag in front of them, so that the model that trains on the pairs can tell them from real sources.
"""

import itertools
import json
import logging
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow
from pyarrow import parquet

from papers_to_gpt.engine.resumable_output import open_line_output
from papers_to_gpt.settings.back_translation import BackTranslationSettings, pair_extension
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.wording import counted
from papers_to_gpt.translation.decoding import (
    describe_translation,
    load_model,
    make_translator,
    translate_groups,
    translate_sentences,
)
from seq2seq_scratch.data.text_lines import TABLE_EXTENSIONS, file_extension, open_output
from seq2seq_scratch.visible_text import has_visible_text

# Pairs of a row group of a parquet file.
ROWS_OF_A_GROUP = 10_000

# What ends a field or a line of a TSV file.
SEPARATORS_OF_TSV = re.compile(r"[\t\r\n]")


def run(settings: BackTranslationSettings) -> None:
    """Translates the sentences of a file and writes the pairs, without empty ones and copies.

    Raises:
        ValueError: if there is no such model, or the file cannot be read.
    """
    logging.getLogger("seq2seq_scratch").setLevel(logging.WARNING)
    sentences = sentences_of_pairs(settings)
    model, *tokenizers = load_model(settings)
    translate_lines = make_translator(settings, model, *tokenizers)
    extension = pair_extension(settings.output_file)
    totals = {"pairs": 0, "empty": 0, "copies": 0}

    def answer(lines: list[str], first: int) -> dict[str, int]:
        if first == 0 and extension == ".tsv":
            print(settings.source_language, settings.target_language, sep="\t", file=output)
        for sentence, (best, *_) in zip(lines, translate_lines(lines, first), strict=True):
            if not has_visible_text(sentence) or not has_visible_text(best.text):
                totals["empty"] += 1
            elif is_copy(best.text, sentence):
                totals["copies"] += 1
            else:
                totals["pairs"] += 1
                pair = (sentence, best.text) if settings.direction == "forward" else (best.text, sentence)
                print(pair_line(*pair, settings, extension), file=output)
        return totals

    made_with = partial(describe_translation, settings, model, *tokenizers)
    convert = partial(write_parquet, settings) if extension == ".parquet" else None
    files = settings.input_file, settings.output_file
    with open_line_output(*files, settings.resume, made_with, open_output, convert) as output:
        totals |= output.progress.totals
        if sentences is None:
            translate_groups(settings.input_file, output, answer)
        else:
            translate_sentences(sentences, output, answer)
    if not output.progress.lines:  # a finished file without a record
        return
    print(
        f"{counted(output.progress.lines, 'line')}: {counted(totals['pairs'], 'pair')}. "
        f"Left out: {totals['empty']:,} without text on one side, {totals['copies']:,} whose translation is a copy.",
        file=sys.stderr,
    )
    if not totals["pairs"]:
        print(f"No pair was made, so {settings.output_file} has nothing to train on.", file=sys.stderr)
        return
    languages = [f"--{side}_language {getattr(settings, f'{side}_language')}" for side in ("source", "target")]
    print(
        f"To train on them: {command('train_translation')} ... --train_file {settings.output_file} "
        f"{' '.join(languages)}",
        file=sys.stderr,
    )


def sentences_of_pairs(settings: BackTranslationSettings) -> Sequence[str] | None:
    """Returns the side of the pairs in the input file that is translated; None if the file has plain lines.

    Raises:
        ValueError: if the file cannot be read, or has no such side.
    """
    if file_extension(settings.input_file) not in TABLE_EXTENSIONS:
        return None
    # A second to import, which lines of text do not need.
    from datasets import disable_progress_bars

    from seq2seq_scratch.data.corpora import load_pairs

    disable_progress_bars()
    pairs = load_pairs("input_file", settings.input_file, settings.source_language, settings.target_language)
    return pairs["source" if settings.direction == "forward" else "target"]


def is_copy(source: str, target: str) -> bool:
    """Returns True if two texts differ in nothing but spaces and capitals, which a model may not have."""
    return source.casefold().split() == target.casefold().split()


def pair_line(source: str, target: str, settings: BackTranslationSettings, extension: str) -> str:
    """Returns a pair as a line of TSV, in which tabs and line breaks become spaces, or of JSON."""
    tagged = source if settings.tag is None else f"{settings.tag} {source}"
    if extension == ".tsv":
        return "\t".join(SEPARATORS_OF_TSV.sub(" ", side) for side in (tagged, target))
    sides = {settings.source_language: tagged, settings.target_language: target}
    return json.dumps({"translation": dict(sorted(sides.items()))}, ensure_ascii=False)


def write_parquet(settings: BackTranslationSettings, lines: Path, path: Path) -> None:
    """Turns lines of JSON into a parquet file with a column `translation`, a group of rows at a time."""
    languages = sorted((settings.source_language, settings.target_language))
    sides = pyarrow.struct([(language, pyarrow.string()) for language in languages])
    schema = pyarrow.schema([("translation", sides)])
    with open(lines, encoding="utf-8", newline="\n") as file, parquet.ParquetWriter(path, schema) as writer:
        while group := list(map(json.loads, itertools.islice(file, ROWS_OF_A_GROUP))):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
