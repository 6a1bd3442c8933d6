"""Blob integrity in Postgres: faults are columns of revisions; garbage and walks have tables of their own."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from mint_common.adapters_format import MANIFEST_FILE
from mint_common.catalog import PolicyRecord
from mint_common.events.revision import Fault, QuarantineReason
from mint_common.ids import Digest, PolicyId, new_id
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import from_row
from mint_common.runtime.postgres_errors import acquired
from services.registry.adapters.rows import LOCK_POLICY, POLICY, found, policy_of, read_revision, ref_of
from services.registry.core.blob_integrity import (
    Folder,
    StoredRevision,
    folder_of,
    folders_of,
    healed,
    lost,
    quarantined,
)
from services.registry.core.collection import CollectibleRevision, PolicyRevisions

# A session lock: Postgres releases it when the registry dies or loses its connection.
_TRY = "SELECT pg_try_advisory_lock(hashtextextended('mint_turn_' || current_schema() || '_' || $1, 0))"
_SAVE_POSITION = """
    INSERT INTO walks (name, place) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET place = $2
"""
_STORED = """
    SELECT tenant_id, base, revisions.* FROM revisions JOIN policies USING (policy_id)
    WHERE (policy_id, number) > ($1, $2) AND {which} ORDER BY policy_id, number LIMIT $3
"""
_NOT_COLLECTED, _LOST = "fault IS DISTINCT FROM 'collected'", "fault IN ('missing', 'wrong')"
_MARK = """
    UPDATE revisions SET fault = $3, changes = changes + 1
    WHERE policy_id = $1 AND number = $2 AND manifest_uri = $4 AND fault IS NOT DISTINCT FROM $5
        AND fault IS DISTINCT FROM $3
    RETURNING *
"""
# Policies first and in one order, as every writer does, so that no two deadlock.
_LOCK_POLICIES = """
    SELECT 1 FROM policies WHERE policy_id IN (SELECT policy_id FROM revisions WHERE digest = $1)
    ORDER BY policy_id FOR NO KEY UPDATE
"""
_QUARANTINE = """
    UPDATE revisions SET state = 'quarantined', changes = changes + 1
    FROM policies WHERE policies.policy_id = revisions.policy_id AND digest = $1 AND state = 'published'
    RETURNING tenant_id, base, revisions.*
"""
_RECORD_FOLDERS = """
    INSERT INTO garbage (prefix, found_at)
    SELECT given.prefix, $4
    FROM unnest($1::text[], $2::text[], $3::text[]) AS given (prefix, policy_id, digest)
    WHERE NOT EXISTS (
        SELECT FROM revisions WHERE revisions.policy_id = given.policy_id AND revisions.digest = given.digest
            AND manifest_uri = given.prefix || $5
    )
    ON CONFLICT DO NOTHING
"""
_FORGET_FOLDERS = "DELETE FROM garbage WHERE starts_with(prefix, $1) AND prefix <> ALL($2) AND NOT is_going"
_GARBAGE = """
    SELECT prefix FROM garbage WHERE found_at < $1 AND NOT is_going ORDER BY prefix LIMIT $2
"""
_RELEASE_FOLDER = """
    UPDATE garbage SET is_going = true
    WHERE prefix = $1 AND NOT is_going AND NOT EXISTS (
        SELECT FROM revisions WHERE policy_id = $2 AND digest = $3 AND manifest_uri = $1 || $4
    )
    RETURNING prefix
"""
_CANDIDATES = """
    (SELECT policy_id FROM policies WHERE retention <> '{}' AND policy_id > $1 ORDER BY policy_id LIMIT $2)
    UNION
    (SELECT DISTINCT policy_id FROM revisions
     WHERE state = 'retired' AND fault IS DISTINCT FROM 'collected' AND policy_id > $1
     ORDER BY policy_id LIMIT $2)
    ORDER BY policy_id LIMIT $2
