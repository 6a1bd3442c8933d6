"""Records as rows of Postgres: each field is a column of its name, jsonb where it is nested itself."""

from dataclasses import fields
from typing import Any, TypeVar

import asyncpg
import msgspec

from mint_common.errors import NotFound
from mint_common.runtime.postgres import from_row

T = TypeVar("T")


def columns_of(shape: Any) -> str:  # a dataclass or a struct
    """Return a record's columns as a query lists them."""
    return ", ".join(_names(shape))


def insert_of(table: str, shape: Any, *more: str) -> str:  # as above
    """Return the statement that inserts what `values_of` returns, then values of the columns ``more``."""
    names = [*_names(shape), *more]
    numbers = ", ".join(f"${number}" for number in range(1, len(names) + 1))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({numbers})"  # noqa: S608  # names of our own


def values_of(record: object) -> list[Any]:  # what asyncpg takes
    """Return a record's values in the order of its columns."""
    values = (getattr(record, name) for name in _names(type(record)))
    return [msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview)) for value in values]


def found_record(row: asyncpg.Record | None, shape: type[T], *, kind: str, name: str) -> T:
    """Return a row as a record. Raises NotFound for None."""
    if row is None:
        raise NotFound(kind=kind, name=name[:100])
    return from_row(row, shape)


def _names(shape: Any) -> tuple[str, ...]:  # as above
    struct_fields: tuple[str, ...] | None = getattr(shape, "__struct_fields__", None)
    return struct_fields or tuple(field.name for field in fields(shape))
