"""Scores the lines of a text with a trained GPT-1."""

import json
import math
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

import gpt1_scratch  # noqa: F401  registers the model
from gpt1_scratch.data.text_lines import groups_of_lines, open_output
from gpt1_scratch.pretraining.scoring import TextScore, score_texts
from papers_to_gpt.engine.model_folder import LANGUAGE_MODEL, check_folder, check_vocabulary
from papers_to_gpt.settings.text_scoring import TextScoringSettings

# Lines that are read and scored at a time, so that memory does not grow with the file.
LINES_AT_A_TIME = 2000


def run(settings: TextScoringSettings) -> None:
    """Writes a line of JSON for each line of the input, and the scores of all lines together to standard error."""
    model, tokenizer = load_model(settings)
    options = {"stride": settings.stride, "max_tokens_per_batch": settings.max_tokens_per_batch}
    lines = tokens = size = empty = 0
    total = 0.0
    with open_output(settings.output_file) as output:
        for texts in groups_of_lines(settings.input_file, LINES_AT_A_TIME):
            for score in score_texts(model, tokenizer, texts, **options):
                print(json.dumps(describe(lines, score, settings.with_tokens), ensure_ascii=False), file=output)
                lines, tokens, size = lines + 1, tokens + len(score.tokens), size + score.bytes
                empty, total = empty + (not score.tokens), total + score.log_probability
            output.flush()
    without = f" {empty:,} of them have less than two tokens and no score." if empty else ""
    print(f"{lines:,} lines.{without}", file=sys.stderr)
    if tokens:
        print(
            f"log_probability {total:.4f}  tokens {tokens:,}  bytes {size:,}  "
            f"bits_per_byte {-total / math.log(2) / size:.4f}  perplexity {math.exp(min(-total / tokens, 700)):.4f}",
            file=sys.stderr,
        )


def load_model(settings: TextScoringSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a language model and its tokenizer, onto the GPU if there is one."""
    transformers_logging.disable_progress_bar()
    name = settings.model_name_or_path
    check_folder(name, settings.trust_remote_code, (LANGUAGE_MODEL,))
    source = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    # In float32, like the evaluation during training.
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **source)
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    check_vocabulary(tokenizer, model.config.vocab_size, name)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def describe(index: int, score: TextScore, with_tokens: bool) -> dict[str, Any]:
    """Returns what is written of a line. What a line without score does not have is None."""
    written: dict[str, Any] = {
        "index": index,
        "log_probability": round(score.log_probability, 5) if score.tokens else None,
        "tokens": len(score.tokens),
        "bytes": score.bytes,
        "bits_per_byte": round(score.bits_per_byte, 5) if score.tokens else None,
        "perplexity": round(score.perplexity, 5) if score.tokens else None,
    }
    if with_tokens:
        rounded = (round(value, 5) for value in score.log_probabilities)
        written["token_scores"] = list(zip(score.tokens, rounded, strict=True))
    return written
