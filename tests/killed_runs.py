"""Makes a run that was killed out of one that has ended."""

from pathlib import Path

import yaml


def forget_the_end(folder: Path) -> None:
    """Removes the mark that a run writes last, so that the run counts as one that was killed before its end."""
    path = folder / "run.yaml"
    record = yaml.safe_load(path.read_text(encoding="utf-8"))
    del record["finished"]
    path.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
