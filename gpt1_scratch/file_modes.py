"""Saved weights get the permissions that the process's umask grants, like every other file of a model's folder.

The packages do not import each other, and each has this file; a test compares them.
"""

import os
import stat
import tempfile
from pathlib import Path
from typing import Any


class SavedWithUmask:
    """A mixin for `PreTrainedModel` classes: `save_pretrained` writes weights with the umask's permissions."""

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            give_umask_permissions(save_directory)


def give_umask_permissions(folder: str | os.PathLike) -> None:
    """Sets the permissions of a folder's weights, the safetensors files of a model, to those of a new file there.

    safetensors writes through a temporary file that only its owner may read, and the permissions stay. Which ones the
    umask grants is read off a new file: to ask for the umask is to change it, for all threads.
    """
    weights = list(Path(folder).glob("*model*.safetensors"))
    if not weights:
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        probe = Path(place, "probe")
        probe.touch()
        permissions = stat.S_IMODE(probe.stat().st_mode)
    for path in weights:
        path.chmod(permissions)
