"""What the settings of all translators have in common: a saved one tells where the code that it needs is."""

# First: what is imported below may have another name in the versions that this refuses.
from .library_version import check_version  # noqa: F401  # isort: skip

import os
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


class TranslationConfig(PreTrainedConfig):
    """Saved with the names of all classes that load from the folder, and with their code beside it.

    Attributes:
        model_classes: by the name of the auto class, `module.Class` of what it loads.
    """

    model_classes: ClassVar[dict[str, str]] = {}

    def __post_init__(self, **kwargs: Any):
        if self._is_installed():
            # The installed package has registered its pipeline. `pipeline()` would not look for it, but ask whether
            # to trust the model's own copy.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def _is_installed(self) -> bool:
        """Whether this is the package's code, not what a checkpoint brought along."""
        return not type(self).__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}.")

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes `config.json` and the code, so that the folder loads where this package is not installed.

        Names as they were loaded may point to the repository on the Hub that a model came from; those written here
        point into the folder itself.
        """
        # The library copies every file that the file of a saved class imports: so the pipeline goes along.
        from .pipeline_translation import TASK, TranslationPipeline

        def name_of(code: type) -> str:
            return f"{code.__module__.rpartition('.')[2]}.{code.__name__}"

        self.auto_map = {"AutoConfig": name_of(type(self)), **self.model_classes}
        pipeline = {"impl": name_of(TranslationPipeline), "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}
        self.custom_pipelines = {TASK: pipeline}
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        if self._is_installed():
            del self.custom_pipelines
