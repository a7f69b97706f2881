"""Exports a model to a folder for another engine, and compares the two before the folder gets its name."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import logging as transformers_logging

import gpt1_scratch  # noqa: F401  registers GPT-1
from papers_to_gpt.engine.durable_files import durable_folder
from papers_to_gpt.engine.model_folder import (
    CLASSIFIER,
    ENGINES,
    EXPORT_FILE,
    LANGUAGE_MODEL,
    MASKED_MODEL,
    TRANSLATOR,
    check_folder,
    check_vocabulary,
)
from papers_to_gpt.engine.reporting import CARD_FILE
from papers_to_gpt.exporting import ctranslate2_specs
from papers_to_gpt.exporting.cards import export_card, library_card, openai_gpt_card
from papers_to_gpt.exporting.ctranslate2_engine import check_quantization
from papers_to_gpt.exporting.ctranslate2_verification import (
    compare_ctranslate2_generators,
    compare_ctranslate2_translators,
)
from papers_to_gpt.exporting.exported_folder import check_installed
from papers_to_gpt.exporting.formats import formats_of
from papers_to_gpt.exporting.library_classes import compare_library_class, write_library_class
from papers_to_gpt.exporting.onnx_export import write_graphs
from papers_to_gpt.exporting.onnx_verification import compare_onnx_generators, compare_onnx_translators
from papers_to_gpt.exporting.openai_gpt import compare_openai_gpt, write_openai_gpt
from papers_to_gpt.exporting.source_cards import add_source
from papers_to_gpt.exporting.verification import Comparison, random_texts
from papers_to_gpt.settings.exporting import ExportSettings
from seq2seq_scratch.data.text_lines import read_lines
from seq2seq_scratch.tokenization import save_tokenizers
from seq2seq_scratch.translation import load_translator
from seq2seq_scratch.visible_text import has_visible_text

AGAIN = "export the model again"

# What compares an export with its model, by the engine and the kind of model.
COMPARISONS = {
    ("ctranslate2", "translator"): compare_ctranslate2_translators,
    ("ctranslate2", "language_model"): compare_ctranslate2_generators,
    ("onnx", "translator"): compare_onnx_translators,
    ("onnx", "language_model"): compare_onnx_generators,
}


def run(settings: ExportSettings) -> None:
    """Exports the model of the settings, and says what was compared and where it is.

    Raises:
        ValueError: the model does not have the format, a package is missing, or the export computes something else.
    """
    transformers_logging.disable_progress_bar()
    target = Path(settings.output_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"output_dir {target} exists and is not empty. Name a new folder.")
    name = settings.model_name_or_path
    check_folder(name, kinds=(TRANSLATOR, LANGUAGE_MODEL, CLASSIFIER, MASKED_MODEL))
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    check_format(name, config, settings.format)
    if settings.format in ENGINES:
        check_installed(settings.format)
    if settings.format == "ctranslate2":
        check_quantization(settings.quantization or "float32")
    with durable_folder(target, AGAIN) as folder:
        model, *tokenizers = load_gpt1(name) if config.model_type == "gpt1" else load_translator(name)
        if settings.format in ENGINES:
            found = export_to_engine(settings, model, tokenizers, folder)
        else:
            found = export_to_library(settings, model, tokenizers, folder)
    print(f"{found}\nWrote {target}.")


def check_format(name: str, config: Any, wanted: str) -> None:
    """Checks that a model has a format.

    Raises:
        ValueError: it does not; the message says which formats it has.
    """
    reasons = formats_of(config)
    if reasons[wanted] is not None:
        others = [each for each, reason in reasons.items() if reason is None]
        listed = " and ".join(filter(None, [", ".join(others[:-1]), *others[-1:]]))
        has = f"It can be exported to {listed}" if others else "It has no other format either"
        raise ValueError(f"{name} cannot be exported to {wanted}: {reasons[wanted]}. {has}.")


def load_gpt1(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a GPT-1, in the numbers that it was saved in, and its tokenizer.

    Raises:
        ValueError: the tokenizer is another model's.
    """
    model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(name)
    check_vocabulary(tokenizer, model.config.vocab_size, name)
    return model, tokenizer


