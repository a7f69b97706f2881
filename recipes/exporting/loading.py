"""Loads exports in the place of our models, each with the engine that it was made for."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from papers_to_gpt.engine.model_folder import ENGINES, check_export, is_export, read_export
from papers_to_gpt.exporting import ctranslate2_translator
from papers_to_gpt.exporting.ctranslate2_generator import ExportedGenerator
from papers_to_gpt.exporting.ctranslate2_translator import ExportedTranslator
from papers_to_gpt.exporting.exported_folder import check_tokenizer, refuse_settings
from papers_to_gpt.exporting.onnx_models import OnnxGPT1, OnnxTranslator
from papers_to_gpt.settings.decoding import ModelsSettings
from seq2seq_scratch.tokenization import load_tokenizers

Exported = ExportedTranslator | OnnxTranslator | ExportedGenerator | OnnxGPT1

# Settings that need our own model.
OF_PYTORCH = ("bf16", "revision", "torch_compile", "trust_remote_code")


def load_exported_translator(
    settings: ModelsSettings,
) -> tuple[ExportedTranslator | OnnxTranslator, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Loads the export that the settings name, and its tokenizers.

    Raises:
        ValueError: several models are named, which only our own models can be in an ensemble; the export is not of a
            translator; or a setting is set that its engine does not have.
    """
    names = settings.model_name_or_path
    if len(names) > 1:
        first = next(filter(is_export, names))
        engine = ENGINES[read_export(Path(first))["engine"]]
        raise ValueError(
            f"model_name_or_path names {len(names)} models, and {first} is an export for {engine}, which has no "
            "ensembles. Name the models that were exported, or one export."
        )
    folder = Path(names[0])
    record = check_export(folder, "translator")
    refused = ("with_alignments",) if record["engine"] == "onnx" else ctranslate2_translator.REFUSED
    refuse_settings(settings, (*refused, *OF_PYTORCH), folder)
    model, _ = open_export(folder)
    return model, *load_tokenizers(folder)


def load_exported_generator(settings: Any) -> tuple[ExportedGenerator | OnnxGPT1, PreTrainedTokenizerBase]:
    """Loads the export that the settings name, and its tokenizer.

    Raises:
        ValueError: the export is not of a GPT-1, or a setting is set that its engine does not have.
    """
    folder = Path(settings.model_name_or_path)
    record = check_export(folder, "language_model")
    refuse_settings(settings, OF_PYTORCH, folder)
    generator, tokenizer = open_export(folder)
    if settings.seed is not None and record["engine"] == "ctranslate2":
        import ctranslate2

        ctranslate2.set_random_seed(settings.seed % 2**32)
    return generator, tokenizer


def open_export(folder: Path) -> tuple[Exported, PreTrainedTokenizerBase]:
    """Loads an export of any kind, and the tokenizer of what it reads."""
    record = read_export(folder)
    check_tokenizer(folder)
    if record["engine"] == "ctranslate2":
        model = ExportedTranslator(folder) if record["kind"] == "translator" else ExportedGenerator(folder)
    else:
        model = (OnnxTranslator if record["kind"] == "translator" else OnnxGPT1)(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
