"""Fixtures and settings for all tests."""

import os
import signal

# Two processes run the suite: threads of both on the same cores would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The files that take longest come first, so that neither process has one left when the other has ended.
LONGEST_FILES = (
    "test_train_translation.py",
    "test_pretrain_gpt1.py",
    "test_hub.py",
    "test_same_command.py",
    "test_process_watch.py",
    "test_launching.py",
    "test_library_arguments.py",
    "test_streaming.py",
    "test_library_version.py",
    "test_finetune_gpt1.py",
    "test_finetuning_runs.py",
)


def pytest_collection_modifyitems(items):
    """Sorts the tests by file, as above; the others keep their order."""
    places = {name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


# A shell lets its background jobs ignore SIGINT, and the processes that the tests start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)
