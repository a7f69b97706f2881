"""Settings of the script that exports a trained model to another engine."""

import sys
from dataclasses import dataclass
from typing import Literal

from papers_to_gpt.settings.arguments import CheckedSettings, option, parse_settings, read_settings

Quantization = Literal[
    "float32", "int8", "int8_float32", "int16", "bfloat16", "int8_bfloat16", "float16", "int8_float16"
]


@dataclass
class ExportSettings(CheckedSettings):
    """The model to export, the format and the folder to write."""

    group = "model"

    model_name_or_path: str | None = option(
        None, "Folder or Hub id of the trained model; it may stand first, without its name."
    )
    format: Literal["ctranslate2", "onnx", "openai-gpt", "marian", "pegasus", "blenderbot"] | None = option(
        None,
        "Engine that the folder is for: ctranslate2 (Transformer translators and GPT-1), onnx (all translators and "
        "GPT-1), or a class of transformers: openai-gpt (GPT-1), marian (post-norm translators), pegasus (pre-norm) "
        "or blenderbot (pre-norm, learned positions).",
        "output",
    )
    output_dir: str | None = option(None, "Folder to write, which must be new or empty.", "output")
    quantization: Quantization | None = option(
        None,
        "Numbers that the engine stores and computes with; left out, float32. The format onnx has float32 and int8; "
        "the classes of transformers have no such choice.",
        "output",
    )
    sample_file: str | None = option(
        None,
        "UTF-8 file with a text on each line, with which the export is compared with the model; left out, texts of "
        "tokens that are drawn at random.",
        "data",
    )

    def __post_init__(self):
        super().__post_init__()
        for name, example in (("model_name_or_path", "MODEL"), ("format", "--format"), ("output_dir", "--output_dir")):
            if not getattr(self, name):
                raise ValueError(
                    f"{name} is not set ({example}). Give all three: export.py MODEL --format ctranslate2 "
                    "--output_dir FOLDER."
                )
        if self.format == "onnx" and self.quantization not in (None, "float32", "int8"):
            raise ValueError(
                f"quantization is {self.quantization}, but the format onnx has float32 and int8. Name one of them, or "
                "leave quantization out."
            )
        if self.quantization is not None and self.format not in ("ctranslate2", "onnx"):
            raise ValueError(
                f"quantization is {self.quantization}, but the format {self.format} has no such numbers. Leave "
                "quantization out."
            )


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[ExportSettings]:
    """Reads the command line; a first argument without a name is the model."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and not arguments[0].startswith("-"):
        arguments[0] = f"--model_name_or_path={arguments[0]}"
    return parse_settings(read_settings(arguments), ExportSettings, description=description)
