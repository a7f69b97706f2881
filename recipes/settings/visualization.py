"""Settings of the script that draws models and runs."""

import sys
from dataclasses import dataclass

from papers_to_gpt.settings.arguments import (
    WORDS_FOR_NO_VALUE,
    CheckedSettings,
    option,
    parse_settings,
    read_settings,
)

# What each picture shows, in the order in which they are drawn.
PICTURES = {
    "alignment": "the source words that each word of a translation attends to",
    "heads": "each attention head of the Transformer or of GPT-1",
    "positions": "position vectors and their similarity",
    "probabilities": "the probability of each token and of the next one",
    "curves": "training curves of runs",
}
ATTENTION_KINDS = ("encoder", "decoder", "cross")

# Tokens that fit on an axis of a picture that is 1200 pixels wide with labels that can be read.
MAX_TOKENS = 40


@dataclass
class VisualizationSettings(CheckedSettings):
    """The model, the sentence and what is drawn."""

    group = "pictures"

    model_name_or_path: str | None = option(
        None, "Folder or Hub id of a trained model; it may stand first, without its name.", "model"
    )
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.", "model")
    trust_remote_code: bool = option(False, "Run the code that comes with the model.", "model")
    sentence: str | None = option(
        None, "Sentence that the model reads; it may stand second, without its name.", "data"
    )
    translation: str | None = option(
        None, "Translation of the sentence to draw; left out, the model translates it.", "data"
    )
    runs: list[str] = option([], "Folders of runs whose training curves are compared with the model's.", "data")
    pictures: list[str] = option(
        [],
        f"What is drawn: {', '.join(f'{name} ({what})' for name, what in PICTURES.items())}; left out, all that the "
        "model has.",
    )
    layers: list[int] = option([], "Layers whose heads are drawn, counted from 0; left out, the last one.", at_least=0)
    heads: list[int] = option([], "Heads that are drawn, counted from 0; left out, all of a layer.", at_least=0)
    attention: list[str] = option(
        list(ATTENTION_KINDS), "Kinds of attention of a Transformer whose heads are drawn, if it has them."
    )
    values: list[str] = option(
        [],
        "Values of the logs that are drawn as curves; left out, the loss, a score, the learning rate and the gradient "
        "norm.",
    )
    candidates: int = option(4, "Most probable tokens that are drawn for each token.", at_least=1, at_most=6)
    max_tokens: int = option(
        MAX_TOKENS,
        "Tokens that are drawn, from the first; the model reads all.",
        at_least=1,
        at_most=MAX_TOKENS,
    )
    num_beams: int | None = option(
        None, "Beams of the search for the translation; left out, the number saved with the model.", at_least=1
    )
    output_dir: str = option("plots", "Folder for the pictures; each is written as PNG and as SVG.", "output")

    def __post_init__(self):
        super().__post_init__()
        for name, allowed in (("pictures", tuple(PICTURES)), ("attention", ATTENTION_KINDS)):
            unknown = [value for value in getattr(self, name) if value not in allowed]
            if unknown:
                raise ValueError(f"{name} names {', '.join(unknown)}; there are {', '.join(allowed)}.")
        if self.model_name_or_path is None and not self.runs:
            raise ValueError(
                "model_name_or_path is not set. Name the folder or Hub id of a trained model, and a sentence: "
                'visualize.py MODEL "SENTENCE"; or set runs to the folders whose training curves are compared.'
            )
        if self.model_name_or_path is None and set(self.pictures) - {"curves"}:
            raise ValueError(
                f"pictures is {' '.join(self.pictures)}, but model_name_or_path is not set. Without a model only "
                "curves are drawn."
            )
        if self.translation is not None and self.sentence is None:
            raise ValueError("translation is set, but sentence is not. Give the sentence that it translates.")
        for name in ("sentence", "translation"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise ValueError(f"{name} is empty. Give at least a word, or leave it out.")


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[VisualizationSettings]:
    """Reads the command line; the first two arguments without a name are the model and the sentence."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for place, name in enumerate(("model_name_or_path", "sentence")):
        if len(arguments) <= place or arguments[place].startswith("--") or arguments[place] == "-h":
            break
        # A model or a sentence may read "none": here the word is a value and does not unset the setting.
        if arguments[place].lower() in WORDS_FOR_NO_VALUE:
            arguments[place] = f"./{arguments[place]}" if name == "model_name_or_path" else f"{arguments[place]} "
        arguments[place] = f"--{name}={arguments[place]}"
    return parse_settings(read_settings(arguments), VisualizationSettings, description=description)
