"""Custody in memory: for tests, and the reference of what a store does."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from mint_common.adapters_format import MANIFEST_FILE
from mint_common.catalog import PolicyRecord, RevisionRecord
from mint_common.errors import NotFound, Unavailable
from mint_common.events import RevisionExported, RevisionHealed
from mint_common.events.revision import Fault, QuarantineReason
from mint_common.ids import Digest, PolicyId, new_id
from mint_common.testing.ledger_memory import MemoryLedger
from services.registry.adapters.memory_tables import Garbage, Tables
from services.registry.core.collection import HeldRevision, Holdings
from services.registry.core.custody import Folder, Held, folder_of, folders_of, healed, lost, quarantined


class MemoryCustody:
    """See `ports.Custody`."""

    def __init__(self, tables: Tables, ledger: MemoryLedger) -> None:
        self._tables = tables
        self._ledger = ledger
        self._turns: set[str] = set()

    @asynccontextmanager
    async def turn(self, work: str) -> AsyncIterator[bool]:
        """Be the only one at a kind of work."""
        if work in self._turns:
            yield False
            return
        self._turns.add(work)
        try:
            yield True
        finally:
            self._turns.discard(work)

    async def place(self, walk: str) -> str:
        """Return how far a walk has come."""
        return self._tables.walks.get(walk, "")

    async def keep_place(self, walk: str, place: str) -> None:
        """Keep how far a walk has come."""
        self._tables.walks[walk] = place

    async def held(self, *, after: str, limit: int) -> Sequence[Held]:
        """Return revisions that have bytes."""
        return self._held(lambda revision: revision.fault != "collected", after, limit)

    async def lost(self, *, after: str, limit: int) -> Sequence[Held]:
        """Return those whose bytes are missing or wrong."""
        return self._held(lambda revision: revision.fault in ("missing", "wrong"), after, limit)

    def _held(self, wanted: Callable[[RevisionRecord], bool], after: str, limit: int) -> Sequence[Held]:
        policy_id, _, number = after.partition("/")
        rest = (
            _held_of(self._tables.policies[owner], revision)
            for owner, revisions in sorted(self._tables.revisions.items())
            for revision in revisions
            if (owner, revision.number) > (policy_id, int(number or 0)) and wanted(revision)
        )
        return list(rest)[:limit]

    async def mark(self, held: Held, fault: Fault | None, problem: str) -> bool:
        """Record what was found of a revision's bytes and tell it."""
        found = self._tables.revisions[held.policy_id][held.number - 1]
        if (found.manifest, found.fault) != (held.manifest, held.fault) or fault == held.fault:
            return False
        sequence = self._change(held.policy_id, replace(found, fault=fault))
        async with self._ledger.transaction(new_id("req")) as transaction:
            if fault is None:
                await transaction.emit(healed(held, found.ref, sequence=sequence))
            else:
                await transaction.emit(lost(held, fault, problem, sequence=sequence))
        return True

    async def quarantine(self, digest: Digest, reason: QuarantineReason, *, cause: str) -> Sequence[Held]:
        """Quarantine every published revision of a digest and tell each."""
        async with self._ledger.transaction(cause) as transaction:
            found = list(self._held(_is_published(digest), "", len(self._tables.revisions)))
            for held in found:
                revision = self._tables.revisions[held.policy_id][held.number - 1]
                sequence = self._change(held.policy_id, replace(revision, state="quarantined"))
                await transaction.emit(quarantined(held, reason, sequence=sequence))
        return found

    async def note_folders(self, root: str, folders: Sequence[Folder], *, now: float) -> None:
        """Take in all folders under a root."""
        for folder in folders:
            if not self._is_named(folder):
                self._tables.garbage.setdefault(folder.prefix, Garbage(found_at=now))
        known = {folder.prefix for folder in folders}
        for prefix, garbage in list(self._tables.garbage.items()):
            if prefix.startswith(root) and prefix not in known and not garbage.is_going:
                del self._tables.garbage[prefix]

    async def garbage(self, *, before: float, limit: int) -> Sequence[Folder]:
        """Return garbage that was known before a time."""
        old = (
            prefix
            for prefix, garbage in sorted(self._tables.garbage.items())
            if garbage.found_at < before and not garbage.is_going
        )
        return folders_of(f"{prefix}/{MANIFEST_FILE}" for prefix in old)[:limit]

    async def give_up_folder(self, folder: Folder) -> bool:
        """Let garbage be removed."""
        garbage = self._tables.garbage.get(folder.prefix)
        if garbage is None or garbage.is_going or self._is_named(folder):
            return False
        self._tables.garbage[folder.prefix] = replace(garbage, is_going=True)
        return True

    async def candidates(self, *, after: str, limit: int) -> Sequence[PolicyId]:
        """Return policies of which something may go."""
        found = (
            policy_id
            for policy_id, policy in sorted(self._tables.policies.items())
            if policy_id > after
            and (
                policy.retention.keep_last is not None
                or policy.retention.keep_days is not None
                or any(
                    revision.state == "retired" and revision.fault != "collected"
                    for revision in self._tables.revisions.get(policy_id, [])
                )
            )
        )
        return [PolicyId(policy_id) for policy_id in found][:limit]

    async def holdings(self, policy_id: PolicyId) -> tuple[PolicyRecord, Holdings]:
        """Return a policy and all that decides what of it may go."""
        if policy_id not in self._tables.policies:
            raise NotFound(kind="policy", name=policy_id)
        policy = self._tables.policies[policy_id]
        return policy, Holdings(
            retention=policy.retention,
            revisions=[
                self._revision_of(policy_id, row) for row in self._tables.revisions.get(policy_id, [])
            ],
            pointed=set(self._pointed(policy_id)),
        )

    async def give_up_bytes(self, policy: PolicyRecord, number: int) -> bool:
        """Let the bytes of a revision be removed and tell it."""
        found = self._tables.revisions[policy.policy_id][number - 1]
        if found.state != "retired" or found.fault == "collected":
            return False
        sequence = self._change(policy.policy_id, replace(found, fault="collected"))
        prefix = folder_of(found.manifest)
        self._tables.garbage[prefix] = Garbage(found_at=0.0, is_going=True)
        async with self._ledger.transaction(new_id("req")) as transaction:
            problem = "collected: nobody used them"
            await transaction.emit(lost(_held_of(policy, found), "collected", problem, sequence=sequence))
        return True

    async def going(self, *, limit: int) -> Sequence[str]:
        """Return folders that were given up and are not removed yet."""
        return [prefix for prefix, garbage in self._tables.garbage.items() if garbage.is_going][:limit]

    async def removed(self, prefix: str) -> None:
        """Forget a folder that is removed."""
        self._tables.garbage.pop(prefix, None)

    def _change(self, policy_id: PolicyId, revision: RevisionRecord) -> int:
        self._tables.revisions[policy_id][revision.number - 1] = revision
        self._tables.changes[policy_id, revision.number] += 1
        return self._tables.changes[policy_id, revision.number]

    def _is_named(self, folder: Folder) -> bool:
        uri = f"{folder.prefix}/{MANIFEST_FILE}"
        return any(
            revision.manifest.uri == uri for revision in self._tables.revisions.get(folder.policy_id, [])
        )

    def _pointed(self, policy_id: PolicyId) -> Iterable[int]:
        for (owner, _), rows in self._tables.aliases.items():
            if owner == policy_id:
                current = rows[-1][0]
                yield current.number
                if current.below is not None:
                    yield rows[current.below - 1][0].number

    def _revision_of(self, policy_id: PolicyId, revision: RevisionRecord) -> HeldRevision:
        is_retired = revision.state == "retired"
        return HeldRevision(
            number=revision.number,
            digest=revision.digest,
            parent=revision.parent,
            created_at=revision.created_at,
            is_quarantined=revision.state == "quarantined",
            retired_at=self._tables.retired_at[policy_id, revision.number] if is_retired else None,
            has_bytes=revision.fault != "collected" and revision.manifest.uri.startswith("revisions/"),
        )


