"""Draws the pictures that the settings ask for, and writes them beside the readings as small PNG files."""

import logging
from pathlib import Path

from transformers.utils import logging as transformers_logging

from papers_to_gpt.illustrations.registry import ILLUSTRATIONS
from papers_to_gpt.plots.style import check_matplotlib, save_figure
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.illustration import IllustrationSettings

logger = logging.getLogger(__name__)

COLOURS = 256  # of a file, as many as a palette has; the file is half as large


def run(settings: IllustrationSettings) -> None:
    """Draws the pictures and prints where they are.

    Without `pictures`, those whose model is not there are left out with a warning.

    Raises:
        ValueError: if `pictures` names one that there is not, or one whose model is not there.
        OSError: if a file cannot be written.
    """
    check_matplotlib()
    transformers_logging.disable_progress_bar()
    unknown = [name for name in settings.pictures if name not in ILLUSTRATIONS]
    if unknown:
        raise ValueError(f"pictures names {', '.join(unknown)}; there are {', '.join(ILLUSTRATIONS)}.")
    for name in settings.pictures or ILLUSTRATIONS:
        illustration = ILLUSTRATIONS[name]
        arguments = []
        if illustration.model is not None:
            folder = Path(settings.models_dir) / illustration.model.replace("/", "_")
            if not (folder / "config.json").is_file():
                script = "pretrain_gpt1" if illustration.reading == "gpt1_scratch" else "train_translation"
                train = command(script, illustration.model, "--output_dir", folder)
                message = f"The picture {name} needs the model {folder}, which is not there. Train it: {train}"
                if settings.pictures:
                    raise ValueError(message)
                logger.warning("%s", message)
                continue
            arguments = [folder]
        (path,) = save_figure(
            illustration.draw(*arguments), Path(settings.output_dir) / illustration.path(name), (".png",)
        )
        shrink(path)
        print(path, flush=True)


def shrink(path: Path) -> None:
    """Writes a PNG file again with a palette of colours."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
