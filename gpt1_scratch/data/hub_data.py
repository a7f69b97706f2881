"""What may go wrong when the datasets library loads a data set by its name."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def refusing_scripts(dataset: str) -> Iterator[None]:
    """Says what to do about a data set whose rows only a Python script of its own can read.

    The datasets library has not run such scripts since version 4. It says so with a RuntimeError, in which no data set
    is named.

    Args:
        dataset: its id on the Hub or its folder.

    Raises:
        ValueError: the library refused the script.
    """
    try:
        yield
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"dataset_name is {dataset!r}, which is read by a Python script of its own, and the datasets library no "
            "longer runs such scripts. If the data set is on the Hub, set dataset_revision to refs/convert/parquet, "
            "where the Hub keeps most of them as tables; otherwise give its files with train_file."
        ) from error
