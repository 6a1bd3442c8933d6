"""Opens a source of rows by its name: a file, an Arrow folder, or a data set of a hub."""

from dataclasses import dataclass
from pathlib import Path

from mint_client.adapters.table_rows import folder_rows, hub_rows_of, parquet_rows
from mint_client.adapters.text_rows import text_rows
from mint_client.core.row_columns import NumberedRows
from mint_client.core.source_names import file_kind, hub_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRows:
    """A source of rows.

    ``path`` is that of a file which may be sent as it is, if its rows need no conversion.
    """

    kind: str
    stem: str
    rows: NumberedRows
    path: Path | None = None


def open_source(name: str) -> OpenedRows:
    """Open a source. Raises OSError, InvalidField, ExtraMissingError, LocalFailureError."""
    hub = hub_rows(name)
    if hub is not None:
        return OpenedRows(kind="hub", stem=hub.stem, rows=hub_rows_of(hub))
    path = Path(name)
    if path.is_dir():
        return OpenedRows(kind="Arrow folder", stem=path.absolute().name, rows=folder_rows(path))
    path.stat()
    found = file_kind(path.name)
    shown = f"{found.kind}, {found.compression}" if found.compression else found.kind
    is_plain = shown == "JSONL"
    rows = parquet_rows(path) if found.kind == "Parquet" else text_rows(path, found)
    return OpenedRows(kind=shown, stem=found.stem, rows=rows, path=path if is_plain else None)
