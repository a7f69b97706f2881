"""Settings of the script that makes training pairs from the sentences of one language."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from papers_to_gpt.settings.arguments import option, parse_settings, read_settings
from papers_to_gpt.settings.decoding import SearchSettings

# Kinds of files that `train_file` takes and that hold whole pairs. Text may be compressed.
PAIR_EXTENSIONS = (".tsv", ".jsonl", ".ndjson", ".parquet")
COMPRESSIONS = (".gz", ".xz", ".zst")


@dataclass
class BackTranslationSettings(SearchSettings):
    """The model, the sentences, the parameters of its search, and the pairs."""

    input_file: str | None = option(
        None,
        "UTF-8 file (also .gz, .xz, .zst) with a sentence on each line; or pairs (.parquet, .jsonl, .csv, .tsv), of "
        "which the side that is translated is read.",
        "data",
    )
    direction: Literal["backward", "forward"] = option(
        "backward",
        "What is translated: `backward`, targets, by a reverse model, which makes their sources; `forward`, sources, "
        "whose translations become the targets.",
        "data",
    )
    output_file: str | None = option(
        None,
        "File for the pairs, which train_file takes: .tsv or .jsonl, also followed by .gz, .xz or .zst, or .parquet.",
        "output",
    )
    source_language: str = option(
        "en", "Language code of the source of the pairs; backward, the model translates into it.", "output"
    )
    target_language: str = option(
        "de", "Language code of the target of the pairs; forward, the model translates into it.", "output"
    )
    tag: str | None = option(
        None, "Word in front of each source, such as <BT>, which tells it from a source that a person wrote.", "output"
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("input_file", "output_file"):
            if getattr(self, name) is None:
                raise ValueError(
                    f"{name} is not set. Name both files: input_file with sentences, output_file for pairs."
                )
        if pair_extension(self.output_file) is None:
            raise ValueError(
                f"output_file is {self.output_file}; it must end in {', '.join(PAIR_EXTENSIONS)}, or in one of the "
                f"first three and {', '.join(COMPRESSIONS)}."
            )
        if self.source_language == self.target_language:
            raise ValueError(
                f"source_language and target_language are both {self.source_language!r}; they name the two columns of "
                "the pairs. Set one."
            )
        if self.tag is not None and len(self.tag.split()) != 1:
            raise ValueError(f"tag is {self.tag!r}; it must be one word without spaces, such as <BT>.")


def pair_extension(name: str) -> str | None:
    """Returns the extension that decides how pairs are written, without a compression; None if there is no such."""
    path = Path(name)
    compressed = path.suffix.lower() in COMPRESSIONS
    extension = (path.with_suffix("") if compressed else path).suffix.lower()
    allowed = extension in PAIR_EXTENSIONS and not (compressed and extension == ".parquet")
    return extension if allowed else None


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[BackTranslationSettings]:
    """Reads the command line; a first argument without a name is the model."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and not arguments[0].startswith("-"):
        arguments[0] = f"--model_name_or_path={arguments[0]}"
    return parse_settings(read_settings(arguments), BackTranslationSettings, description=description)
