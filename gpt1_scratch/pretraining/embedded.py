"""Registry of the text data sets that this package generates, by the name that `dataset_name` takes.

A new data set needs an entry here and the function that the entry names. Loading, settings and model cards read the
registry. This file imports neither torch nor transformers, because the settings read it to answer `--help` quickly.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class EmbeddedTexts:
    """An embedded data set: the function that generates it and what its model cards say.

    Attributes:
        generator: the function, as "module:function". It takes no argument and returns the splits `train` and
            `validation`, each a `datasets.Dataset` with a column `text`.
        description: one sentence that says what the texts are.
        limit: one sentence that says what a model trained on this data set alone cannot do.
        language: the ISO 639 code of the texts' language.
        opening: the first words of a text, as a prompt to try a model on.
    """

    generator: str
    description: str
    limit: str
    language: str
    opening: str

    # Both splits are loaded in a run, one after the other.
    @cache  # noqa: B019
    def generate(self) -> Mapping[str, Any]:
        """Returns the splits by name. They are generated once in a process."""
        return pkgutil.resolve_name(self.generator)()


EMBEDDED_TEXTS = {
    "stories": EmbeddedTexts(
        generator="gpt1_scratch.stories.corpus:load_stories",
        description="Short stories about a small world, in a few hundred words of English.",
        limit="The model knows the small world of the stories and their few hundred words, and nothing else.",
        language="en",
        opening="Once there were two friends",
    )
}
