"""Tasks that are loaded from files of rows."""

import pytest
from task_files import write

from gpt1_scratch.finetuning.inference import ColumnOverrides
from gpt1_scratch.finetuning.loading import load_task


@pytest.fixture
def own(tmp_path):
    """Loads a user's task from rows for training and validation."""

    def load(train, validation=None, header=("text", "label"), extension=".csv", test=None, **columns):
        files = {"train": train, "validation": validation, "test": test}
        paths = {
            f"{split}_file": write(tmp_path / f"{split}{extension}", rows, header)
            for split, rows in files.items()
            if rows is not None
        }
        return load_task(**paths, own_columns=ColumnOverrides(**columns))

    return load
