"""Translate asyncpg's errors of an unreachable server to Unavailable."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias, cast

import asyncpg

from mint_common.errors import Unavailable, plain_problem

PostgresConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
"""A connection of a pool (in fact asyncpg's proxy of it)."""

_CLOSED = re.compile(r"clos(ed|ing)|released|lost")
_OUTAGES = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.TooManyConnectionsError,
    asyncpg.TransactionRollbackError,
    asyncpg.InternalClientError,
    ConnectionError,
    TimeoutError,
)


@contextmanager
def translating_errors() -> Iterator[None]:
    """Turn trouble with the server into Unavailable. Wrap calls of the database only: any OSError counts."""
    try:
        yield
    except Exception as error:
        if is_outage(error) or isinstance(error, OSError):
            raise unavailable(error) from error
        raise


@contextmanager
def translating_outages() -> Iterator[None]:
    """Do the same around other work on an open connection, without converting OSErrors of files."""
    try:
        yield
    except Exception as error:
        if is_outage(error):
            raise unavailable(error) from error
        raise


@asynccontextmanager
async def acquired(pool: asyncpg.Pool) -> AsyncIterator[PostgresConnection]:
    """Borrow a connection; trouble with the server while taking, using or returning it is Unavailable."""
    with translating_errors():
        connection = await pool.acquire()
    try:
        with translating_outages():
            yield cast(PostgresConnection, connection)
    finally:
        with translating_errors():
            await pool.release(connection)


def is_outage(error: BaseException) -> bool:
    """Return whether an error of an open connection says that the server is away, or that a retry helps."""
    # asyncpg has one class for wrong use of its API and for connections that broke and went back to the pool.
    closed = isinstance(error, asyncpg.InterfaceError) and _CLOSED.search(str(error))
    return bool(closed) or isinstance(error, _OUTAGES)


def unavailable(error: BaseException) -> Unavailable:
    """Return what to raise for an outage."""
    return Unavailable(what="postgres", problem=_problem(error))


def _problem(error: BaseException) -> str:
    is_said_by_server = isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError) and str(error)
    return str(error) if is_said_by_server else plain_problem(error)
