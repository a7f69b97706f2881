"""What the trackers get of a translator at an evaluation: translations, and a picture of the first alignment."""

from collections.abc import Sequence
from importlib.util import find_spec

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papers_to_gpt.engine.reporting import takes_pictures, track_samples
from papers_to_gpt.plots.style import pixels
from papers_to_gpt.publishing.card_pictures import alignment_figure
from seq2seq_scratch.alignments import has_attention

TRACKED_SENTENCES = 5  # of the validation split, from the first
PICTURE = "eval/alignment"


class SampleTracker:
    """Sends the first translations of an evaluation to the trackers, and the alignment of the first one as a picture.

    There is no picture of a model without attention, of an empty translation, or without matplotlib, which is said
    once.

    Args:
        accelerator: has the trackers.
        source_tokenizer, target_tokenizer: those of the model.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        source_tokenizer: PreTrainedTokenizerBase,
        target_tokenizer: PreTrainedTokenizerBase,
    ):
        self._accelerator, self._tokenizers = accelerator, (source_tokenizer, target_tokenizer)
        self._is_said = False

    def track(
        self,
        model: PreTrainedModel,
        update: int,
        sources: Sequence[str],
        translations: Sequence[str],
        references: Sequence[str],
    ) -> None:
        """Sends what a model translates at an update.

        Args:
            model: the translator, in evaluation mode.
            update: the update.
            sources, translations, references: N sentences each; the first few are sent.
        """
        lines = list(zip(sources, translations, references, strict=True))[:TRACKED_SENTENCES]
        texts = [f"source: {source}\ntranslation: {best}\nreference: {target}" for source, best, target in lines]
        pictures = {}
        if lines and takes_pictures(self._accelerator) and has_attention(model.config):
            if find_spec("matplotlib") is None:
                self._say_once()
            else:
                with self._accelerator.autocast():
                    figure = alignment_figure((model, *self._tokenizers), *lines[0][:2])
                if figure is not None:
                    pictures[PICTURE] = pixels(figure)
        track_samples(self._accelerator, update, texts, pictures)

    def _say_once(self) -> None:
        if not self._is_said:
            self._accelerator.print(
                "The trackers get no pictures of alignments: matplotlib is not installed (pip install matplotlib)."
            )
        self._is_said = True
