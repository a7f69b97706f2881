"""Translates lines with a trained model or an ensemble of several."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.compiling import compile_forward
from papers_to_gpt.engine.data_fingerprint import fingerprint_files
from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_TOKENS, keep_compiled_code, processor_has_bf16
from papers_to_gpt.engine.model_folder import TRANSLATOR, check_folder, is_export
from papers_to_gpt.engine.quantization import check_quantization, quantize
from papers_to_gpt.engine.resumable_output import LineOutput, fingerprint_model, open_line_output
from papers_to_gpt.exporting.ctranslate2_translator import ExportedTranslator
from papers_to_gpt.exporting.exported_folder import fingerprint_export
from papers_to_gpt.exporting.loading import load_exported_translator
from papers_to_gpt.exporting.onnx_models import OnnxTranslator
from papers_to_gpt.settings.decoding import ModelsSettings, SearchSettings, TranslationSettings
from papers_to_gpt.settings.starting import recorded_settings
from papers_to_gpt.translation.constraints import PrefixReader, TermReport, open_report, read_constraints
from seq2seq_scratch.alignments import Alignment, align, pharaoh
from seq2seq_scratch.data.text_lines import FilePlace, groups_of_lines, is_terminal, open_output
from seq2seq_scratch.ensemble import load_ensemble
from seq2seq_scratch.modeling_transformer import TransformerDecoder
from seq2seq_scratch.translation import Hypothesis, load_translator, translate

# Lines that are read and translated at a time, so that memory does not grow with the file.
LINES_AT_A_TIME = 10_000

# Settings that do not change a translation. The model and the input are compared by their content.
NOT_OF_TRANSLATIONS = ("model_name_or_path", "revision", "trust_remote_code", "input_file", "output_file", "resume")

# Settings that name files, of which the content decides.
FILES_OF_CONSTRAINTS = ("forbidden_words", "terminology")


def run(settings: TranslationSettings) -> None:
    """Translates the input file, standard input, or lines typed at a prompt."""
    logging.getLogger("seq2seq_scratch").setLevel(logging.WARNING)
    model, *tokenizers = load_model(settings)
    n_best = {"num_return_sequences": settings.num_return_sequences}
    n_best["with_scores"] = settings.with_scores or settings.num_return_sequences > 1
    translate_lines = make_translator(settings, model, *tokenizers, **n_best)
    if settings.with_alignments:
        align(model, *tokenizers, ["."], ["."])  # a model without attention ends the run before it translates
    constraints = read_constraints(settings, model, tokenizers[1])
    prefix_reader = None
    if settings.with_prefixes and constraints:
        prefix_reader = PrefixReader(settings, model, tokenizers[0], constraints)
        prefix_reader.check_file(settings.input_file, LINES_AT_A_TIME)

    def answer(lines: list[str], first: int) -> None:
        prefixes = None
        if prefix_reader:
            lines, prefixes = prefix_reader.read(lines, first)
        translations = translate_lines(lines, first, constraints=constraints, prefixes=prefixes)
        texts = [best.text for best, *_ in translations]
        if settings.with_alignments:
            alignments = align(model, *tokenizers, lines, texts, max_source_length=settings.max_source_length)
            write_alignments(texts, alignments, output)
        else:
            write(translations, settings, output, first)
        if report:
            report.add(lines, texts)

    with open_report(settings.terminology_report) as report_file:
        report = TermReport(constraints, report_file) if settings.terminology and constraints else None
        if settings.input_file is None and is_terminal(sys.stdin):
            with open_output(settings.output_file) as stream:
                output = LineOutput(stream)
                for number, line in enumerate(prompt_lines()):
                    answer([line], number)
                    output.end_group(number + 1)
        else:
            made_with = partial(describe_translation, settings, model, *tokenizers)
            files = settings.input_file, settings.output_file
            with open_line_output(*files, settings.resume, made_with, open_output) as output:
                translate_groups(settings.input_file, output, answer)
    if report:
        report.print_counts()


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


def translate_sentences(
    sentences: Sequence[str], output: LineOutput, answer: Callable[[list[str], int], Mapping[str, float] | None]
) -> None:
    """Does the same as `translate_groups` for sentences that are in memory or in a column of a data set."""
    if output.progress.is_finished:
        return
    for first in range(output.progress.lines, len(sentences), LINES_AT_A_TIME):
        lines = list(sentences[first : first + LINES_AT_A_TIME])
        output.end_group(first + len(lines), totals=answer(lines, first))


def describe_translation(
    settings: SearchSettings, model: PreTrainedModel | ExportedTranslator, *tokenizers: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Returns what decides a translation besides the input, for `open_line_output`."""
    chosen = {name: value for name, value in asdict(settings).items() if name not in NOT_OF_TRANSLATIONS}
    for name in FILES_OF_CONSTRAINTS:
        if chosen.get(name) is not None:
            chosen[name] = fingerprint_files(chosen[name])
    chosen |= {"bf16": uses_bf16(settings), "lines_at_a_time": LINES_AT_A_TIME}
    chosen["torch_compile"] = settings.torch_compile or None  # not in the records of earlier versions
    is_exported = isinstance(model, ExportedTranslator | OnnxTranslator)
    return (fingerprint_export(model.folder) if is_exported else fingerprint_model(model, *tokenizers)) | chosen


