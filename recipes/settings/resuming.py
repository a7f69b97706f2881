"""The setting of the scripts that continue an interrupted output."""

import os
from dataclasses import dataclass

from papers_to_gpt.settings.arguments import CheckedSettings, option


@dataclass(kw_only=True)
class ResumableSettings(CheckedSettings):
    """Whether a command continues what an earlier one has left; subclasses have input_file and output_file."""

    # The settings that name files; a file that is written must be no other.
    files_read = ("input_file",)
    files_written = ("output_file",)

    resume: bool | None = option(
        None,
        "Continue an interrupted output_file after its last finished group of lines; false begins anew, and left out, "
        "an interrupted one is refused. Needs input_file and output_file.",
        "output",
    )

    def __post_init__(self):
        super().__post_init__()
        missing = [name for name in ("input_file", "output_file") if getattr(self, name) is None]
        if self.resume and missing:
            raise ValueError(
                f"resume is true, but {' and '.join(missing)} {'are' if missing[1:] else 'is'} not set: only the way "
                "from one file to another can be resumed. Name both files, or leave resume out."
            )
        self._refuse_overwriting()

    def _refuse_overwriting(self) -> None:
        """Raises ValueError if a file that is written is also read or written under another setting."""
        seen: dict[str, str] = {}
        for setting in (*self.files_read, *self.files_written):
            name = getattr(self, setting)
            path = None if name is None else os.path.realpath(name)
            if path is None or (os.path.exists(path) and not os.path.isfile(path)):  # a device, a pipe or a folder
                continue
            if path in seen and setting in self.files_written:
                raise ValueError(
                    f"{seen[path]} and {setting} are both {name}, which would be overwritten. Name two files."
                )
            seen[path] = setting
