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
    EXPORT_FILE,
    LANGUAGE_MODEL,
    MASKED_MODEL,
    TRANSLATOR,
    check_folder,
    check_vocabulary,
)
from papers_to_gpt.exporting.cards import export_card, library_card, openai_gpt_card
from papers_to_gpt.exporting.ctranslate2_engine import check_quantization
from papers_to_gpt.exporting.exported_folder import check_installed
from papers_to_gpt.exporting.formats import LIBRARY_CLASSES, formats_of
from papers_to_gpt.exporting.onnx_verification import compare_onnx_generators, compare_onnx_translators
from papers_to_gpt.exporting.openai_gpt import compare_openai_gpt, write_openai_gpt
from papers_to_gpt.exporting.verification import compare_generators, compare_translators, random_texts
from papers_to_gpt.settings.exporting import ExportSettings
from seq2seq_scratch.data.text_lines import read_lines
from seq2seq_scratch.tokenization import save_tokenizers
from seq2seq_scratch.translation import load_translator

AGAIN = "export the model again"

# What compares an export with its model, by the kind of model.
CTRANSLATE2 = {"translator": compare_translators, "language_model": compare_generators}
ONNX = {"translator": compare_onnx_translators, "language_model": compare_onnx_generators}


def run(settings: ExportSettings) -> None:
    """Exports the model of the settings, and says what was compared and where it is."""
    transformers_logging.disable_progress_bar()
    target = Path(settings.output_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"output_dir {target} exists and is not empty. Name a new folder.")
    name = settings.model_name_or_path
    check_folder(name, kinds=(TRANSLATOR, LANGUAGE_MODEL, CLASSIFIER, MASKED_MODEL))
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    check_format(name, config, settings.format)
    if settings.format == "openai-gpt":
        with durable_folder(target, AGAIN) as folder:
            found = export_to_openai_gpt(settings, folder)
    elif settings.format in LIBRARY_CLASSES:
        with durable_folder(target, AGAIN) as folder:
            found = export_to_library_class(settings, folder)
    else:
        check_installed(settings.format)
        quantization = settings.quantization or "float32"
        if settings.format == "ctranslate2":
            check_quantization(quantization)
        with durable_folder(target, AGAIN) as folder:
            found = export_to_engine(settings, config.model_type, quantization, folder)
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
    """Loads a GPT-1, in the numbers that it was saved in, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(name)
    check_vocabulary(tokenizer, model.config.vocab_size, name)
    return model, tokenizer


def samples(settings: ExportSettings, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns the texts that both models read.

    Raises:
        ValueError: the file has no text.
    """
    if settings.sample_file is None:
        return random_texts(tokenizer)
    texts = [line for line in read_lines(settings.sample_file) if line.strip()]
    if not texts:
        raise ValueError(f"sample_file {settings.sample_file} has no text. Name a file with a text on each line.")
    return texts


def name_of_source(name: str) -> str:
    """Returns what a card calls the exported model, without the folders of this machine."""
    return Path(name).name if Path(name).is_absolute() else name


def export_to_openai_gpt(settings: ExportSettings, folder: Path) -> str:
    """Writes a GPT-1 as transformers' `openai-gpt` to an empty folder, and compares it.

    Returns:
        What was compared.

    Raises:
        ValueError: the export computes something else.
    """
    model, tokenizer = load_gpt1(settings.model_name_or_path)
    write_openai_gpt(model, tokenizer, folder)
    rows = tokenizer(samples(settings, tokenizer), verbose=False)["input_ids"]
    found = compare_openai_gpt(model.float(), folder, rows)
    write_card(folder, openai_gpt_card(settings.output_dir, found))
    return found


def export_to_library_class(settings: ExportSettings, folder: Path) -> str:
    """Writes a Transformer as a class of transformers to an empty folder, and compares it.

    Returns:
        What was compared.

    Raises:
        ValueError: the export computes something else.
    """
    from papers_to_gpt.exporting.library_classes import compare_library_class, write_library_class

    model, tokenizer, target_tokenizer = load_translator(settings.model_name_or_path)
    model.float()
    write_library_class(model, settings.format, folder)
    save_tokenizers(folder, tokenizer, target_tokenizer)
    found = compare_library_class(model, tokenizer, folder, samples(settings, tokenizer))
    write_card(folder, library_card(folder, settings.output_dir, name_of_source(settings.model_name_or_path), found))
    return found


def export_to_engine(settings: ExportSettings, model_type: str, quantization: str, folder: Path) -> str:
    """Writes an export to an empty folder, and compares it.

    Returns:
        What was compared.

    Raises:
        ValueError: the export computes something else.
    """
    name = settings.model_name_or_path
    if model_type == "gpt1":
        model, *tokenizers = load_gpt1(name)
        tokenizers[0].save_pretrained(folder)
    else:
        model, *tokenizers = load_translator(name)
        save_tokenizers(folder, *tokenizers)
    model.float()
    model.generation_config.save_pretrained(folder)
    record = {
        "engine": settings.format,
        "kind": "language_model" if model_type == "gpt1" else "translator",
        "model_type": model_type,
        # Not a path of this machine, because the folder may be shared.
        "source": name_of_source(name),
        "quantization": quantization,
    }
    write, comparisons = (write_onnx, ONNX) if settings.format == "onnx" else (write_ctranslate2, CTRANSLATE2)
    record["positions"] = write(model, tokenizers, quantization, folder)
    write_record(folder, record)
    found = comparisons[record["kind"]](model, *tokenizers, folder, samples(settings, tokenizers[0]), quantization)
    record["compared"] = found
    write_record(folder, record)
    write_card(folder, export_card(folder, record, settings.output_dir))
    return found


def write_card(folder: Path, text: str) -> None:
    """Writes the card of an export."""
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes what the scripts need to know of an export."""
    (folder / EXPORT_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_onnx(
    model: PreTrainedModel, tokenizers: list[PreTrainedTokenizerBase], quantization: str, folder: Path
) -> int | None:
    """Writes a model as ONNX, and returns its number of positions, None for any."""
    from papers_to_gpt.exporting.onnx_export import write_graphs

    write_graphs(model, quantization, folder)
    # Other tables end nowhere.
    is_learned = getattr(model.config, "position_embedding_type", "learned") == "learned"
    return getattr(model.config, "max_position_embeddings", None) if is_learned else None


def write_ctranslate2(
    model: PreTrainedModel, tokenizers: list[PreTrainedTokenizerBase], quantization: str, folder: Path
) -> int:
    """Writes a model for CTranslate2, and returns its number of positions."""
    from papers_to_gpt.exporting import ctranslate2_specs

    is_gpt1 = model.config.model_type == "gpt1"
    make_spec = ctranslate2_specs.gpt1_model_spec if is_gpt1 else ctranslate2_specs.transformer_model_spec
    spec = make_spec(model, *tokenizers)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    return ctranslate2_specs.positions_of(model)
