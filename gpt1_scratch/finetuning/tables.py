"""Labelled text from files of any usual kind, as columns, with errors that name the file and the line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.text_lines import file_extension

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_NAMED = 5


@dataclass(frozen=True)
class Table:
    """Columns of equal length, and where they come from, for messages.

    Attributes:
        where: the file or data set.
        columns: by name; a `Dataset` reads a column when it is asked for.
    """

    where: str
    columns: "dict[str, list[Any]] | Dataset"

    @property
    def names(self) -> list[str]:
        return list(self.columns) if isinstance(self.columns, dict) else self.columns.column_names

    def values(self, name: str) -> list[Any]:
        """A column; of classes that the data set names, their names, and None for its -1."""
        values, names = self.columns[name][:], self.class_names(name)
        if names is not None:
            return [None if value is None or value < 0 else names[value] for value in values]
        return values

    def class_names(self, name: str) -> list[str] | None:
        """The names of a column's classes, if the data set has them."""
        if isinstance(self.columns, dict):
            return None
        from datasets import ClassLabel

        feature = self.columns.features[name]
        return feature.names if isinstance(feature, ClassLabel) else None


def name_rows(indices: Sequence[int]) -> str:
    """`row 3`, `rows 3, 8` and so on, as a person counts them: from 1, without a header."""
    shown = ", ".join(str(index + 1) for index in indices[:ROWS_NAMED])
    more = f" and {len(indices) - ROWS_NAMED:,} more" if len(indices) > ROWS_NAMED else ""
    return f"row{'s' if len(indices) > 1 else ''} {shown}{more} (counted from 1, without a header)"


def read_table(path: str | Path) -> Table:
    """Reads a file of rows; its extension tells the kind (see `gpt1_scratch.data.readers`).

    Values of CSV and TSV are text, empty where nothing stands; others have the file's types. A column that some rows
    of JSON do not have is None there.

    Raises:
        ValueError: a file that is missing, empty, of another kind, not UTF-8 or malformed; the message names the line.
    """
    # Here, as it takes a second: predictions for lines of text need none of it.
    import pyarrow
    from datasets import Dataset
    from datasets.table import InMemoryTable

    from ..data.readers import parquet_tables, table_rows

    if file_extension(path) == ".parquet":
        return Table(str(path), Dataset(InMemoryTable(pyarrow.concat_tables(parquet_tables(path)))))
    rows = [row for _, row in table_rows(path)]
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(str(path), {name: [row.get(name) for row in rows] for name in names})
