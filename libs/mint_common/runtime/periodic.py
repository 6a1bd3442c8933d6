"""Periodic work such as pruning: an outage skips one run, and never ends the process."""

import logging
from collections.abc import Awaitable, Callable

import asyncpg

from mint_common.errors import Unavailable
from mint_common.runtime.clock import Clock
from mint_common.runtime.postgres_errors import acquired
from mint_common.waiting import raise_if_cancelled

_log = logging.getLogger(__name__)

PRUNED_AT_ONCE = 5_000


async def run_periodically(
    work: Callable[[], Awaitable[None]], *, name: str, every_seconds: float, clock: Clock
) -> None:
    """Do the work now and after each pause, until cancelled. A turn that finds a server away is left out."""
    while True:
        try:
            await work()
        except Unavailable as error:
            raise_if_cancelled()
            _log.warning("periodic work left out", extra={"work": name, "problem": str(error)})
        await clock.sleep(every_seconds)


async def prune_rows(
    pool: asyncpg.Pool, table: str, where: str, *arguments: object, at_once: int = PRUNED_AT_ONCE
) -> int:
    """Delete all rows of a table that match a condition, and return their number; ``where`` is trusted SQL.

    Several processes may do so at once. Raises Unavailable; earlier deletions stay.
    """
    query = f"""
        DELETE FROM {table} WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {table} WHERE {where} LIMIT {at_once} FOR UPDATE SKIP LOCKED
        ))
    """  # noqa: S608  # texts of our own
    pruned, part = 0, at_once
    while part == at_once:
        async with acquired(pool) as connection:
            part = int((await connection.execute(query, *arguments)).removeprefix("DELETE "))
        pruned += part
    return pruned
