"""Registry of the parallel data sets that this package generates, by the name that `dataset_name` takes.

A new data set needs an entry here and the function that the entry names. Loading, settings and model cards read the
registry. This file imports neither torch nor transformers, because the settings read it to answer `--help` quickly.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EmbeddedPairs:
    """An embedded data set: the function that generates it and what its model cards say.

    Attributes:
        generator: the function, as "module:function". It takes the codes of the source and the target language and
            returns the splits by name, each a `datasets.Dataset` with the columns that `load_parallel_data` reads.
        description: one sentence that says what the pairs are.
        limit: one sentence that says what a model trained on this data set alone cannot do.
        one_translation: True if a source has exactly one correct translation, so that exact match is a score.
        examples: one source sentence for each language code.
    """

    generator: str
    description: str
    limit: str
    one_translation: bool = False
    examples: dict[str, str] = field(default_factory=dict)

    def generate(self, source_language: str, target_language: str) -> Mapping[str, Any]:
        """Returns the splits by name."""
        return pkgutil.resolve_name(self.generator)(source_language, target_language)


EMBEDDED_PAIRS = {
    "numbers": EmbeddedPairs(
        generator="seq2seq_scratch.data.numbers:load_numbers",
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
