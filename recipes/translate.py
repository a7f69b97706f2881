"""Translates lines with a trained model: from a file or standard input to standard output, or at a prompt.

python recipes/translate.py --model_name_or_path runs/numbers_bahdanau < numbers.en > numbers.de
python recipes/translate.py --model_name_or_path runs/numbers_bahdanau --num_return_sequences 5 --num_beams 5
"""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

import torch
from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.arguments import parse_settings, read_settings, run_script
from papers_to_gpt.engine.hardware import processor_has_bf16
from papers_to_gpt.engine.model_folder import check_folder
from seq2seq_scratch.data.readers import open_output, read_lines
from seq2seq_scratch.translation import TOKENS_PER_BATCH, Hypothesis, load_translator, translate


@dataclass
class TranslationSettings:
    """Which model translates what, and how."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub id of a trained model."})
    revision: str | None = None
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    input_file: str | None = field(
        default=None, metadata={"help": "A sentence a line, UTF-8; default standard input."}
    )
    output_file: str | None = field(default=None, metadata={"help": "Default standard output."})
    num_beams: int | None = field(default=None, metadata={"help": "Default: what the model was saved with."})
    length_penalty: float | None = None
    num_return_sequences: int = field(
        default=1, metadata={"help": "Above 1, or with_scores: lines of sentence number, score and text, by tabs."}
    )
    with_scores: bool = False
    max_source_length: int = field(default=256, metadata={"help": "Tokens; longer sentences are cut, with a warning."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Default: the source's length plus 50."})
    max_tokens_per_batch: int = TOKENS_PER_BATCH
    bf16: bool | None = field(default=None, metadata={"help": "Left out: yes where the processor has it."})

    def __post_init__(self):
        if not self.model_name_or_path:
            raise ValueError("model_name_or_path is not set. Name the folder or Hub id of a trained model.")


def main() -> None:
    (settings,) = parse_settings(read_settings(), TranslationSettings, description=__doc__.splitlines()[0])
    logging.getLogger("seq2seq_scratch").setLevel(logging.WARNING)
    translate_lines = make_translator(settings)
    with open_output(settings.output_file) as output:
        if settings.input_file is None and sys.stdin.isatty():
            for line in prompt_lines():
                write([translate_lines([line])[0]], settings, output)
        else:
            write(translate_lines(read_lines(settings.input_file)), settings, output)


def make_translator(settings: TranslationSettings) -> Callable[..., list[list[Hypothesis]]]:
    """The loaded model as a function from sentences to hypotheses, best first.

    Further arguments of the function are `generate()`'s and go before the settings.
    """
    transformers_logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_folder(settings.model_name_or_path, settings.trust_remote_code)
    model, source_tokenizer, target_tokenizer = load_translator(
        settings.model_name_or_path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )
    model.to(device)
    bf16 = processor_has_bf16() if settings.bf16 is None else settings.bf16
    given = {name: getattr(settings, name) for name in ("num_beams", "length_penalty", "max_new_tokens")}

    def translate_lines(lines: list[str], **generate_arguments: Any) -> list[list[Hypothesis]]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return translate(
                model,
                source_tokenizer,
                target_tokenizer,
                lines,
                max_source_length=settings.max_source_length,
                max_tokens_per_batch=settings.max_tokens_per_batch,
                num_return_sequences=settings.num_return_sequences,
                with_scores=settings.with_scores or settings.num_return_sequences > 1,
                **{name: value for name, value in given.items() if value is not None} | generate_arguments,
            )

    return translate_lines


def prompt_lines() -> Iterator[str]:
    """Lines that a person types, until the input ends."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def write(translations: list[list[Hypothesis]], settings: TranslationSettings, output: TextIO) -> None:
    """One best translation a line, or numbered n-best lists with their scores (log-probabilities)."""
    for number, hypotheses in enumerate(translations):
        if settings.num_return_sequences == 1 and not settings.with_scores:
            print(hypotheses[0].text, file=output)
        else:
            for hypothesis in hypotheses:
                score = "" if hypothesis.score is None else f"{hypothesis.score:.4f}"
                print(number, score, hypothesis.text, sep="\t", file=output)
    output.flush()


if __name__ == "__main__":
    run_script(main)
