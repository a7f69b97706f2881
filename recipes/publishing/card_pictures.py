"""The pictures of a model card: small PNG files beside it, which are shared with it.

They are drawn where matplotlib is installed; without it, cards have no pictures.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papers_to_gpt.plots.alignments import plot_alignment
from papers_to_gpt.plots.curves import plot_curves, values_of
from papers_to_gpt.plots.style import save_figure
from papers_to_gpt.plots.tokens import readable
from seq2seq_scratch.alignments import align, has_attention
from seq2seq_scratch.tokenization import WORD_START
from seq2seq_scratch.translation import translate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE_FILE, ALIGNMENT_FILE = "training_curve.png", "alignment.png"

# A translator with its tokenizers of source and target.
Translator = tuple[PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerBase]


def draw_curve(folder: Path, log: Sequence[dict[str, Any]], names: Sequence[str]) -> str | None:
    """Draws the loss and the values of these names over the updates of a run.

    Returns:
        The file's name; None without matplotlib, or if the log has less than two lines.
    """
    logs = {folder.name: log}
    chosen = [name for name in ("loss", *names) if name in values_of(logs)]
    if find_spec("matplotlib") is None or len(log) < 2 or not chosen:
        return None
    save_figure(plot_curves(logs, chosen), folder / CURVE_FILE, (".png",))
    return CURVE_FILE


def draw_alignment(folder: Path, translator: Translator, sentence: str) -> str | None:
    """Draws the alignment of a sentence with the model's translation of it.

    Returns:
        The file's name; None without matplotlib, if the model has no attention, or if it translates by nothing.
    """
    if find_spec("matplotlib") is None or not has_attention(translator[0].config):
        return None
    ((best, *_),) = translate(*translator, [sentence])
    figure = alignment_figure(translator, sentence, best.text)
    if figure is None:
        return None
    save_figure(figure, folder / ALIGNMENT_FILE, (".png",))
    return ALIGNMENT_FILE


def alignment_figure(translator: Translator, sentence: str, translation: str) -> "Figure | None":
    """Draws the alignment of a sentence with a translation, by a model with attention.

    Returns:
        The figure; None if a text has nothing visible.
    """
    _, source_tokenizer, target_tokenizer = translator
    (alignment,) = align(*translator, [sentence], [translation])
    if alignment is None:
        return None
    marks = {"word_start": WORD_START}
    return plot_alignment(
        readable(alignment.source_tokens, source_tokenizer.all_special_tokens, **marks),
        readable(alignment.target_tokens, target_tokenizer.all_special_tokens, **marks),
        alignment.weights,
    )
