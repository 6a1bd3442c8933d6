"""Revisions in Postgres: look-ups by index, and the statements of a publication.

Many revisions are published in one statement each: arrays go in, sets come out.
"""

from collections.abc import Sequence

import asyncpg

from mint_common.catalog import RevisionFilter, RevisionRecord
from mint_common.claims import RevisionRef
from mint_common.errors import NotFound, Unavailable
from mint_common.events import RevisionExported, RevisionHealed
from mint_common.ids import Digest, PolicyId
from mint_common.names import BEST
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
# Locks in one order: two imports of the same policies wait for each other instead of deadlocking.
_LOCK = "SELECT policy_id FROM policies WHERE policy_id = ANY($1) ORDER BY policy_id FOR NO KEY UPDATE"
_TAKE_FOLDERS = "DELETE FROM garbage WHERE prefix = ANY($1) RETURNING is_going"
_HEAL = """
    UPDATE revisions SET fault = NULL, changes = changes + 1, manifest_uri = given.uri,
        manifest_sha256 = given.sha256, manifest_size_bytes = given.size_bytes
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        AS given (policy_id, digest, uri, sha256, size_bytes)
    WHERE revisions.policy_id = given.policy_id AND revisions.digest = given.digest AND fault IS NOT NULL
    RETURNING revisions.*
"""
_APPEND = """
    WITH given AS (
        SELECT DISTINCT ON (policy_id, digest) given.*
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[],
                    $8::jsonb[], $9::text[], $10::text[], $11::text[])
            WITH ORDINALITY AS given (policy_id, digest, manifest_uri, manifest_sha256, manifest_size_bytes,
                                      parent, step, metrics, job_id, wave_id, export_id, place)
        ORDER BY policy_id, digest, place
    )
    INSERT INTO revisions (policy_id, number, digest, manifest_uri, manifest_sha256, manifest_size_bytes,
                           parent, step, metrics, job_id, wave_id, export_id, created_at)
    SELECT policy_id,
           coalesce((SELECT number FROM revisions last WHERE last.policy_id = given.policy_id
                     ORDER BY number DESC LIMIT 1), 0)
               + row_number() OVER (PARTITION BY policy_id ORDER BY place),
           digest, manifest_uri, manifest_sha256, manifest_size_bytes, parent, step, metrics, job_id, wave_id,
           export_id, $12
    FROM given
    WHERE NOT EXISTS (SELECT FROM revisions known
                      WHERE known.policy_id = given.policy_id AND known.digest = given.digest)
"""
_FOUND = """
    SELECT revisions.* FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS given (policy_id, digest, place)
    JOIN revisions USING (policy_id, digest) ORDER BY place
"""
_SETTLE = """
    INSERT INTO exports (tenant_id, policy_id, export_id, digest, number, settled_at)
    SELECT given.*, $6 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[]) AS given
    ON CONFLICT DO NOTHING
"""
_REFUSE = """
    INSERT INTO exports (tenant_id, policy_id, export_id, digest, code, reason, settled_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
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
    rows = await pool.fetch(
        _REVISIONS,
        policy_id,
        after,
        limit,
        wanted.state,
        wanted.created_after,
        wanted.created_before,
    )
    return [read_revision(row, RevisionRecord) for row in rows]


async def find_related(
    pool: asyncpg.Pool, policy_id: PolicyId, number: int, reach: Reach, *, limit: int
) -> Sequence[Relative]:
    """Return a revision's ancestors and descendants within reach, nearest first, ``limit`` in all."""
    rows = await pool.fetch(_RELATED, policy_id, number, reach.ancestors, reach.descendants, limit)
    return [Relative(revision=read_revision(row, RevisionRecord), distance=row["distance"]) for row in rows]


async def lock_policies(connection: PostgresConnection, exports: Sequence[RevisionExported]) -> None:
    """Be the only one to number or change revisions of these policies. Raises NotFound."""
    policies = {export.policy_id for export in exports}
    locked = await connection.fetch(_LOCK, sorted(policies))
    missing = policies - {row["policy_id"] for row in locked}
    if missing:
        raise NotFound(kind="policy", name=min(missing))


async def publish_exports(
    connection: PostgresConnection, exports: Sequence[RevisionExported], *, now: float
) -> tuple[list[RevisionRef], list[RevisionHealed]]:
    """Publish checked exports to locked policies in the caller's transaction.

    Returns each export's revision, in order, and the events of the lost revisions that the exports heal.
    Raises Unavailable for a folder that is being removed.
    """
    folders = [folder_of(export.manifest) for export in exports]
    if any(row["is_going"] for row in await connection.fetch(_TAKE_FOLDERS, folders)):
        # The check has read its bytes; a retry finds them gone and rejects the export.
        raise Unavailable(what="the export's folder", problem="it is being removed as garbage")
    events = await _heal(connection, exports)
    return await _append(connection, exports, now=now), events


async def refuse_export(
    connection: PostgresConnection, export: RevisionExported, refusal: Refusal, *, now: float
) -> None:
    """Store why an export is not published."""
    key = (export.tenant_id, export.policy_id, export.export_id, export.digest)
    await connection.execute(_REFUSE, *key, refusal.code, refusal.reason, now)


async def _heal(connection: PostgresConnection, exports: Sequence[RevisionExported]) -> list[RevisionHealed]:
    """Point revisions whose bytes were lost at the bytes of these exports."""
    by_key = {(export.policy_id, export.digest): export for export in exports}
    rows = await connection.fetch(
        _HEAL,
        [export.policy_id for export in exports],
        [export.digest for export in exports],
        [export.manifest.uri for export in exports],
        [export.manifest.sha256 for export in exports],
        [export.manifest.size_bytes for export in exports],
    )
    return [
        healed(by_key[row["policy_id"], row["digest"]], ref_of(row), sequence=row["changes"]) for row in rows
    ]


async def _append(
    connection: PostgresConnection, exports: Sequence[RevisionExported], *, now: float
) -> list[RevisionRef]:
    policies, digests = [export.policy_id for export in exports], [export.digest for export in exports]
    await connection.execute(
        _APPEND,
        policies,
        digests,
        [export.manifest.uri for export in exports],
        [export.manifest.sha256 for export in exports],
        [export.manifest.size_bytes for export in exports],
        [export.parent for export in exports],
        [export.step for export in exports],
        [export.metrics for export in exports],
        [export.job_id for export in exports],
        [export.wave_id for export in exports],
        [export.export_id for export in exports],
        now,
    )
    refs = [ref_of(row) for row in await connection.fetch(_FOUND, policies, digests)]
    tenants, names = [export.tenant_id for export in exports], [export.export_id for export in exports]
    numbers = [ref.number for ref in refs]
    await connection.execute(_SETTLE, tenants, policies, names, digests, numbers, now)
    return refs
