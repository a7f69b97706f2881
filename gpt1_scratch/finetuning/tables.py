"""Reads labelled text from files into columns, with errors that name the file and the line."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.text_lines import FilePlace, file_extension

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

ROWS_NAMED = 5

# The names that programs give to a column of row names: R, and pandas in CSV, pandas when it reads this, in parquet.
NAMES_OF_INDEXES = re.compile(r"|Unnamed: \d+|__index_level_\d+__")


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        where: the file or data set that they come from, for error messages.
        columns: the columns by name; a `Dataset` reads a column when it is used.
        first: number of rows of the file before these.
        indexes: the columns that pandas has stored as the index of the rows.
    """

    where: str
    columns: "dict[str, list[Any]] | Dataset"
    first: int = 0
    indexes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return list(self.columns) if isinstance(self.columns, dict) else self.columns.column_names

    def values(self, name: str) -> list[Any]:
        """Returns a column. If the data set names its classes, the values are these names, and None for -1."""
        values, names = self.columns[name][:], self.class_names(name)
        if names is None:
            return values

        def name_of(value: Any) -> Any:
            if isinstance(value, list):
                return list(map(name_of, value))
            return None if value is None or value < 0 else names[value]

        return list(map(name_of, values))

    def is_index(self, name: str) -> bool:
        """Returns True if a column holds the names of the rows."""
        return name in self.indexes or NAMES_OF_INDEXES.fullmatch(name) is not None

    def class_names(self, name: str) -> list[str] | None:
        """Returns the names of the classes of a column, or of its lists; None if the data set has none."""
        if isinstance(self.columns, dict):
            return None
        from datasets import ClassLabel

        feature = self.columns.features[name]
        feature = getattr(feature, "feature", feature)  # of the elements of a list
        return feature.names if isinstance(feature, ClassLabel) else None


def name_rows(indices: Sequence[int]) -> str:
    """Returns text such as `rows 3, 8`, with rows counted from 1 and without the header."""
    shown = ", ".join(str(index + 1) for index in indices[:ROWS_NAMED])
    more = f" and {len(indices) - ROWS_NAMED:,} more" if len(indices) > ROWS_NAMED else ""
    return (
        f"row{'s' if len(indices) > 1 else ''} {shown}{more} (counted from 1, without a header or skipped blank lines)"
    )


def read_table(path: str | Path) -> Table:
    """Reads a table. The extension decides how it is parsed (see `gpt1_scratch.data.readers`).

    Values of CSV and TSV are text, and empty fields are empty text. Other values have the types of the file. If some
    rows of JSON do not have a column, its value is None there.

    Raises:
        ValueError: if the file is missing, empty, of another kind, not UTF-8 or malformed; the message names the line.
    """
    # These imports take a second, and predictions for lines of text do not need them.
    import pyarrow

    from ..data.readers import parquet_tables, table_rows

    if file_extension(path) == ".parquet":
        table = pyarrow.concat_tables(parquet_tables(path))
        indexes = (table.schema.pandas_metadata or {}).get("index_columns", [])
        # An index of numbers from 0 is no column, but an object that describes it.
        names = tuple(name for name in indexes if isinstance(name, str))
        return Table(str(path), _as_dataset(table), indexes=names)
    rows = [row for _, row in table_rows(path)]
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(str(path), {name: [row.get(name) for row in rows] for name in names})


def _as_dataset(table: "pyarrow.Table") -> "Dataset":
    """Returns a data set, without columns of types that it cannot have, such as maps: they hold no text or label."""
    import pyarrow
    from datasets import Dataset, Features
    from datasets.table import InMemoryTable

    for field in table.schema:
        try:
            Features.from_arrow_schema(pyarrow.schema([field]))
        except ValueError:
            table = table.drop_columns(field.name)
    return Dataset(InMemoryTable(table))


def groups_of_rows(
    path: str | Path, largest: int, columns: Sequence[str], first: int = 0, place: FilePlace | None = None
) -> Iterator[Table]:
    """Yields the rows of a table group by group, so that memory does not grow with a file (see `read_table`).

    Only a JSON list is read as a whole.

    Args:
        path: the file.
        largest: largest number of rows of a group.
        columns: columns that later rows of JSON may lack if earlier ones have them; their value is None there.
        first: number of rows before those that are read.
        place: where to begin in the file; while a group is used, it is behind the group's last row.

    Raises:
        ValueError: as of `read_table`.
    """
    place = place or FilePlace()
    if file_extension(path) == ".parquet":
        # This import takes a second, and lines of text do not need it.
        from ..data.readers import parquet_tables

        for rows in parquet_tables(path, places=[place]):
            yield Table(str(path), _as_dataset(rows), first)
            first += len(rows)
        return
    from ..data.readers import table_rows

    numbered = table_rows(path, place)
    while group := [row for _, row in itertools.islice(numbered, largest)]:
        names = dict.fromkeys(name for row in group for name in row)
        if first:
            names |= dict.fromkeys(columns)
        yield Table(str(path), {name: [row.get(name) for row in group] for name in names}, first)
        first += len(group)
