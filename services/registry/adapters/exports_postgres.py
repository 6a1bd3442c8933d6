"""Exports in Postgres: revisions that they become, and the verdicts, under the lock of the policy's row."""

from mint_common.claims import RevisionRef
from mint_common.errors import Unavailable
from mint_common.events import RevisionExported
from mint_common.runtime.ledger_postgres import PostgresTransaction
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.rows import ref_of
from services.registry.core.blob_integrity import folder_of, healed
from services.registry.core.exports import Refusal

_TAKE_FOLDER = "DELETE FROM garbage WHERE prefix = $1 RETURNING is_going"
_HEAL = """
    UPDATE revisions SET fault = NULL, changes = changes + 1, manifest_uri = $3, manifest_sha256 = $4,
        manifest_size_bytes = $5, retired_at = CASE WHEN state = 'retired' THEN now() END
    WHERE policy_id = $1 AND digest = $2 AND fault IS NOT NULL RETURNING *
"""
_APPEND = """
    INSERT INTO revisions (policy_id, digest, manifest_uri, manifest_sha256, manifest_size_bytes, parent,
                           step, metrics, job_id, wave_id, export_id, created_at, size_bytes, number)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
            coalesce((SELECT max(number) FROM revisions WHERE policy_id = $1), 0) + 1)
    ON CONFLICT (policy_id, digest) DO NOTHING
"""
FOUND = "SELECT * FROM revisions WHERE policy_id = $1 AND digest = $2"
_SETTLE = """
    INSERT INTO exports (tenant_id, policy_id, export_id, digest, number, code, reason, settled_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING
"""


async def publish_export(
    transaction: PostgresTransaction, export: RevisionExported, *, now: float, size_bytes: int
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
        await connection.execute(_APPEND, *stored, *made, now, size_bytes)
        row = await connection.fetchrow(FOUND, export.policy_id, export.digest)
        assert row is not None, "it is there already, or now"
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