def vouch_for(tables: Tables, export: RevisionExported) -> list[RevisionHealed]:
    """Take the folder of a checked export into the catalog; return what tells of a revision that it heals."""
    garbage = tables.garbage.get(folder_of(export.manifest))
    if garbage is not None and garbage.is_going:
        raise Unavailable(what="the export's folder", problem="it is being removed as garbage")
    tables.garbage.pop(folder_of(export.manifest), None)
    for revision in tables.revisions.get(export.policy_id, []):
        if revision.digest == export.digest and revision.fault is not None:
            whole = replace(revision, fault=None, manifest=export.manifest)
            tables.revisions[export.policy_id][revision.number - 1] = whole
            tables.changes[export.policy_id, revision.number] += 1
            sequence = tables.changes[export.policy_id, revision.number]
            return [healed(export, whole.ref, sequence=sequence)]
    return []


def _is_published(digest: Digest) -> Callable[[RevisionRecord], bool]:
    return lambda revision: (revision.digest, revision.state) == (digest, "published")


def _held_of(policy: PolicyRecord, revision: RevisionRecord) -> Held:
    return Held(
        tenant_id=policy.tenant_id,
        base=policy.base,
        policy_id=policy.policy_id,
        number=revision.number,
        digest=revision.digest,
        manifest=revision.manifest,
        fault=revision.fault,
    )
