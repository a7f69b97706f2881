"""Gives saved weights the permissions of the umask, like those of all other files in a model's folder.

The packages do not import each other, and each has this file; a test compares them.
"""

import os
import stat
import tempfile
from pathlib import Path
from typing import Any


class SavedWithUmask:
    """A mixin for `PreTrainedModel` classes whose `save_pretrained` writes weights with the umask's permissions."""

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            give_umask_permissions(save_directory)


def give_umask_permissions(folder: str | os.PathLike) -> None:
    """Sets the permissions of a folder's weights (safetensors files) to those of a new file.

    safetensors writes weights as a temporary file that only its owner may read, and keeps these permissions. The
    permissions to set are read from a new file, because Python can only read the umask by changing it for all threads.
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
