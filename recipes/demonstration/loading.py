"""Loads the models of a page when they are first used, and lends each to one thread at a time."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from papers_to_gpt.engine.model_folder import CLASSIFIER, Kind
from papers_to_gpt.gpt1.classification import Classifier, load_classifier
from papers_to_gpt.settings.classification import ClassificationSettings
from papers_to_gpt.visualization import models
from papers_to_gpt.visualization.models import LoadedModel

if TYPE_CHECKING:
    from papers_to_gpt.demonstration.finding import FoundModel


class ModelStore:
    """The models of a page by name.

    Several users ask at once, each in a thread, and computing an alignment changes a model for a moment. So a model is
    lent to one thread at a time; others wait, and users of other models do not.

    Args:
        found: the models.
        largest: the number of models that stay in memory.
    """

    def __init__(self, found: "Sequence[FoundModel]", largest: int = 8):
        self.found = {model.name: model for model in found}
        self.largest = largest
        self._locks = {model.name: threading.Lock() for model in found}
        self._loaded: OrderedDict[str, LoadedModel | Classifier] = OrderedDict()
        self._order = threading.Lock()
        # `from_pretrained` replaces functions of torch while it runs, so two models may not load at the same time.
        self._loading = threading.Lock()

    def names(self, kind: Kind) -> list[str]:
        """Returns the names of the models of a kind."""
        return [name for name, model in self.found.items() if model.kind is kind]

    @contextmanager
    def borrow(self, name: str) -> Iterator[LoadedModel | Classifier]:
        """Lends a model for the length of a `with` block, and loads it first if it is not in memory.

        Raises:
            ValueError: if there is no such model, or it cannot be loaded.
            OSError: if its files cannot be read.
        """
        if name not in self.found:
            raise ValueError("No model is chosen. Choose one of the list.")
        with self._locks[name]:
            with self._order:
                loaded = self._loaded.get(name)
            if loaded is None:
                with self._loading:
                    loaded = load(self.found[name])
            with self._order:
                self._loaded[name] = loaded
                self._loaded.move_to_end(name)
                while len(self._loaded) > self.largest:
                    self._loaded.popitem(last=False)  # a thread that has borrowed it keeps it alive
            yield loaded


def load(found: "FoundModel") -> LoadedModel | Classifier:
    """Loads a model with its tokenizers, in float32.

    Raises:
        ValueError: if it cannot be loaded.
    """
    folder = str(found.folder)
    if found.kind is not CLASSIFIER:
        return models.load(folder)
    return load_classifier(ClassificationSettings(model_name_or_path=folder))
