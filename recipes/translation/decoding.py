"""Translates lines with a trained model."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.hardware import processor_has_bf16
from papers_to_gpt.engine.model_folder import TRANSLATOR, check_folder
from papers_to_gpt.engine.resumable_output import LineOutput, fingerprint_model, open_line_output
from papers_to_gpt.settings.decoding import ScoringSettings, SearchSettings, TranslationSettings
from seq2seq_scratch.alignments import Alignment, align, pharaoh
from seq2seq_scratch.data.text_lines import FilePlace, groups_of_lines, is_terminal, open_output
from seq2seq_scratch.translation import Hypothesis, load_translator, translate

# Lines that are read and translated at a time, so that memory does not grow with the file.
LINES_AT_A_TIME = 10_000

# Settings that do not change a translation. The model and the input are compared by their content.
NOT_OF_TRANSLATIONS = ("model_name_or_path", "revision", "trust_remote_code", "input_file", "output_file", "resume")


def run(settings: TranslationSettings) -> None:
    """Translates the input file, standard input, or lines typed at a prompt."""
    logging.getLogger("seq2seq_scratch").setLevel(logging.WARNING)
    model, *tokenizers = load_model(settings)
    n_best = {"num_return_sequences": settings.num_return_sequences}
    n_best["with_scores"] = settings.with_scores or settings.num_return_sequences > 1
    translate_lines = make_translator(settings, model, *tokenizers, **n_best)
    if settings.with_alignments:
        align(model, *tokenizers, ["."], ["."])  # a model without attention ends the run before it translates

    def answer(lines: list[str], first: int) -> None:
        translations = translate_lines(lines, first)
        if settings.with_alignments:
            texts = [best.text for best, *_ in translations]
            alignments = align(model, *tokenizers, lines, texts, max_source_length=settings.max_source_length)
            write_alignments(texts, alignments, output)
        else:
            write(translations, settings, output, first)

    if settings.input_file is None and is_terminal(sys.stdin):
        with open_output(settings.output_file) as stream:
            output = LineOutput(stream)
            for number, line in enumerate(prompt_lines()):
                answer([line], number)
                output.end_group(number + 1)
        return
    made_with = partial(describe_translation, settings, model, *tokenizers)
    files = settings.input_file, settings.output_file
    with open_line_output(*files, settings.resume, made_with, open_output) as output:
        translate_groups(settings.input_file, output, answer)


def translate_groups(
    input_file: str | None, output: LineOutput, answer: Callable[[list[str], int], Mapping[str, float] | None]
) -> None:
    """Reads the lines that an output still lacks and answers them, group by group.

    Args:
        input_file: the input; None for standard input.
        output: the output, whose `progress` says where to begin.
        answer: writes the answer to lines. It takes them and the number of lines before them, and may return what
            `LineOutput.end_group` calls totals.
    """
    if output.progress.is_finished:
        return
    place, first = FilePlace(**output.progress.place), output.progress.lines
    for lines in groups_of_lines(input_file, LINES_AT_A_TIME, place=place):
        totals = answer(lines, first)
        first += len(lines)
        output.end_group(first, vars(place), totals)


def describe_translation(
    settings: SearchSettings, model: PreTrainedModel, *tokenizers: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Returns what decides a translation besides the input, for `open_line_output`."""
    chosen = {name: value for name, value in asdict(settings).items() if name not in NOT_OF_TRANSLATIONS}
    chosen |= {"bf16": uses_bf16(settings), "lines_at_a_time": LINES_AT_A_TIME}
    return fingerprint_model(model, *tokenizers) | chosen


def uses_bf16(settings: SearchSettings) -> bool:
    return processor_has_bf16() if settings.bf16 is None else settings.bf16


def load_model(
    settings: SearchSettings | ScoringSettings,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Loads the model and its tokenizers of source and target, onto the GPU if there is one."""
    transformers_logging.disable_progress_bar()
    check_folder(settings.model_name_or_path, settings.trust_remote_code, (TRANSLATOR,))
    model, source_tokenizer, target_tokenizer = load_translator(
        settings.model_name_or_path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, source_tokenizer, target_tokenizer


def make_translator(
    settings: SearchSettings,
    model: PreTrainedModel,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    **n_best: Any,
) -> Callable[..., list[list[Hypothesis]]]:
    """Returns a function from sentences to hypotheses, best first.

    The function also takes the number of sentences of the input before these, 0 if left out. It passes keyword
    arguments on to `generate()`; they take precedence over the settings.

    Args:
        settings: the parameters of the search.
        model, source_tokenizer, target_tokenizer: see `load_model`.
        n_best: `num_return_sequences` and `with_scores` of `translate`.
    """
    bf16 = uses_bf16(settings)
    given = {name: getattr(settings, name) for name in ("num_beams", "length_penalty", "max_new_tokens")}
    if settings.do_sample:
        # Without limits of their own, the distribution is the model's; the library's default is the 50 best tokens.
        given |= {"num_beams": 1, "do_sample": True, "temperature": settings.temperature or 1.0}
        given |= {"top_k": settings.top_k or 0, "top_p": settings.top_p or 1.0}

    def translate_lines(lines: list[str], first: int = 0, **generate_arguments: Any) -> list[list[Hypothesis]]:
        if settings.seed is not None:
            # What is drawn for a group of lines does not depend on the groups before it, which a resumed command does
            # not draw again.
            seed = np.random.SeedSequence([settings.seed, first]).generate_state(1)[0] if first else settings.seed
            torch.manual_seed(int(seed))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            return translate(
                model,
                source_tokenizer,
                target_tokenizer,
                lines,
                max_source_length=settings.max_source_length,
                max_tokens_per_batch=settings.max_tokens_per_batch,
                **n_best,
                **{name: value for name, value in given.items() if value is not None} | generate_arguments,
            )

    return translate_lines


def write_alignments(texts: list[str], alignments: list[Alignment | None], output: LineOutput) -> None:
    """Writes a line of JSON for each translation: pairs of words and of tokens in Pharaoh format, and the weights."""
    for text, alignment in zip(texts, alignments, strict=True):
        written: dict[str, Any] = {"translation": text, "alignment": "", "token_alignment": ""}
        written |= {"source_tokens": [], "target_tokens": [], "weights": []}
        if alignment is not None:
            written["alignment"] = pharaoh(alignment.word_pairs())
            written["token_alignment"] = pharaoh(alignment.token_pairs())
            written |= {"source_tokens": alignment.source_tokens, "target_tokens": alignment.target_tokens}
            written["weights"] = [[round(weight, 4) for weight in row] for row in alignment.weights.tolist()]
        print(json.dumps(written, ensure_ascii=False), file=output)


def prompt_lines() -> Iterator[str]:
    """Yields the lines typed at a prompt, until the input ends."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def write(translations: list[list[Hypothesis]], settings: TranslationSettings, output: LineOutput, first: int) -> None:
    """Writes the best translation of each line, or n-best lists with their scores (log-probabilities).

    Lines are numbered from `first` in n-best lists.
    """
    for number, hypotheses in enumerate(translations, start=first):
        if settings.num_return_sequences == 1 and not settings.with_scores:
            print(hypotheses[0].text, file=output)
        else:
            for hypothesis in hypotheses:
                score = "" if hypothesis.score is None else f"{hypothesis.score:.4f}"
                print(number, score, hypothesis.text, sep="\t", file=output)
