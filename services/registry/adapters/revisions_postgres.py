"""Revisions in Postgres: look-ups by index, and the statements of a publication."""

from collections.abc import Sequence

import asyncpg

from mint_common.catalog import RevisionFilter, RevisionRecord
from mint_common.claims import RevisionRef
from mint_common.errors import Unavailable
from mint_common.events import RevisionExported
from mint_common.ids import Digest, PolicyId
from mint_common.names import BEST
from mint_common.runtime.ledger_postgres import PostgresTransaction
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.rows import found, read_revision, ref_of
from services.registry.core.blob_integrity import folder_of, healed
from services.registry.core.exports import Refusal
from services.registry.core.lineage import Reach, Relative

# A revision that was trained on samples has the mean reward of these, which its parent gave.
_REWARD = """(
    SELECT avg((child.metrics ->> 'reward_mean')::float8) FROM revisions child
    WHERE child.policy_id = revisions.policy_id AND child.parent = revisions.digest
        AND child.metrics ? 'reward_mean' AND child.metrics ? 'ratio_max_error'
) AS reward"""
_REVISIONS = f"""
    SELECT *, {_REWARD} FROM revisions
    WHERE policy_id = $1 AND number > $2 AND ($4::text IS NULL OR state = $4)
        AND ($5::timestamptz IS NULL OR created_at >= $5) AND ($6::timestamptz IS NULL OR created_at < $6)
    ORDER BY number LIMIT $3
"""  # noqa: S608  # a constant
_BEST = """
    SELECT revisions.*, reward FROM revisions JOIN (
        SELECT parent, avg((metrics ->> 'reward_mean')::float8) AS reward, max(number) AS last
        FROM revisions WHERE policy_id = $1 AND metrics ? 'reward_mean' AND metrics ? 'ratio_max_error'
        GROUP BY parent
    ) AS sampled ON revisions.digest = sampled.parent
    WHERE policy_id = $1 AND state = 'published' AND fault IS NULL
    ORDER BY reward DESC, last DESC LIMIT 1
"""
# A revision has one parent, so its descendants are a tree. Only parents that name each other make a cycle:
# such a line ends at the revision itself, or at the distance that was asked for.
_RELATED = """
    WITH RECURSIVE line AS (
        SELECT r.*, 0 AS distance FROM revisions r WHERE policy_id = $1 AND number = $2
        UNION ALL
        SELECT r.*, distance - 1 FROM line JOIN revisions r
        ON r.policy_id = $1 AND r.digest = line.parent AND r.number <> $2 WHERE distance > -$3::integer
    ), tree AS (
        SELECT r.*, 0 AS distance FROM revisions r WHERE policy_id = $1 AND number = $2
        UNION ALL
        SELECT r.*, distance + 1 FROM tree JOIN revisions r
        ON r.policy_id = $1 AND r.parent = tree.digest AND r.number <> $2 WHERE distance < $4::integer
    )
    SELECT * FROM (SELECT * FROM line UNION ALL SELECT * FROM tree) relatives
    WHERE distance <> 0 ORDER BY abs(distance), distance, number LIMIT $5
"""
_TAKE_FOLDER = "DELETE FROM garbage WHERE prefix = $1 RETURNING is_going"
_HEAL = """
    UPDATE revisions SET fault = NULL, changes = changes + 1, manifest_uri = $3, manifest_sha256 = $4,
        manifest_size_bytes = $5
    WHERE policy_id = $1 AND digest = $2 AND fault IS NOT NULL RETURNING *
"""
_APPEND = """
    INSERT INTO revisions (policy_id, digest, manifest_uri, manifest_sha256, manifest_size_bytes, parent,
                           step, metrics, job_id, wave_id, export_id, created_at, number)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
            coalesce((SELECT max(number) FROM revisions WHERE policy_id = $1), 0) + 1)
    ON CONFLICT (policy_id, digest) DO NOTHING
"""
_FOUND = "SELECT * FROM revisions WHERE policy_id = $1 AND digest = $2"
_SETTLE = """
    INSERT INTO exports (tenant_id, policy_id, export_id, digest, number, code, reason, settled_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING
"""


async def find_revision(
    database: "asyncpg.Pool | PostgresConnection", policy_id: PolicyId, key: int | Digest
) -> RevisionRecord:
    """Return a revision by number or digest. Raises NotFound."""
    column = "number" if isinstance(key, int) else "digest"
    row = await database.fetchrow(
        f"SELECT *, {_REWARD} FROM revisions WHERE policy_id = $1 AND {column} = $2",  # noqa: S608  # constants
        policy_id,
        key,
    )
    return read_revision(found(row, "revision", str(key)), RevisionRecord)


async def find_best(pool: asyncpg.Pool, policy_id: PolicyId) -> RevisionRecord:
    """Return the revision whose samples got the highest mean reward. Raises NotFound."""
    row = await pool.fetchrow(_BEST, policy_id)
    return read_revision(found(row, "revision", BEST), RevisionRecord)


async def list_revisions(
    pool: asyncpg.Pool, policy_id: PolicyId, wanted: RevisionFilter, *, limit: int, after: int
) -> Sequence[RevisionRecord]:
    """Return a page of a policy's revisions by number."""
    selected = (wanted.state, wanted.created_after, wanted.created_before)
    rows = await pool.fetch(_REVISIONS, policy_id, after, limit, *selected)
    return [read_revision(row, RevisionRecord) for row in rows]


async def find_related(
    pool: asyncpg.Pool, policy_id: PolicyId, number: int, reach: Reach, *, limit: int
) -> Sequence[Relative]:
    """Return a revision's ancestors and descendants within reach, nearest first, ``limit`` in all."""
    rows = await pool.fetch(_RELATED, policy_id, number, reach.ancestors, reach.descendants, limit)
    return [Relative(revision=read_revision(row, RevisionRecord), distance=row["distance"]) for row in rows]


async def publish_export(
    transaction: PostgresTransaction, export: RevisionExported, *, now: float
) -> RevisionRef:
    """Publish a checked export to its locked policy; return its revision.

    Emits the event of a lost revision that it heals. Raises Unavailable when its folder is being removed.
    """
    connection = transaction.connection
    if await connection.fetchval(_TAKE_FOLDER, folder_of(export.manifest)):
        # The check has read its bytes; a retry finds them gone and rejects the export.
        raise Unavailable(what="the export's folder", problem="it is being removed as garbage")
    manifest = export.manifest
    stored = (export.policy_id, export.digest, manifest.uri, manifest.sha256, manifest.size_bytes)
    row = await connection.fetchrow(_HEAL, *stored)
    if row is not None:
        await transaction.emit(healed(export, ref_of(row), sequence=row["changes"]))
    else:
        made = (export.parent, export.step, export.metrics, export.job_id, export.wave_id, export.export_id)
        await connection.execute(_APPEND, *stored, *made, now)
        row = await connection.fetchrow(_FOUND, export.policy_id, export.digest)
    ref = ref_of(row)
    await store_verdict(connection, export, ref, now=now)
    return ref


async def store_verdict(
    connection: PostgresConnection, export: RevisionExported, verdict: RevisionRef | Refusal, *, now: float
) -> None:
    """Store the revision that an export became, or why it is not published."""
    key = (export.tenant_id, export.policy_id, export.export_id, export.digest)
    if isinstance(verdict, Refusal):
        await connection.execute(_SETTLE, *key, None, verdict.code, verdict.reason, now)
    else:
        await connection.execute(_SETTLE, *key, verdict.number, None, None, now)
