"""Every picture of the guided readings: where it lies, what draws it, and the model that it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from papers_to_gpt.illustrations import attention, networks, tokens, trained, training

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Illustration:
    """A picture of a reading.

    Attributes:
        reading: the package whose reading shows the picture.
        draw: returns the figure; takes the model's folder if the picture needs one.
        model: the preset that trains the model, such as `numbers/bahdanau`; None if the picture needs none.
    """

    reading: str
    draw: Callable[..., "Figure"]
    model: str | None = None

    def path(self, name: str) -> Path:
        """Returns the file below the repository's root."""
        return Path(self.reading) / "pictures" / f"{name}.png"


TRANSLATION, LANGUAGE = "seq2seq_scratch", "gpt1_scratch"

ILLUSTRATIONS = {
    "bpe_tokens": Illustration(TRANSLATION, tokens.bpe_tokens),
    "fixed_vector": Illustration(TRANSLATION, networks.fixed_vector),
    "gradient_by_distance": Illustration(TRANSLATION, training.gradient_by_distance),
    "reversed_source": Illustration(TRANSLATION, networks.reversed_source),
    "alignment": Illustration(TRANSLATION, trained.alignment, "numbers/bahdanau"),
    "gru_cell": Illustration(TRANSLATION, networks.gru_cell),
    "softmax_scaling": Illustration(TRANSLATION, attention.softmax_scaling),
    "heads": Illustration(TRANSLATION, trained.heads, "numbers/transformer"),
    "masks": Illustration(TRANSLATION, attention.causal_mask_triangle),
    "sinusoids": Illustration(TRANSLATION, attention.sinusoids),
    "gradient_by_layer": Illustration(TRANSLATION, training.gradient_by_layer),
    "learning_rates": Illustration(TRANSLATION, training.learning_rates),
    "beam": Illustration(TRANSLATION, trained.beam, "numbers/bahdanau"),
    "update_time": Illustration(TRANSLATION, training.update_time),
    "next_tokens": Illustration(LANGUAGE, trained.next_tokens, "stories/gpt1_mini"),
    "block": Illustration(LANGUAGE, networks.block),
    "bpe_merges": Illustration(LANGUAGE, tokens.bpe_merges),
    "joint_loss": Illustration(LANGUAGE, networks.joint_loss),
    "input_transformations": Illustration(LANGUAGE, networks.input_transformations),
    "bits_per_byte": Illustration(LANGUAGE, tokens.bits_per_byte),
    "transferred_blocks": Illustration(LANGUAGE, networks.transferred_blocks),
    "one_vector_or_all": Illustration(LANGUAGE, networks.one_vector_or_all),
    "induction": Illustration(LANGUAGE, attention.induction),
    "both_directions": Illustration(LANGUAGE, attention.both_directions),
}
