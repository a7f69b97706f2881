"""What may go wrong when the datasets library loads a data set by its name.

The packages do not import each other, and each has this file; a test compares them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

# What to do where settings name the data set.
SETTINGS_FOR_TABLES = (
    "If the data set is on the Hub, set dataset_revision to refs/convert/parquet, where the Hub keeps most of them as "
    "tables; otherwise give its files with train_file."
)


@contextlib.contextmanager
def explain_loading_errors(
    dataset: str, *, setting: str = "dataset_name", remedy: str = SETTINGS_FOR_TABLES
) -> Iterator[None]:
    """Says what to do about a data set that cannot be reached, has a damaged file, or is read by a script of its own.

    The datasets library has not run such scripts since version 4. It says so with a RuntimeError, in which no data set
    is named.

    Args:
        dataset: its id on the Hub or its folder.
        setting: what the message says has this id.
        remedy: a sentence that says what to do about a script.

    Raises:
        ValueError: the Hub cannot be reached, the library refused the script, or it could not read a file.
    """
    _check_reachable(dataset, setting)
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowInvalid

    try:
        yield
    except (DatasetGenerationError, ArrowInvalid) as error:
        raise ValueError(
            f"{setting} is {dataset!r}, and one of its files cannot be read: {error.__cause__ or error}. Correct the "
            "file, or give the files with train_file, whose messages name file and line."
        ) from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"{setting} is {dataset!r}, which is read by a Python script of its own, and the datasets library no "
            f"longer runs such scripts. {remedy}"
        ) from error


def _check_reachable(dataset: str, setting: str) -> None:
    """Raises ValueError if a data set is not in the cache and the Hub cannot be reached.

    The library finds this out too, but repeats its request for half a minute.
    """
    # These imports take a second, and a file does not need them.
    import huggingface_hub
    from datasets import config
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    *owner, name = dataset.split("/")
    cached = Path(config.HF_DATASETS_CACHE, "___".join([*owner, camelcase_to_snakecase(name)]))
    is_offline = huggingface_hub.constants.HF_HUB_OFFLINE or config.HF_HUB_OFFLINE  # or HF_DATASETS_OFFLINE
    if is_offline or Path(dataset).is_dir() or cached.is_dir():
        return
    try:
        huggingface_hub.HfApi(endpoint=config.HF_ENDPOINT).file_exists(dataset, "README.md", repo_type="dataset")
    except (HfHubHTTPError, HFValidationError):
        return  # the Hub answers, or the name is no id; loading says what is wrong
    except HTTPError as error:
        raise ValueError(
            f"{setting} is {dataset!r}. There is no such folder, and {config.HF_ENDPOINT} cannot be reached "
            f"({error}), which may have a data set of this name. Correct the name, connect to the network, or give "
            "the data as files."
        ) from error
