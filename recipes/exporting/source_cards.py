"""Gives the card of an export what the card of its model says: the languages, the data, the limits, the licence."""

import re
from pathlib import Path

from huggingface_hub import ModelCard
from transformers.utils import cached_file

from papers_to_gpt.engine.checkpointing import CHECKPOINT_PREFIX
from papers_to_gpt.engine.reporting import CARD_FILE

METADATA = ("language", "license", "license_name", "license_link", "pipeline_tag", "datasets")
SECTIONS = ("Training data", "Limits", "Licence")

NO_CARD = "The terms of the exported model apply. Its folder has no card that states them."


def add_source(card: str, name: str) -> str:
    """Returns the card of an export with metadata and sections of its model's card, which the user may have edited.

    Args:
        card: the card, which keeps its own metadata.
        name: the exported model, a folder or a Hub id. A checkpoint without a card has that of its run.
    """
    path = _card_of(name)
    export, source = ModelCard(card), None if path is None else ModelCard.load(path, ignore_metadata_errors=True)
    for key in METADATA:
        if source is not None and export.data.get(key) is None and source.data.get(key) is not None:
            export.data[key] = source.data[key]
    if not Path(name).is_dir():
        export.data["base_model"] = name
    sections = [] if source is None else [_section(source.text, title) for title in SECTIONS]
    found = "\n\n".join(filter(None, sections)) or f"## Licence\n\n{NO_CARD}"
    return f"---\n{export.data.to_yaml()}\n---\n\n{export.text.strip()}\n\n{found}\n"


def _card_of(name: str) -> Path | None:
    if not Path(name).is_dir():
        found = cached_file(name, CARD_FILE, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found)
    folder = Path(name).resolve()
    folders = [folder, *([folder.parent] if folder.name.startswith(CHECKPOINT_PREFIX) else [])]
    return next((each / CARD_FILE for each in folders if (each / CARD_FILE).is_file()), None)


def _section(text: str, title: str) -> str | None:
    found = re.search(rf"^## {title}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return None if found is None else found[0].strip()
