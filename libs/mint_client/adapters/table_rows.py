"""Reads rows by HF's `datasets`, an extra of the client: Parquet files, Arrow folders and data sets of a hub.

HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean to that library. A hub's rows come as a
stream; offline they come from its cache.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from mint_client.core.refusals import ExtraMissingError, LocalFailureError
from mint_client.core.row_columns import NumberedRows
from mint_client.core.source_names import HubRows

_BATCH = 256


def parquet_rows(path: Path) -> NumberedRows:
    """Yield the rows of a Parquet file. Raises ExtraMissingError, LocalFailureError."""
    _library(path.name)
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        yield from _numbered(file.iter_batches(_BATCH))
    except (pa.ArrowInvalid, OSError) as error:
        problem = f"it is no whole Parquet file ({_first_line(error)}): copy or download it again"
        raise LocalFailureError(what=str(path), problem=problem) from error


def folder_rows(path: Path) -> NumberedRows:
    """Yield the rows of a folder of `save_to_disk`. Raises ExtraMissingError, LocalFailureError."""
    datasets = _library(path.name)
    try:
        found = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        problem = "it is a folder, but none of `save_to_disk`: name one of its files"
        raise LocalFailureError(what=str(path), problem=problem) from error
    if isinstance(found, datasets.DatasetDict):
        splits = ", ".join(str(path / split) for split in found)
        raise LocalFailureError(what=str(path), problem=f"it has splits: name one of {splits}")
    yield from _numbered(found.with_format("arrow").iter(_BATCH))


def hub_rows_of(source: HubRows) -> NumberedRows:
    """Yield the rows of a hub's split. Raises ExtraMissingError, LocalFailureError."""
    datasets = _library(source.text)
    try:
        found = datasets.load_dataset(source.name, source.config or None, split=source.split, streaming=True)
        yield from _numbered(found.with_format("arrow").iter(_BATCH))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise LocalFailureError(what=source.text, problem=_told(error)) from error


def _told(error: BaseException) -> str:
    """Return what went wrong at a hub, by an error and those that it came from."""
    text = " ".join(str(error).split())[:400]
    chain = [error]
    while earlier := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(earlier)
    statuses = {getattr(getattr(each, "response", None), "status_code", 0) for each in chain}
    if "gated" in text or httpx.codes.FORBIDDEN in statuses:
        return "it is gated: accept its terms on its page at the hub, and set HF_TOKEN"
    if "doesn't exist on the Hub" in text or httpx.codes.UNAUTHORIZED in statuses:
        return "the hub shows no such data set: check the name; for a private one set HF_TOKEN"
    return text


def _library(what: str) -> Any:  # the library has no types
    try:
        import datasets  # an extra: plain JSONL needs none
    except ImportError as error:
        raise ExtraMissingError(option=what, package="datasets") from error
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    return datasets


def _numbered(batches: Iterable[Any]) -> NumberedRows:
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows, 1):
        yield number, {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    """Return a value without the nulls that Arrow gives to fields which an object does not have."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
