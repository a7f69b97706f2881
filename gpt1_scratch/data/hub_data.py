"""What may go wrong when the datasets library loads a data set by its name."""

import contextlib
from collections.abc import Iterator

# What to do where settings name the data set.
SETTINGS_FOR_TABLES = (
    "If the data set is on the Hub, set dataset_revision to refs/convert/parquet, where the Hub keeps most of them as "
    "tables; otherwise give its files with train_file."
)


@contextlib.contextmanager
def refusing_scripts(
    dataset: str, *, setting: str = "dataset_name", remedy: str = SETTINGS_FOR_TABLES
) -> Iterator[None]:
    """Says what to do about a data set whose rows only a Python script of its own can read.

    The datasets library has not run such scripts since version 4. It says so with a RuntimeError, in which no data set
    is named.

    Args:
        dataset: its id on the Hub or its folder.
        setting: what the message says has this id.
        remedy: a sentence that says what to do.

    Raises:
        ValueError: the library refused the script.
    """
    try:
        yield
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"{setting} is {dataset!r}, which is read by a Python script of its own, and the datasets library no "
            f"longer runs such scripts. {remedy}"
        ) from error
