"""Hands the rows of files, uploads and jobs that the previous version stored here to rollout.

Needed for one minor version. The rows stay here, unread, for a rollback. Rows that processes of the previous
version write during an upgrade are handed over within seconds.
"""

import logging
from collections.abc import Mapping, Sequence

import asyncpg
import msgspec

from mint_common.client.http import InternalHttp
from mint_common.errors import MintError, PeerFailed, Unavailable
from mint_common.json_types import JsonObject
from mint_common.runtime.clock import Clock

_log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
ROWS_AT_ONCE = 200
_KEYS: Mapping[str, str] = {
    "file_blobs": "sha256",
    "files": "file_id",
    "file_uploads": "upload_id",
    "file_upload_parts": "part_id",
    "submissions": "job_id",
    "removed_files": "file_id",
}
"""Tables with their keys; each table comes after those that it references."""


class Handover:
    """See the module."""

    def __init__(self, pool: asyncpg.Pool, rollout: InternalHttp) -> None:
        self._pool = pool
        self._rollout = rollout
        self._is_done = False

    def check_done(self) -> None:
        """Refuse requests about jobs and files until all rows are at rollout. Raises Unavailable."""
        if not self._is_done:
            raise Unavailable(what="rollout", problem="it has not taken over the stored jobs and files yet")

    async def run(self, clock: Clock) -> None:
        """Hand over until cancelled."""
        while True:
            await self.hand_over()
            await clock.sleep(EVERY_SECONDS if self._is_done else EVERY_SECONDS / 10)

    async def hand_over(self) -> None:
        """Hand over the remaining rows, as far as rollout accepts them now."""
        try:
            for table, key in _KEYS.items():
                await self._table(table, key)
        except MintError as error:  # rollout is down, or still the previous version
            _log.warning("jobs and files not handed over yet", extra={"problem": str(error)})
        else:
            self._is_done = True

    async def _table(self, table: str, key: str) -> None:
        left = f"SELECT to_jsonb({table}) - 'spec' AS found FROM {table} WHERE NOT is_moved AND {key} > $1"  # noqa: S608  (constants)
        after = ""
        while rows := await self._pool.fetch(f"{left} ORDER BY {key} LIMIT {ROWS_AT_ONCE}", after):
            found = [row["found"] for row in rows]
            after = found[-1][key]
            taken = await self._send(table, key, found)
            await self._pool.execute(
                f"UPDATE {table} SET is_moved = true WHERE {key} = ANY ($1)",  # noqa: S608  (constants)
                taken,
            )

    async def _send(self, table: str, key: str, rows: Sequence[JsonObject]) -> list[str]:
        """Return the keys of the rows that rollout took. A row that it cannot store blocks no other."""
        try:
            answer = await self._rollout.post(
                "/internal/handover", {"table": table, "key": key, "rows": rows}
            )
        except PeerFailed as error:
            half = len(rows) // 2
            if half:
                return [
                    *await self._send(table, key, rows[:half]),
                    *await self._send(table, key, rows[half:]),
                ]
            facts = {"table": table, "key": rows[0][key], "problem": str(error)}
            _log.error("row not handed over", extra=facts)
            return []
        return msgspec.convert(answer, list[str])
