"""Tasks that are loaded from files of rows or made of stories, and small blocks of the CPU's kernels."""

import pytest
from task_files import write

from gpt1_scratch import chunked_cross_entropy, cpu_kernels
from gpt1_scratch.finetuning.inference import ColumnOverrides
from gpt1_scratch.finetuning.loading import load_task
from gpt1_scratch.stories.tasks import STORY_TASKS, load_story_task


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


@pytest.fixture
def small_blocks(monkeypatch):
    """Sets attention to blocks of 8 queries of one sample, and the loss to chunks of 7 rows."""
    monkeypatch.setattr(cpu_kernels, "QUERY_BLOCK_SIZE", 8)
    monkeypatch.setattr(cpu_kernels, "ATTENTION_CHUNK_SIZE", 1)
    monkeypatch.setattr(chunked_cross_entropy, "LOGIT_CHUNK_SIZE", {"cpu": 7})


@pytest.fixture(scope="session")
def tasks():
    """The tasks that are made of stories."""
    return {name: load_story_task(name, train_size=1_500, validation_size=100, test_size=400) for name in STORY_TASKS}
