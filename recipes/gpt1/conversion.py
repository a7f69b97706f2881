"""Converts published weights of GPT-1 to ours and back."""

from gpt1_scratch.pretraining.convert_openai_gpt import convert
from papers_to_gpt.settings.conversion import ConversionSettings


def run(settings: ConversionSettings) -> None:
    """Converts a checkpoint, and says where it is."""
    convert(settings.source, settings.target, settings.to)
    print(f"Wrote {settings.target}.")
