"""Postgres for one service: a pool that outlives the server.

Connection trouble surfaces as Unavailable. The pool drops dead connections by itself, so the next operation
after the server is back works.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import asyncpg
import msgspec

from mint_common.errors import NotFound, SettingInvalid, Unavailable
from mint_common.runtime.migration import migrate
from mint_common.runtime.postgres_errors import translating_errors
from mint_common.runtime.postgres_hosts import HostChoice
from mint_common.settings import DSN_FORM

__all__ = ["Row", "from_row", "migrate", "open_pool", "refusing_login", "translating_errors"]

T = TypeVar("T")
Row = asyncpg.Record | Mapping[str, Any]  # Any: columns of all kinds

START_SECONDS = 30.0
"""Time that `open_pool` waits for a server that is starting."""
CONNECT_SECONDS = 5.0
"""Time limit of a connection to one server."""
COMMAND_SECONDS = 30.0
"""Time limit of one statement, waits for locks included."""
LOST_CLIENT = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "8000",
}
"""Settings by which the server ends a session within 11 s of a cut link, and releases its locks.

Keepalives do not run while an answer is unacknowledged: `tcp_user_timeout` (milliseconds) covers that.
"""
_YEAR_2000_MICROSECONDS = 946_684_800 * 10**6
"""Origin of Postgres's timestamps, in microseconds since the epoch."""
_REFUSALS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ClientConfigurationError,
)
"""Errors of a login: a wrong password, no such database, no right to connect to it, a wrong parameter."""


async def open_pool(
    dsn: str,
    *,
    schema: str,
    max_size: int = 6,
    resets: bool = True,
    settings: Mapping[str, str] | None = None,
) -> asyncpg.Pool:
    """Connect with ``schema`` as the search path, jsonb as Python values, timestamptz as Unix time.

    Waits for a server that is still starting. Its one-shot calls (`fetch`, `execute`, ...) raise Unavailable
    when the server is down; wrap calls through `acquire` in `translating_errors`. A released connection is
    reset, which is a round trip to the server; without ``resets`` its users must leave no state
    in a session (locks, settings, listeners). ``settings`` are the server's, for all its connections.
    Several hosts of ``dsn`` are a primary and its standbys: connections go to the one that takes writes.
    Raises Unavailable, and SettingInvalid when ``dsn`` is invalid or the server refuses the login.
    """
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        try:
            with refusing_login(), translating_errors():
                return await _ServicePool(
                    dsn,
                    min_size=1,
                    max_size=max_size,
                    max_queries=50_000,
                    max_inactive_connection_lifetime=300.0,
                    loop=None,
                    init=_prepare_connection,
                    reset=None if resets else _leave,
                    connect=HostChoice(dsn).connect,
                    connection_class=asyncpg.Connection,
                    record_class=asyncpg.Record,
                    server_settings={
                        "search_path": schema,
                        "application_name": f"mint-{schema}",
                        **LOST_CLIENT,
                        **(settings or {}),
                    },
                    timeout=CONNECT_SECONDS,
                    command_timeout=COMMAND_SECONDS,
                )
        except Unavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)


@contextmanager
def refusing_login() -> Iterator[None]:
    """Raise SettingInvalid when an address cannot be read or the server refuses the login. Wrap a connect."""
    try:
        yield
    except _REFUSALS as error:
        raise SettingInvalid(name="MINT_POSTGRES_DSN", problem=str(error)) from error
    except ValueError:
        # For example a "/" in the password: the error's text quotes the rest of the password as the port.
        raise SettingInvalid(name="MINT_POSTGRES_DSN", problem=DSN_FORM) from None


def from_row(row: Row, kind: type[T]) -> T:
    """Return a row as a dataclass with fields of the columns' names; columns that it lacks are left out."""
    return msgspec.convert(dict(row), kind)


class _ServicePool(asyncpg.Pool):
    """A pool whose one-shot calls raise Unavailable. Any: the signatures are asyncpg's own."""

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        with translating_errors():
            return await super().execute(*args, **kwargs)

    async def executemany(self, *args: Any, **kwargs: Any) -> Any:
        with translating_errors():
            return await super().executemany(*args, **kwargs)

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        with translating_errors():
            return await super().fetch(*args, **kwargs)

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        with translating_errors():
            return await super().fetchrow(*args, **kwargs)

    async def fetchval(self, *args: Any, **kwargs: Any) -> Any:
        with translating_errors():
            return await super().fetchval(*args, **kwargs)


async def _leave(_connection: asyncpg.Connection) -> None:
    """Give a connection back as it is."""


async def _prepare_connection(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads, format="text"
    )
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_moment, decoder=_seconds, format="tuple"
    )


def _moment(seconds: float) -> tuple[int]:
    return (round(seconds * 1e6) - _YEAR_2000_MICROSECONDS,)


def _seconds(moment: tuple[int]) -> float:
    return (moment[0] + _YEAR_2000_MICROSECONDS) / 1e6


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
