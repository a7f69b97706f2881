"""Rows, files and settings of tiny fine-tuning runs, and what they leave."""

import json
from pathlib import Path

import numpy as np

NOUNS = "kite lamp mill tree boat song".split()
TINY = """--num_train_epochs 2 --per_device_train_batch_size 8 --learning_rate 1e-2 --bf16 false --logging_steps 4
    --save_total_limit 0""".split()


def sentences(count, seed=0):
    """Returns sentences of which one word decides whether they are good or bad."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        nouns = " and the ".join(generator.choice(NOUNS, size=generator.integers(1, 5)))
        rows.append((f"the {nouns} {'shone' if index % 2 else 'broke'}", "good" if index % 2 else "bad"))
    return rows


def write_csv(path, rows, header=("text", "label")):
    path.write_text("\n".join(",".join(map(str, row)) for row in (header, *rows)) + "\n")
    return str(path)


def results_of(folder):
    return json.loads((folder / "all_results.json").read_text())


def rows_of(path):
    return [line.split("\t") for line in Path(path).read_text().splitlines()]
