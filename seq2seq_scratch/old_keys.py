"""Loads checkpoints that were saved before a parameter was renamed.

`model.safetensors` names each tensor after an attribute of the model. If the attribute was renamed, the library would
report the tensor as unexpected, and the parameter would keep its random initial values.

The packages do not import each other, and each has this file; a test compares them.
"""

import os
import re
from typing import Any, ClassVar, Self

import torch
from torch import nn


class LoadsOldKeys:
    """A mixin for `PreTrainedModel` classes that loads checkpoints in which tensors have old names.

    `from_pretrained` passes the names to the library as its argument `key_mapping`, and `load_state_dict` renames
    tensors in a hook. Code that reads the files itself calls `rename_old_keys`. `save_pretrained` writes new names.

    Attributes:
        old_keys: regular expressions for the old parts of names, and their replacements.
    """

    old_keys: ClassVar[dict[str, str]] = {}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_pre_hook(_rename_in_place)

    @classmethod
    def rename_old_keys(cls, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the tensors under their new names.

        Args:
            state_dict: tensors of any shape by their names in a checkpoint, old or new, with or without a prefix.
        """
        renamed = {}
        for key, tensor in state_dict.items():
            for old, new in cls.old_keys.items():
                key = re.sub(old, new, key)
            renamed[key] = tensor
        return renamed

    @classmethod
    def from_pretrained(
        cls, *args: Any, key_mapping: dict[str, str] | None = None, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        return super().from_pretrained(*args, key_mapping={**cls.old_keys, **(key_mapping or {})}, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        # By default, the library would save a model that was loaded with a mapping under the old names.
        super().save_pretrained(save_directory, *args, **{"save_original_format": False, **kwargs})


def _rename_in_place(module: nn.Module, state_dict: dict[str, torch.Tensor], *_: Any) -> None:
    renamed = module.rename_old_keys(state_dict)
    state_dict.clear()
    state_dict.update(renamed)
