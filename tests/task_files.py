"""Writes rows of tasks to files of every kind."""

import csv
import json

from datasets import Dataset


def write(path, rows, header=("text", "label")):
    """Writes rows in the format of the file's extension."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".parquet":
        Dataset.from_dict({name: [row[place] for row in rows] for place, name in enumerate(header)}).to_parquet(path)
    elif path.suffix == ".tsv":
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in (header, *rows)), encoding="utf-8")
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    return str(path)
