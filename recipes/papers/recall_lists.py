"""Sequences whose beginning is to be recalled: letters, and then digits that mean nothing, as many as a distance."""

import random
import statistics
from collections.abc import Sequence
from pathlib import Path

from papers_to_gpt.engine.durable_files import write_durably

DISTANCES = (8, 16, 32, 64, 128, 256, 512)
LETTERS_TO_RECALL = 4
LETTERS = "ABCDEFGH"


def write_recall(
    folder: Path, train_size: int = 8000, test_size_of_distance: int = 40, seed: int = 11
) -> dict[str, str]:
    """Writes letters to recall and digits after them, all distances equally often, and returns the data settings."""
    generator = random.Random(seed)
    sizes = {"train": train_size, "validation": 70, "test": test_size_of_distance * len(DISTANCES)}
    for split, size in sizes.items():
        path = folder / f"{split}.tsv"
        lines = ["source\ttarget"]
        for index in range(size):
            distance = DISTANCES[index * len(DISTANCES) // size] if split == "test" else generator.choice(DISTANCES)
            letters = " ".join(generator.choices(LETTERS, k=LETTERS_TO_RECALL))
            digits = " ".join(generator.choices("0123456789", k=distance))
            lines.append(f"{letters} {digits}\t{letters}")
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(path, "\n".join(lines) + "\n")
    columns = {"source_column": "source", "target_column": "target", "dataset_name": "none"}
    return columns | {f"{split}_file": str(folder / f"{split}.tsv") for split in sizes} | {"max_source_length": 1024}


def letters_of(path: str) -> list[str]:
    """Returns the letters to recall of each line of a file that `write_recall` has written."""
    return [line.split("\t")[1] for line in Path(path).read_text(encoding="utf-8").splitlines()[1:]]


def recalled(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Returns the percentage of letters that are right at their place, for each distance."""
    right = [
        sum(a == b for a, b in zip(hypothesis.split(), reference.split(), strict=False)) / LETTERS_TO_RECALL
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    size = len(right) // len(DISTANCES)
    return [100 * statistics.mean(right[index * size : (index + 1) * size]) for index in range(len(DISTANCES))]