"""
_REVISIONS = """
    SELECT number, digest, parent, created_at, state = 'quarantined' AS is_quarantined,
           CASE WHEN state = 'retired' THEN retired_at END AS retired_at,
           fault IS DISTINCT FROM 'collected' AND starts_with(manifest_uri, 'revisions/') AS has_bytes
    FROM revisions WHERE policy_id = $1 ORDER BY number
"""
_POINTED = """
    SELECT number FROM live_aliases WHERE policy_id = $1
    UNION
    SELECT below.number FROM live_aliases aliases
    JOIN alias_history current USING (policy_id, alias, sequence)
    JOIN alias_history below
        ON (below.policy_id, below.alias, below.sequence) = (current.policy_id, current.alias, current.below)
    WHERE aliases.policy_id = $1
"""
_RELEASE_BYTES = """
    UPDATE revisions SET fault = 'collected', changes = changes + 1
    WHERE policy_id = $1 AND number = $2 AND state = 'retired' AND fault IS DISTINCT FROM 'collected'
        AND NOT EXISTS (SELECT FROM live_aliases aliases WHERE aliases.policy_id = $1 AND aliases.number = $2)
    RETURNING *
"""
_REMOVE_FOLDER = """
    INSERT INTO garbage (prefix, found_at, is_going) VALUES ($1, now(), true)
    ON CONFLICT (prefix) DO UPDATE SET is_going = true
