"""Checkpoints saved before a parameter was renamed still load.

A folder's `model.safetensors` names each tensor after the attribute that holds it. Without a mapping, a tensor under a
name that is no longer in use would be reported as unexpected, and the parameter would keep its random initial values.

The packages do not import each other, and each has this file; a test compares them.
"""

import os
import re
from typing import Any, ClassVar, Self

import torch
from torch import nn


class LoadsOldKeys:
    """A mixin for `PreTrainedModel` classes: loads checkpoints whose tensors have names of earlier versions.

    `from_pretrained` hands the names to the library as its own argument `key_mapping`, `load_state_dict` renames them
    in a hook, and code that reads the files itself calls `rename_old_keys`. `save_pretrained` always writes the
    present names.

    Attributes:
        old_keys: regular expressions that match what was in a tensor's name, and what is there now.
    """

    old_keys: ClassVar[dict[str, str]] = {}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_pre_hook(_rename_in_place)

    @classmethod
    def rename_old_keys(cls, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the tensors under their present names; names that have not changed stay.

        Args:
            state_dict: tensors of any shape by their names in a checkpoint, with or without a prefix.
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
        # The library would otherwise undo the mapping that the model was loaded with.
        super().save_pretrained(save_directory, *args, **{"save_original_format": False, **kwargs})


def _rename_in_place(module: nn.Module, state_dict: dict[str, torch.Tensor], *_: Any) -> None:
    renamed = module.rename_old_keys(state_dict)
    state_dict.clear()
    state_dict.update(renamed)
