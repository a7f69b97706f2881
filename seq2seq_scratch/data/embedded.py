"""The parallel data sets that this package generates itself, by the name that `dataset_name` takes.

A new one needs an entry here and its generator in `corpora.load_parallel_data`; the recipes read the rest from here.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EmbeddedPairs:
    """What is to be said about an embedded data set.

    Attributes:
        description: what the pairs are, one sentence.
        limit: what a model that was trained on nothing else cannot do, one sentence.
        one_translation: True if a source has exactly one correct translation, so that exact match is a score.
        examples: a source sentence by language code.
    """

    description: str
    limit: str
    one_translation: bool = False
    examples: dict[str, str] = field(default_factory=dict)


EMBEDDED_PAIRS = {
    "numbers": EmbeddedPairs(
        description="Whole numbers, written in words in two languages.",
        limit="The model knows the words for numbers and nothing else.",
        one_translation=True,
        examples={
            "de": "dreihundertzweiundvierzig",
            "en": "three hundred and forty-two",
            "fr": "trois cent quarante-deux",
        },
    )
}
