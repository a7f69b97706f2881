"""The files that the scripts write of a test set: hypotheses in lines, and scores as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seq2seq_scratch.data.metrics import SHOWN_SCORES


def write_hypotheses(output_dir: Path, stem: str, hypotheses: Sequence[str]) -> None:
    """Writes a hypothesis on each line of `STEM_hypotheses.txt`."""
    (output_dir / f"{stem}_hypotheses.txt").write_text("\n".join(hypotheses) + "\n", encoding="utf-8")


def write_scores(output_dir: Path, stem: str, scores: dict[str, Any]) -> str:
    """Writes the scores to `STEM_scores.json`, and returns those that are shown to the user."""
    (output_dir / f"{stem}_scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    return "  ".join(f"{key} {scores[key]:.2f}" for key in SHOWN_SCORES)
