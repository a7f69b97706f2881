"""Settings of the script that predicts with a fine-tuned model."""

from dataclasses import dataclass

from papers_to_gpt.settings.arguments import option, parse_settings, read_settings
from papers_to_gpt.settings.quantization import QuantizationSettings
from papers_to_gpt.settings.resuming import ResumableSettings


@dataclass
class ClassificationSettings(ResumableSettings, QuantizationSettings):
    """The model and its input."""

    group = "data"

    model_name_or_path: str | None = option(None, "Folder or Hub id of a fine-tuned model.", "model")
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.", "model")
    input_file: str | None = option(
        None,
        "CSV, TSV, JSON (lines or one list) or Parquet file with the columns that the model was trained on, or any "
        "other file with an example on each line and tabs between its texts, also .gz, .xz or .zst; left out, such "
        "lines from standard input. Predictions are numbered by rows: blank lines between rows of several columns "
        "are skipped.",
    )
    output_file: str | None = option(
        None, "File for the predictions (.gz, .xz or .zst compresses it); left out, standard output.", "output"
    )
    text_column: str | None = option(None, "Column of the text, if its name differs from that in training.")
    text_pair_column: str | None = option(
        None, "Column of the second text, if its name differs from that in training."
    )
    batch_size: int = option(64, "Examples per batch.", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.model_name_or_path:
            raise ValueError("model_name_or_path is not set. Name the folder or Hub id of a fine-tuned model.")
        if self.text_pair_column is not None and self.text_column is None:
            raise ValueError("text_pair_column is set, but text_column is not. Set both, or neither.")


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[ClassificationSettings]:
    """Reads the command line."""
    return parse_settings(read_settings(arguments), ClassificationSettings, description=description)
