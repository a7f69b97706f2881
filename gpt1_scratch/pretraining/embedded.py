"""The text data sets that this package generates itself, by the name that `dataset_name` takes.

A new one needs an entry here and its generator in `corpora.load_texts`; the recipes read the rest from here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class EmbeddedTexts:
    """What is to be said about an embedded data set.

    Attributes:
        description: what the texts are, one sentence.
        limit: what a model that was trained on nothing else cannot do, one sentence.
        language: the ISO 639 code of the texts' language.
        opening: the first words of a text, to try a model on.
    """

    description: str
    limit: str
    language: str
    opening: str


EMBEDDED_TEXTS = {
    "stories": EmbeddedTexts(
        description="Short stories about a small world, in a few hundred words of English.",
        limit="The model knows the small world of the stories and their few hundred words, and nothing else.",
        language="en",
        opening="Once there were two friends",
    )
}
