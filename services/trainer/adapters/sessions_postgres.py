"""Sessions in Postgres, in the schema ``trainer``."""

from typing import TypeAlias

import asyncpg
import msgspec

from mint_common.errors import Unavailable
from mint_common.events import WaveCompleted
from mint_common.ids import BaseName, JobId, PolicyId
from mint_common.training import PolicyTaken
from services.trainer.core.session import Session

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_COLUMNS = "policy_id, tenant_id, base, lora, step, checkpoint, digest, parent, waves"
ONE_WRITER = "SELECT pg_advisory_xact_lock(hashtextextended('mint_policy_' || $1, 0))"
"""Taken to insert a policy's first row, of either kind."""
OPERATIONS, WAVES = "operations", "managed jobs"
_DRIVEN = "SELECT 1 FROM training WHERE policy_id = $1"


class PostgresSessions:
    """`SessionStore` of one base over a pool whose connections decode jsonb."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, base: BaseName) -> None:
        self._pool = pool
        self._base = base

    async def get(self, policy_id: PolicyId) -> Session | None:
        """Return a policy's session."""
        row = await self._pool.fetchrow(f"SELECT {_COLUMNS} FROM sessions WHERE policy_id = $1", policy_id)  # noqa: S608  # constants
        if row is not None:
            return _session(row)
        if await self._pool.fetchval(_DRIVEN, policy_id):
            raise PolicyTaken(policy_id=policy_id, by=OPERATIONS)
        return None

    async def trained_step(self, job_id: JobId) -> int:
        """Return a job's last trained step."""
        query = "SELECT coalesce(max(job_step), 0) FROM waves WHERE job_id = $1"
        return int(await self._pool.fetchval(query, job_id))

    async def list(self) -> list[Session]:
        """Return the sessions of the base."""
        query = f"SELECT {_COLUMNS} FROM sessions WHERE base = $1 ORDER BY policy_id"  # noqa: S608  # constants
        return [_session(row) for row in await self._pool.fetch(query, self._base)]

    async def save(
        self, connection: Connection, before: Session, after: Session, wave: WaveCompleted
    ) -> None:
        """Write a session and its wave; the number of waves tells whether somebody else wrote in between."""
        checkpoint = None if after.checkpoint is None else msgspec.to_builtins(after.checkpoint)
        if before.waves == 0:
            await connection.execute(ONE_WRITER, after.policy_id)
            if await connection.fetchval(_DRIVEN, after.policy_id):
                raise PolicyTaken(policy_id=after.policy_id, by=OPERATIONS)
            status = await connection.execute(
                f"INSERT INTO sessions ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"  # noqa: S608  # constants
                " ON CONFLICT DO NOTHING",
                after.policy_id,
                after.tenant_id,
                after.base,
                msgspec.to_builtins(after.lora),
                after.step,
                checkpoint,
                after.digest,
                after.parent,
                after.waves,
            )
        else:
            status = await connection.execute(
                "UPDATE sessions SET step = $3, checkpoint = $4, digest = $5, parent = $6, waves = $7,"
                " updated_at = now() WHERE policy_id = $1 AND waves = $2",
                after.policy_id,
                before.waves,
                after.step,
                checkpoint,
                after.digest,
                after.parent,
                after.waves,
            )
        if not status.endswith(" 1"):
            problem = f"another trainer moved policy {after.policy_id} on"
            raise Unavailable(what="the training session", problem=problem)
        await connection.execute(
            "INSERT INTO waves (wave_id, policy_id, job_id, job_step, session_step, digest)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            wave.wave_id,
            wave.policy_id,
            wave.job_id,
            wave.step,
            after.step,
            after.digest,
        )


def _session(row: asyncpg.Record) -> Session:
    return msgspec.convert(dict(row), Session)
