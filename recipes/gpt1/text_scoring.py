"""Scores the lines of a text with a trained GPT-1."""

import json
import math
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

import gpt1_scratch  # noqa: F401  registers the model
from gpt1_scratch.data.text_lines import FilePlace, groups_of_lines, open_output
from gpt1_scratch.pretraining.scoring import TextScore, score_texts
from papers_to_gpt.engine.model_folder import LANGUAGE_MODEL, check_folder, check_vocabulary
from papers_to_gpt.engine.quantization import check_quantization, quantize
from papers_to_gpt.engine.resumable_output import fingerprint_model, open_line_output
from papers_to_gpt.settings.text_scoring import TextScoringSettings
from papers_to_gpt.settings.wording import counted

# Lines that are read and scored at a time, so that memory does not grow with the file.
LINES_AT_A_TIME = 2000


def run(settings: TextScoringSettings) -> None:
    """Writes a line of JSON for each line of the input, and the scores of all lines together to standard error."""
    model, tokenizer = load_model(settings)
    options = {"stride": settings.stride, "max_tokens_per_batch": settings.max_tokens_per_batch}

    def made_with() -> dict[str, Any]:
        with_options = options | {"with_tokens": settings.with_tokens, "lines_at_a_time": LINES_AT_A_TIME}
        return fingerprint_model(model, tokenizer) | with_options

    files = settings.input_file, settings.output_file
    with open_line_output(*files, settings.resume, made_with, open_output) as output:
        totals = {"tokens": 0, "bytes": 0, "empty": 0, "log_probability": 0.0} | output.progress.totals
        lines, place = output.progress.lines, FilePlace(**output.progress.place)
        groups = groups_of_lines(settings.input_file, LINES_AT_A_TIME, place=place)
        for texts in () if output.progress.is_finished else groups:
            for score in score_texts(model, tokenizer, texts, **options):
                print(json.dumps(describe(lines, score, settings.with_tokens), ensure_ascii=False), file=output)
                lines += 1
                totals["tokens"] += len(score.tokens)
                totals["bytes"] += score.bytes
                totals["empty"] += not score.tokens
                totals["log_probability"] += score.log_probability
            output.end_group(lines, vars(place), totals)
    if lines or not output.progress.is_finished:  # a finished file without a record has no totals
        print_summary(lines, totals)


def print_summary(lines: int, totals: dict[str, float]) -> None:
    """Prints the scores of all lines together to standard error."""
    tokens, size, empty, total = (totals[name] for name in ("tokens", "bytes", "empty", "log_probability"))
    without = f" Without a score, as they have fewer than two tokens: {empty:,}." if empty else ""
    print(f"{counted(lines, 'line')}.{without}", file=sys.stderr)
    if tokens:
        bits = f"bits_per_byte {-total / math.log(2) / size:.4f}  " if size else ""
        print(
            f"log_probability {total:.4f}  tokens {tokens:,}  bytes {size:,}  "
            f"{bits}perplexity {math.exp(min(-total / tokens, 700)):.4f}",
            file=sys.stderr,
        )


def load_model(settings: TextScoringSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a language model and its tokenizer, onto the GPU if there is one."""
    transformers_logging.disable_progress_bar()
    name = settings.model_name_or_path
    check_quantization(settings.quantization, [name])
    check_folder(name, settings.trust_remote_code, (LANGUAGE_MODEL,))
    source = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    # In float32, like the evaluation during training.
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **source)
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    check_vocabulary(tokenizer, model.config.vocab_size, name)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    quantize(model, settings.quantization)
    return model, tokenizer


def describe(index: int, score: TextScore, with_tokens: bool) -> dict[str, Any]:
    """Returns what is written of a line. What a line without score does not have is None."""
    written: dict[str, Any] = {
        "index": index,
        "log_probability": round(score.log_probability, 5) if score.tokens else None,
        "tokens": len(score.tokens),
        "bytes": score.bytes,
        # Tokens may stand behind the first one, but no bytes: "…" is read as three full stops.
        "bits_per_byte": round(score.bits_per_byte, 5) if score.bytes else None,
        "perplexity": round(score.perplexity, 5) if score.tokens else None,
    }
    if with_tokens:
        rounded = (round(value, 5) for value in score.log_probabilities)
        written["token_scores"] = list(zip(score.tokens, rounded, strict=True))
    return written
