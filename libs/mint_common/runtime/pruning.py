"""Old rows go in parts: no statement takes long, however many there are, and others may work in between."""

import asyncpg

from mint_common.runtime.postgres_errors import acquired

PRUNED_AT_ONCE = 5_000
DAY_SECONDS = 86_400.0


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
