"""Five sentence pairs, and files of every kind that hold them."""

import csv
import json
from pathlib import Path

import datasets
import pyarrow
from pyarrow import parquet

ENGLISH = ["A man's hat.", '"Yes", he said, twice', "Two\u2028dogs", "", "snow; grass"]
GERMAN = ["Ein Hut.", 'Er sagte "ja", zweimal', "Zwei\x85Hunde", "leer", "Schnee; Gras"]
LANGUAGES = {"source_language": "de", "target_language": "en"}


def write_file(path, kind, named=("de", "en")):
    """Writes the five pairs as a file of a kind."""
    pairs = [{"de": german, "en": english} for german, english in zip(GERMAN, ENGLISH, strict=True)]
    columns = [dict(zip(named, (pair["de"], pair["en"]), strict=True)) for pair in pairs]
    if kind == "parquet, translation":
        path = path.with_suffix(".parquet")
        datasets.Dataset.from_dict({"id": range(5), "translation": pairs}).to_parquet(path)
    elif kind == "parquet, Translation feature":
        path = path.with_suffix(".parquet")
        features = datasets.Features({"translation": datasets.Translation(["de", "en"])})
        datasets.Dataset.from_dict({"translation": pairs}, features=features).to_parquet(path)
    elif kind in ("parquet, JSON objects", "parquet, maps"):
        path = path.with_suffix(".parquet")
        maps = pyarrow.array([list(pair.items()) for pair in pairs], pyarrow.map_(pyarrow.string(), pyarrow.string()))
        column = maps if kind == "parquet, maps" else list(map(json.dumps, pairs))
        parquet.write_table(pyarrow.table({"translation": column}), path)
    elif kind == "parquet":
        path = path.with_suffix(".parquet")
        datasets.Dataset.from_list(columns).to_parquet(path)
    elif kind == "parquet, large strings":
        path = path.with_suffix(".parquet")
        features = datasets.Features({name: datasets.Value("large_string") for name in named})
        datasets.Dataset.from_list(columns, features=features).to_parquet(path)
    elif kind == "JSON lines, translation":
        path = path.with_suffix(".jsonl")
        path.write_text("\n".join(json.dumps({"id": 1, "translation": pair}) for pair in pairs) + "\n\n")
    elif kind == "JSON lines":
        path = path.with_suffix(".json")
        path.write_text("\n".join(json.dumps(pair, ensure_ascii=False) for pair in columns), encoding="utf-8")
    elif kind in ("CSV", "CSV, translation"):
        path = path.with_suffix(".csv")
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            if kind == "CSV":
                writer.writerows([named, *(pair.values() for pair in columns)])
            else:
                writer.writerows([["translation"], *([json.dumps(pair)] for pair in pairs)])
    elif kind == "TSV":
        path = path.with_suffix(".tsv")
        lines = ["\t".join(named), *("\t".join(pair.values()) for pair in columns)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    elif kind == "text":
        for language, lines in (("de", GERMAN), ("en", ENGLISH)):
            Path(f"{path}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return str(path)
