"""Translates a test set with a trained model, scores it, and writes hypotheses and scores beside each other.

    python recipes/score_translation.py --model_name_or_path runs/multi30k_bahdanau --num_beams 1 5 \\
        --test_file test.parquet --source_language de --target_language en
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from papers_to_gpt.engine.arguments import parse_settings, read_settings, run_script
from papers_to_gpt.translate import TranslationSettings, make_translator
from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.data.metrics import SHOWN_SCORES, TranslationMetric
from seq2seq_scratch.translation import TOKENS_PER_BATCH


@dataclass
class ScoringSettings:
    """Which model, on which test set, and how."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub id of a trained model."})
    revision: str | None = None
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    output_dir: str | None = field(default=None, metadata={"help": "Default: the model's folder."})
    dataset_name: str | None = field(default=None, metadata={"help": "`numbers`, a Hub id or a local folder."})
    dataset_config_name: str | None = None
    dataset_revision: str | None = None
    test_file: str | None = field(default=None, metadata={"help": "As in train_translation.py."})
    split: list[str] = field(default_factory=lambda: ["test"])
    source_language: str = "en"
    target_language: str = "de"
    source_column: str | None = None
    target_column: str | None = None
    num_beams: list[int] = field(default_factory=lambda: [5], metadata={"help": "One score for each width."})
    length_penalty: float | None = field(default=None, metadata={"help": "Default: what the model was saved with."})
    max_source_length: int = 256
    max_new_tokens: int | None = field(default=None, metadata={"help": "Default: the source's length plus 50."})
    max_tokens_per_batch: int = TOKENS_PER_BATCH
    bf16: bool | None = None


def main() -> None:
    (settings,) = parse_settings(read_settings(), ScoringSettings, description=__doc__.splitlines()[0])
    output_dir = Path(settings.output_dir or settings.model_name_or_path or "")
    if not settings.output_dir and not output_dir.is_dir():
        raise ValueError(
            "output_dir is not set, and the model is not in a local folder. Name a folder for the scores."
        )
    splits = load_parallel_data(**{name: getattr(settings, name) for name in LOADING_SETTINGS})
    missing = [name for name in settings.split if name not in splits]
    if missing:
        raise ValueError(f"split names {', '.join(missing)}; the data has {', '.join(splits)}.")
    output_dir.mkdir(parents=True, exist_ok=True)
    metric = TranslationMetric(target_language=settings.target_language)
    translate_lines = make_translator(
        TranslationSettings(**{name: getattr(settings, name) for name in DECODING_SETTINGS})
    )
    for num_beams in settings.num_beams:
        search = {"num_beams": num_beams}
        if num_beams > 1 and settings.length_penalty is not None:
            search["length_penalty"] = settings.length_penalty
        for name in settings.split:
            texts = splits[name]
            started = time.perf_counter()
            hypotheses = [best.text for best, *_ in translate_lines(texts["source"], **search)]
            seconds = time.perf_counter() - started
            scores = metric.compute(predictions=hypotheses, references=texts["target"], sources=texts["source"])
            scores |= {"num_beams": num_beams, "decoding_seconds": round(seconds, 2)}
            stem = f"{name}_beam{num_beams}"
            (output_dir / f"{stem}_hypotheses.txt").write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
            (output_dir / f"{stem}_scores.json").write_text(json.dumps(scores, indent=2) + "\n")
            shown = "  ".join(f"{key} {scores[key]:.2f}" for key in SHOWN_SCORES)
            print(f"{name}, beam {num_beams}: {shown}  {seconds:.1f} s")
    print(f"{scores['sacrebleu_signature']}\nHypotheses and scores are in {output_dir}.")


LOADING_SETTINGS = (
    "dataset_name dataset_config_name dataset_revision test_file "
    "source_language target_language source_column target_column"
).split()

DECODING_SETTINGS = (
    "model_name_or_path revision trust_remote_code max_source_length max_new_tokens max_tokens_per_batch bf16"
).split()

if __name__ == "__main__":
    run_script(main)