def uses_bf16(settings: SearchSettings) -> bool:
    if settings.quantization:
        return False
    return processor_has_bf16() if settings.bf16 is None else settings.bf16


def load_model(
    settings: ModelsSettings,
) -> tuple[PreTrainedModel | ExportedTranslator, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Loads the model, ensemble or export, and its tokenizers of source and target, onto the GPU if there is one.

    Raises:
        ValueError: a folder holds no translator, or the models do not belong together.
    """
    transformers_logging.disable_progress_bar()
    keep_compiled_code(FOR_BATCHES_OF_TOKENS)
    names = settings.model_name_or_path
    check_quantization(settings.quantization, names)
    if any(map(is_export, names)):
        return load_exported_translator(settings)
    for name in names:
        check_folder(name, settings.trust_remote_code, (TRANSLATOR,))
    if len(names) == 1:
        loaded = load_translator(names[0], settings.revision, settings.trust_remote_code)
    else:
        check_languages(names)
        loaded = load_ensemble(names, settings.revision, settings.trust_remote_code)
    model, source_tokenizer, target_tokenizer = loaded
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    quantize(model, settings.quantization)
    if settings.torch_compile:
        compile_decoder(model)
    return model, source_tokenizer, target_tokenizer


def compile_decoder(model: PreTrainedModel) -> None:
    """Compiles the decoder of a Transformer in place.

    Raises:
        ValueError: the model is no Transformer of this project, or the machine has no compiler.
    """
    decoder = next((module for module in model.modules() if isinstance(module, TransformerDecoder)), None)
    if decoder is None:
        raise ValueError(
            "torch_compile is true, but only the decoder of a Transformer can be compiled. Leave the setting out."
        )
    compile_forward(decoder, model.device.type)


def check_languages(names: list[str]) -> None:
    """Raises ValueError if the runs of two models translated between other languages, as far as they are recorded."""
    first, pair = None, None
    for name in names:
        found = recorded_languages(Path(name))
        if found is None:
            continue
        if pair is None:
            first, pair = name, found
        if found != pair:
            raise ValueError(
                f"{first} translates from {pair[0]} to {pair[1]}, and {name} from {found[0]} to {found[1]}. The "
                "models of an ensemble must translate between the same languages."
            )


def recorded_languages(folder: Path) -> tuple[str, str] | None:
    """Returns the languages of source and target that a run recorded beside its model; None if they are not known."""
    settings = recorded_settings(folder) or recorded_settings(folder.parent)  # a checkpoint is in its run's folder
    if settings.get("source_column") or settings.get("target_column"):  # the languages may be defaults
        return None
    pair = settings.get("source_language"), settings.get("target_language")
    return pair if all(pair) else None


def make_translator(
    settings: SearchSettings,
    model: PreTrainedModel | ExportedTranslator,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    **n_best: Any,
) -> Callable[..., list[list[Hypothesis]]]:
    """Returns a function from sentences to hypotheses, best first.

    The function also takes the number of sentences of the input before these, 0 if left out. It passes keyword
    arguments on to `translate()`; they take precedence over the settings.

    Args:
        settings: the parameters of the search.
        model, source_tokenizer, target_tokenizer: see `load_model`.
        n_best: `num_return_sequences` and `with_scores` of `translate`.
    """
    if isinstance(model, ExportedTranslator):
        return model.make_translator(settings, **n_best)
    bf16 = uses_bf16(settings)
    given = {name: getattr(settings, name) for name in ("num_beams", "length_penalty", "max_new_tokens")}
    if settings.do_sample:
        # Without limits of their own, the distribution is the model's; the library's default is the 50 best tokens.
        given |= {"num_beams": 1, "do_sample": True, "temperature": settings.temperature or 1.0}
        given |= {"top_k": settings.top_k or 0, "top_p": settings.top_p or 1.0}

    def translate_lines(lines: list[str], first: int = 0, **arguments: Any) -> list[list[Hypothesis]]:
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
                **{name: value for name, value in given.items() if value is not None} | arguments,
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
