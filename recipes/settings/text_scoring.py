"""Settings of the script that scores text."""

from dataclasses import dataclass

from papers_to_gpt.settings.arguments import option, parse_settings, read_settings
from papers_to_gpt.settings.quantization import QuantizationSettings
from papers_to_gpt.settings.resuming import ResumableSettings


@dataclass
class TextScoringSettings(ResumableSettings, QuantizationSettings):
    """The model, the lines and what is written of each."""

    group = "data"

    model_name_or_path: str | None = option(None, "Folder or Hub id of a trained model.", "model")
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.", "model")
    trust_remote_code: bool = option(False, "Run the code that comes with the model.", "model")
    input_file: str | None = option(
        None, "UTF-8 file (also .gz, .xz, .zst) with a text on each line; left out, standard input."
    )
    output_file: str | None = option(
        None, "File for the scores (.gz, .xz or .zst compresses it); left out, standard output.", "output"
    )
    with_tokens: bool = option(False, "Write each token with its log-probability.", "output")
    stride: int | None = option(
        None,
        "Tokens that are scored at a time in lines longer than the model's positions; left out, half the positions.",
        at_least=1,
    )
    max_tokens_per_batch: int = option(4096, "Maximum number of rows times longest row in a batch.", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.model_name_or_path:
            raise ValueError("model_name_or_path is not set. Name the folder or Hub id of a trained model.")


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[TextScoringSettings]:
    """Reads the command line."""
    return parse_settings(read_settings(arguments), TextScoringSettings, description=description)
