"""Draws what the settings ask for, and writes it as PNG and SVG."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging as transformers_logging

from papers_to_gpt.engine.durable_files import make_folder, naming_failed_writes
from papers_to_gpt.engine.reporting import LOG_FILE
from papers_to_gpt.plots.style import check_matplotlib, save_figure
from papers_to_gpt.settings.visualization import PICTURES, VisualizationSettings
from papers_to_gpt.visualization import figures
from papers_to_gpt.visualization.models import MAX_SOURCE_LENGTH, LoadedModel, load, short_name, translation_of
from seq2seq_scratch.alignments import has_attention
from seq2seq_scratch.visible_text import has_visible_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

OF_A_SENTENCE = ("alignment", "heads", "probabilities")


def run(settings: VisualizationSettings) -> None:
    """Draws the pictures and prints where they are.

    Raises:
        ValueError: if the model or the runs do not have what is to be drawn.
        OSError: if the pictures cannot be written.
    """
    check_matplotlib()
    transformers_logging.disable_progress_bar()
    name, output_dir = settings.model_name_or_path, make_folder(settings.output_dir)
    if settings.sentence is not None and not has_visible_text(settings.sentence):
        raise ValueError(f"sentence is {settings.sentence!r}, which has no visible text. Give at least a word.")
    needs_model = name is not None and settings.pictures != ["curves"]
    loaded = load(name, settings.revision, settings.trust_remote_code) if needs_model else None
    pictures = settings.pictures or default_pictures(settings, loaded)
    without = [picture for picture in pictures if picture in OF_A_SENTENCE and settings.sentence is None]
    if without:
        raise ValueError(f"pictures has {' and '.join(without)}, but sentence is not set. Give a sentence.")
    prefix = "" if name is None else short_name(name) + "_"
    for picture, figure in draw(settings, loaded, pictures):
        with naming_failed_writes(output_dir, then="draw the pictures again"):
            paths = save_figure(figure, output_dir / f"{prefix}{picture}.png")
        print(*paths, sep="  ", flush=True)


def default_pictures(settings: VisualizationSettings, loaded: LoadedModel | None) -> list[str]:
    """Returns the pictures that a model, its folder and the settings have.

    Raises:
        ValueError: if there is none.
    """
    if loaded is None:
        return ["curves"]
    has = {
        "alignment": loaded.target_tokenizer is not None and has_attention(loaded.model.config),
        "heads": loaded.has_heads,
        "positions": loaded.has_positions,
        "probabilities": True,
        "curves": bool(settings.runs) or (Path(loaded.name) / LOG_FILE).is_file(),
    }
    pictures = [
        name for name in PICTURES if has[name] and (name not in OF_A_SENTENCE or settings.sentence is not None)
    ]
    if not pictures:
        raise ValueError(f"sentence is not set, and without one there is nothing to draw of {loaded.name}. Give one.")
    if settings.sentence is None:
        logger.warning("Only %s is drawn, because sentence is not set.", " and ".join(pictures))
    return pictures


def draw(
    settings: VisualizationSettings, loaded: LoadedModel | None, pictures: list[str]
) -> Iterator[tuple[str, "Figure"]]:
    """Yields the name and the figure of each picture."""
    sentence, translation = settings.sentence, settings.translation
    if loaded is not None:
        if "heads" in pictures:
            figures.check_heads(loaded, settings.layers, settings.heads, settings.attention)
        if loaded.target_tokenizer is None and translation is not None:
            raise ValueError(
                f"translation is set, but {loaded.name} is a {loaded.model_type} and does not translate. Leave it out."
            )
        if "alignment" in pictures and (loaded.target_tokenizer is None or not has_attention(loaded.model.config)):
            figures.alignment(loaded, sentence)  # refuses the model
        if loaded.target_tokenizer is not None and set(pictures) & set(OF_A_SENTENCE) and translation is None:
            translation = translation_of(loaded, sentence, settings.num_beams)
            print(translation)
        if sentence is not None:
            warn_of_cut(loaded, sentence, translation, settings.max_tokens)
    drawn = {"max_tokens": settings.max_tokens}
    for picture in pictures:
        if picture == "alignment":
            yield picture, figures.alignment(loaded, sentence, translation, **drawn)
        elif picture == "heads":
            chosen = {"layers": settings.layers, "heads": settings.heads, "kinds": settings.attention}
            yield from figures.heads(loaded, sentence, translation, **chosen, **drawn).items()
        elif picture == "positions":
            yield from figures.positions(loaded).items()
        elif picture == "probabilities":
            several = {"candidates": settings.candidates}
            yield from figures.probabilities(loaded, sentence, translation, **several, **drawn).items()
        else:
            runs = [*([settings.model_name_or_path] if settings.model_name_or_path else []), *settings.runs]
            yield picture, figures.curves(list(dict.fromkeys(runs)), settings.values)


def warn_of_cut(loaded: LoadedModel, sentence: str, translation: str | None, max_tokens: int) -> None:
    """Warns if the pictures do not show all tokens of a text, or if the model does not read all."""
    limit = loaded.model.config.max_position_embeddings if loaded.target_tokenizer is None else MAX_SOURCE_LENGTH
    texts = [("sentence", loaded.tokenizer, sentence, limit)]
    if translation is not None:
        texts.append(("translation", loaded.target_tokenizer, translation, None))
    for name, tokenizer, text, read in texts:
        length = len(tokenizer(text, verbose=False).input_ids)
        if read is not None and length > read:
            logger.warning("The %s has %d tokens; %s reads the first %d.", name, length, loaded.name, read)
        if length > max_tokens:
            logger.warning("The %s has %d tokens; the pictures show the first %d.", name, length, max_tokens)