"""
_COLLECTED = "removed by collection: the revision was retired and not in use"


class PostgresBlobIntegrity:
    """Stored bytes that the catalog relies on, and folders of the blob store that no revision names.

    Its lists omit revisions whose bytes were removed on purpose (fault ``collected``).
    """

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger) -> None:
        self._pool = pool
        self._ledger = ledger

    @asynccontextmanager
    async def exclusive(self, work: str) -> AsyncIterator[bool]:
        """Hold the lock of a kind of work among all registries; False when another registry holds it."""
        async with acquired(self._pool) as connection:
            # The pool releases the lock when it takes the connection back.
            yield await connection.fetchval(_TRY, work)

    async def position(self, walk: str) -> str:
        """Return the saved position of a walk, "" at its start."""
        return await self._pool.fetchval("SELECT place FROM walks WHERE name = $1", walk) or ""

    async def save_position(self, walk: str, position: str) -> None:
        """Save the position of a walk."""
        await self._pool.execute(_SAVE_POSITION, walk, position)

    async def stored(self, *, after: str, limit: int) -> Sequence[StoredRevision]:
        """Return revisions that have bytes, in the order of `StoredRevision.position`."""
        return await self._list(_NOT_COLLECTED, after, limit)

    async def sound(self, *, limit: int) -> Sequence[StoredRevision]:
        """Return the first revisions that have bytes without a known fault."""
        return await self._list("fault IS NULL", "", limit)

    async def lost(self, *, after: str, limit: int) -> Sequence[StoredRevision]:
        """Return the revisions whose bytes are missing or wrong, in the same order."""
        return await self._list(_LOST, after, limit)

    async def _list(self, which: str, after: str, limit: int) -> Sequence[StoredRevision]:
        policy_id, _, number = after.partition("/")
        rows = await self._pool.fetch(_STORED.format(which=which), policy_id, int(number or 0), limit)
        return [read_revision(row, StoredRevision) for row in rows]

    async def mark(self, revision: StoredRevision, fault: Fault | None, problem: str) -> bool:
        """Set the fault of a revision and emit the event.

        False when its row has changed since it was read.
        """
        async with self._ledger.transaction(new_id("req")) as transaction:
            key = (revision.policy_id, revision.number, fault, revision.manifest.uri, revision.fault)
            row = await transaction.connection.fetchrow(_MARK, *key)
            if row is None:
                return False
            if fault is None:
                await transaction.emit(healed(revision, ref_of(row), sequence=row["changes"]))
            else:
                await transaction.emit(lost(revision, fault, problem, sequence=row["changes"]))
            return True

    async def quarantine(
        self, digest: Digest, reason: QuarantineReason, *, cause: str
    ) -> Sequence[StoredRevision]:
        """Quarantine each published revision of a digest, of every tenant, and emit an event for each.

        Raises AlreadyHandled for a repeated cause.
        """
        async with self._ledger.transaction(cause) as transaction:
            await transaction.connection.execute(_LOCK_POLICIES, digest)
            rows = await transaction.connection.fetch(_QUARANTINE, digest)
            revisions = [read_revision(row, StoredRevision) for row in rows]
            for revision, row in zip(revisions, rows, strict=True):
                await transaction.emit(quarantined(revision, reason, sequence=row["changes"]))
        return revisions

    async def record_folders(self, root: str, folders: Sequence[Folder], *, now: float) -> None:
        """Record the folders under a root that no revision names as garbage, first seen now.

        Forget the rest.
        """
        prefixes = [folder.prefix for folder in folders]
        policies, digests = [folder.policy_id for folder in folders], [folder.digest for folder in folders]
        await self._pool.execute(_RECORD_FOLDERS, prefixes, policies, digests, now, f"/{MANIFEST_FILE}")
        await self._pool.execute(_FORGET_FOLDERS, root, prefixes)

    async def garbage(self, *, before: float, limit: int) -> Sequence[Folder]:
        """Return garbage that was first seen before a time."""
        rows = await self._pool.fetch(_GARBAGE, before, limit)
        return folders_of(f"{row['prefix']}/{MANIFEST_FILE}" for row in rows)

    async def release_folder(self, folder: Folder) -> bool:
        """Allow the removal of a garbage folder; from then on no export in it is published.

        False when the folder is no longer garbage.
        """
        key = (folder.prefix, folder.policy_id, folder.digest, f"/{MANIFEST_FILE}")
        return await self._pool.fetchval(_RELEASE_FOLDER, *key) is not None

    async def candidates(self, *, after: str, limit: int) -> Sequence[PolicyId]:
        """Return the ids of policies that have a retention, or retired revisions with bytes."""
        return [row["policy_id"] for row in await self._pool.fetch(_CANDIDATES, after, limit)]

    async def revisions_of(self, policy_id: PolicyId) -> tuple[PolicyRecord, PolicyRevisions]:
        """Return a policy and what `core.collection` needs to plan for it."""
        row = await self._pool.fetchrow(f"{POLICY} WHERE policy.policy_id = $1", policy_id)
        policy = policy_of(found(row, "policy", policy_id))
        revisions = await self._pool.fetch(_REVISIONS, policy_id)
        pointed = await self._pool.fetch(_POINTED, policy_id)
        return policy, PolicyRevisions(
            retention=policy.retention,
            revisions=[from_row(revision, CollectibleRevision) for revision in revisions],
            pointed={each["number"] for each in pointed},
            is_removed=found(row, "policy", policy_id)["removed_at"] is not None,
        )

    async def release_bytes(self, policy: PolicyRecord, number: int) -> bool:
        """Allow the removal of a revision's bytes and emit the event.

        False unless the revision is retired and no alias points at it.
        """
        async with self._ledger.transaction(new_id("req")) as transaction:
            connection = transaction.connection
            await connection.execute(LOCK_POLICY, policy.policy_id)
            row = await connection.fetchrow(_RELEASE_BYTES, policy.policy_id, number)
            if row is None:
                return False
            owned = {**row, "tenant_id": policy.tenant_id, "base": policy.base}
            revision = read_revision(owned, StoredRevision)
            await connection.execute(_REMOVE_FOLDER, folder_of(revision.manifest))
            await transaction.emit(lost(revision, "collected", _COLLECTED, sequence=row["changes"]))
            return True

    async def folders_to_remove(self, *, limit: int) -> Sequence[str]:
        """Return the prefixes of released folders that are not removed yet."""
        rows = await self._pool.fetch("SELECT prefix FROM garbage WHERE is_going LIMIT $1", limit)
        return [row["prefix"] for row in rows]

    async def forget_folder(self, prefix: str) -> None:
        """Forget a folder that was removed. Idempotent."""
        await self._pool.execute("DELETE FROM garbage WHERE prefix = $1", prefix)
