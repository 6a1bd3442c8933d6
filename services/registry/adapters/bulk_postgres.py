"""Many policies or revisions in one statement each: arrays go in, sets come out."""

from collections.abc import Sequence

import asyncpg
import msgspec

from mint_common.catalog import PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.errors import AlreadyExists, InvalidField, NotFound
from mint_common.events import RevisionExported
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.policies_postgres import insert_labels, retention_row
from services.registry.adapters.rows import moment, ref_of

_ADD = """
    INSERT INTO policies (policy_id, tenant_id, name, base, lora, created_at, description, labels, retention)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::timestamptz[],
                         $7::text[], $8::jsonb[], $9::jsonb[])
"""
# Locks in one order: two imports of the same policies wait for each other instead of dying.
_LOCK = "SELECT policy_id FROM policies WHERE policy_id = ANY($1) ORDER BY policy_id FOR NO KEY UPDATE"
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


async def insert_policies(connection: PostgresConnection, policies: Sequence[PolicyRecord]) -> None:
    """Insert new policies, all or none. Raises as `ports.Catalog.add_policy` does."""
    names = {policy.name for policy in policies}
    async with connection.transaction():
        taken = await connection.fetchval("SELECT name FROM bases WHERE name = ANY($1) LIMIT 1", list(names))
        if taken is not None:
            raise InvalidField(field="name", problem=f"{taken!r} is the name of a base")
        try:
            await connection.execute(
                _ADD,
                [policy.policy_id for policy in policies],
                [policy.tenant_id for policy in policies],
                [policy.name for policy in policies],
                [policy.base for policy in policies],
                [msgspec.to_builtins(policy.lora) for policy in policies],
                [moment(policy.created_at) for policy in policies],
                [policy.description for policy in policies],
                [policy.labels for policy in policies],
                [retention_row(policy) for policy in policies],
            )
            await insert_labels(connection, policies)
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists(kind="policy", name=error.detail or "one of many") from error
        except asyncpg.ForeignKeyViolationError as error:
            kind = "base" if error.constraint_name == "policies_base_fkey" else "tenant"
            raise NotFound(kind=kind, name=error.detail or "one of many") from error


async def lock_policies(connection: PostgresConnection, exports: Sequence[RevisionExported]) -> None:
    """Be the only one to number or change revisions of these policies. Raises NotFound."""
    policies = {export.policy_id for export in exports}
    locked = await connection.fetch(_LOCK, sorted(policies))
    missing = policies - {row["policy_id"] for row in locked}
    if missing:
        raise NotFound(kind="policy", name=min(missing))


async def insert_revisions(
    connection: PostgresConnection, exports: Sequence[RevisionExported], *, now: float
) -> list[RevisionRef]:
    """Append revisions to locked policies inside the caller's transaction; return each export's, in order."""
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
        moment(now),
    )
    refs = [ref_of(row) for row in await connection.fetch(_FOUND, policies, digests)]
    tenants, names = [export.tenant_id for export in exports], [export.export_id for export in exports]
    numbers = [ref.number for ref in refs]
    await connection.execute(_SETTLE, tenants, policies, names, digests, numbers, moment(now))
    return refs