def texts_to_compare(settings: ExportSettings, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns the texts that both models read.

    Raises:
        ValueError: the file has no text.
    """
    if settings.sample_file is None:
        return random_texts(tokenizer)
    texts = [line for line in read_lines(settings.sample_file) if has_visible_text(line)]
    if not texts:
        raise ValueError(f"sample_file {settings.sample_file} has no text. Name a file with a text on each line.")
    return texts


def name_of_source(name: str) -> str:
    """Returns what a card calls the exported model, without the folders of this machine."""
    return Path(name).name if Path(name).is_absolute() else name


def export_to_library(
    settings: ExportSettings, model: PreTrainedModel, tokenizers: list[PreTrainedTokenizerBase], folder: Path
) -> str:
    """Writes a model as a class of transformers to an empty folder, and compares it.

    Args:
        settings: those of the export.
        model: a GPT-1 or a Transformer, in any numbers; it is in fp32 afterwards.
        tokenizers: the model's.
        folder: an empty folder.

    Returns:
        What was found.

    Raises:
        ValueError: the export computes something else.
    """
    texts = texts_to_compare(settings, tokenizers[0])
    for tokenizer in tokenizers:
        tokenizer.padding_side = "right"  # these classes count positions from the first column, padding or not
    if settings.format == "openai-gpt":
        write_openai_gpt(model, *tokenizers, folder)
        found = compare_openai_gpt(Comparison(model.float(), tokenizers, folder, texts))
        card = openai_gpt_card(folder, settings.output_dir, found)
    else:
        write_library_class(model.float(), settings.format, folder)
        save_tokenizers(folder, *tokenizers)
        found = compare_library_class(Comparison(model, tokenizers, folder, texts))
        card = library_card(folder, settings.output_dir, name_of_source(settings.model_name_or_path), found)
    (folder / CARD_FILE).write_text(add_source(card, settings.model_name_or_path), encoding="utf-8")
    return found


def export_to_engine(
    settings: ExportSettings, model: PreTrainedModel, tokenizers: list[PreTrainedTokenizerBase], folder: Path
) -> str:
    """Writes an export for CTranslate2 or onnxruntime to an empty folder, and compares it.

    Args:
        settings: those of the export.
        model: a translator or a GPT-1, in any numbers; it is in fp32 afterwards.
        tokenizers: the model's.
        folder: an empty folder.

    Returns:
        What was found.

    Raises:
        ValueError: the export computes something else.
    """
    is_gpt1, quantization = model.config.model_type == "gpt1", settings.quantization or "float32"
    texts = texts_to_compare(settings, tokenizers[0])
    model.float().generation_config.save_pretrained(folder)
    if is_gpt1:
        tokenizers[0].save_pretrained(folder)
    else:
        save_tokenizers(folder, *tokenizers)
    if settings.format == "onnx":
        positions = write_onnx(model, quantization, folder)
    else:
        positions = write_ctranslate2(model, tokenizers, quantization, folder)
    record = {
        "engine": settings.format,
        "kind": "language_model" if is_gpt1 else "translator",
        "model_type": model.config.model_type,
        # Not a path of this machine, because the folder may be shared.
        "source": name_of_source(settings.model_name_or_path),
        "quantization": quantization,
        "positions": positions,
    }
    write_record(folder, record)  # the engines read it
    compare = COMPARISONS[settings.format, record["kind"]]
    record["compared"] = compare(Comparison(model, tokenizers, folder, texts, quantization))
    write_record(folder, record)
    card = add_source(export_card(folder, record, settings.output_dir), settings.model_name_or_path)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return record["compared"]


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes what the scripts need to know of an export."""
    (folder / EXPORT_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_onnx(model: PreTrainedModel, quantization: str, folder: Path) -> int | None:
    """Writes a model as ONNX, and returns its number of positions, None for any."""
    write_graphs(model, quantization, folder)
    # Other tables end nowhere.
    is_learned = getattr(model.config, "position_embedding_type", "learned") == "learned"
    return getattr(model.config, "max_position_embeddings", None) if is_learned else None


def write_ctranslate2(
    model: PreTrainedModel, tokenizers: list[PreTrainedTokenizerBase], quantization: str, folder: Path
) -> int:
    """Writes a model for CTranslate2, and returns its number of positions."""
    is_gpt1 = model.config.model_type == "gpt1"
    make_spec = ctranslate2_specs.gpt1_model_spec if is_gpt1 else ctranslate2_specs.transformer_model_spec
    spec = make_spec(model, *tokenizers)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    return ctranslate2_specs.positions_of(model)
