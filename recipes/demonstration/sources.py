"""What the page says of each model: what it is, what it was trained on, and under which terms the data are."""

from pathlib import Path
from typing import TYPE_CHECKING

from papers_to_gpt.engine.checkpointing import CHECKPOINT_PREFIX
from papers_to_gpt.engine.model_folder import CLASSIFIER
from papers_to_gpt.publishing.cards import describe_model
from papers_to_gpt.publishing.data_sources import describe_training_data
from papers_to_gpt.publishing.model_card import Run, read_run, without_folders

if TYPE_CHECKING:
    from papers_to_gpt.demonstration.finding import FoundModel


def describe(found: "FoundModel") -> str:
    """Returns a paragraph in Markdown about a model: its name, its training data and the data's terms."""
    card = describe_model(found.config, found.run, found.folder / "config.json")
    parameters = found.run.record.get("parameters")
    size = f", {parameters:,} parameters" if isinstance(parameters, int) else ""
    task = found.config["finetuning_task"]["name"] if found.kind is CLASSIFIER else None
    parts = [f"**{card.title}** (`{found.name}`{size}).", *_data(found.run, "Training data:", task)]
    start = _starting_model(found)
    if start is not None:
        name = without_folders(start)
        if name.startswith(CHECKPOINT_PREFIX):
            name = f"{Path(start).parent.name}/{name}"
        try:
            parts += _data(read_run(Path(start)), f"It started from `{name}`, whose training data are:")
        except ValueError:  # the records of the other model are damaged
            parts.append(f"It started from `{name}`, whose training data are not known.")
    if found.kind is not CLASSIFIER:  # the limits of classifiers are those of their task
        parts.append(card.limits[0])
    return " ".join(parts)


def example_of(found: "FoundModel") -> str:
    """Returns a sentence of the kind that a model was trained on, to begin with; empty for fine-tuned models."""
    widget = describe_model(found.config, found.run, found.folder / "config.json").metadata.get("widget")
    return widget[0]["text"] if widget else ""


def languages_of(found: "FoundModel") -> str:
    """Returns the languages that a translator translates between, such as "en to de"; empty if they are not known."""
    pair = [found.run.settings.get(f"{side}_language") for side in ("source", "target")]
    if not all(pair) or any(found.run.settings.get(f"{side}_column") for side in ("source", "target")):
        return ""  # where columns are named, the languages may be defaults
    return " to ".join(pair)


def _data(run: Run, opening: str, task: str | None = None) -> list[str]:
    data = describe_training_data(run.settings, task)
    return [opening, data.text, data.source.terms]


def _starting_model(found: "FoundModel") -> str | None:
    """Returns the model that the training started from; None if it started from random weights, or is not known."""
    settings = found.run.settings
    if found.kind is CLASSIFIER:
        return None if settings.get("from_scratch") else settings.get("model_name_or_path")
    return settings.get("init_from")
