"""The registry's store in memory: for tests, and the reference of what a store does."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import (
    AliasMove,
    AliasRecord,
    EvaluationRecord,
    KeyOwner,
    OwnedRevision,
    PolicyRecord,
    Resolution,
    RevisionRecord,
    TenantRecord,
)
from mint_common.claims import RevisionRef
from mint_common.errors import AlreadyExists, BaseChanged, InvalidField, MintError, NotFound
from mint_common.events import RevisionExported
from mint_common.ids import BaseName, Digest, PolicyId, TenantId, new_id
from mint_common.runtime.ledger_memory import MemoryLedger
from services.registry.core.aliases import AliasEntry, moved, plan_move, plan_rollback
from services.registry.core.evaluations import recorded
from services.registry.core.exports import Refusal, answer
from services.registry.core.keys import StoredKey
from services.registry.core.names import DEFAULT_ALIAS, ModelName, is_policy_id
from services.registry.core.resolve import base_resolution, policy_resolution
from services.registry.ports import HISTORY_ROWS, Mover


@dataclass(slots=True)
class Tables:
    """What the stores below share."""

    tenants: dict[str, TenantRecord] = field(default_factory=dict)
    keys: dict[str, StoredKey] = field(default_factory=dict)
    bases: dict[str, BaseFacts] = field(default_factory=dict)
    policies: dict[str, PolicyRecord] = field(default_factory=dict)
    revisions: dict[str, list[RevisionRecord]] = field(default_factory=dict)
    exports: dict[tuple[str, str, str], RevisionRef | Refusal] = field(default_factory=dict)
    aliases: dict[tuple[str, str], list[tuple[AliasEntry, Mover]]] = field(default_factory=dict)
    evaluations: dict[str, list[EvaluationRecord]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class MemoryAccounts:
    """See `ports.Accounts`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add_tenant(self, tenant: TenantRecord) -> TenantRecord:
        """Store a tenant, or return the one that has its name already."""
        return self._tables.tenants.setdefault(tenant.name, tenant)

    async def put_key(self, key: StoredKey) -> None:
        """Store a key, replacing the one of the same id."""
        if all(tenant.tenant_id != key.tenant_id for tenant in self._tables.tenants.values()):
            raise NotFound(kind="tenant", name=key.tenant_id)
        others = [other for other in self._tables.keys.values() if other.key_id != key.key_id]
        if any(other.key_hash == key.key_hash for other in others):
            raise AlreadyExists(kind="key", name=key.shown)
        self._tables.keys[key.key_id] = key

    async def owner_of(self, key_hash: bytes) -> KeyOwner | None:
        """Return whose key has this hash."""
        for key in self._tables.keys.values():
            if key.key_hash == key_hash:
                return KeyOwner(tenant_id=key.tenant_id, key_id=key.key_id, name=key.name)
        return None


class MemoryCatalog:
    """See `ports.Catalog`."""

    def __init__(self, tables: Tables, ledger: MemoryLedger) -> None:
        self._tables = tables
        self._ledger = ledger

    async def put_base(self, facts: BaseFacts, *, now: float) -> BaseFacts:  # noqa: ARG002  # no answer shows it
        """Store a base, or return what is stored when the digest is equal."""
        found = self._tables.bases.setdefault(facts.name, facts)
        if found.digest != facts.digest:
            raise BaseChanged(name=facts.name, found=found.digest, expected=facts.digest)
        return found

    async def base(self, name: BaseName | str) -> BaseFacts:
        """Return a base."""
        if name not in self._tables.bases:
            raise NotFound(kind="base", name=name)
        return self._tables.bases[name]

    async def bases(self) -> Sequence[BaseFacts]:
        """Return all bases by name."""
        return [facts for _, facts in sorted(self._tables.bases.items())]

    async def add_policy(self, policy: PolicyRecord) -> None:
        """Store a new policy."""
        if policy.name in self._tables.bases:
            raise InvalidField(field="name", problem=f"{policy.name!r} is the name of a base")
        if any(_is(other, policy.tenant_id, policy.name) for other in self._tables.policies.values()):
            raise AlreadyExists(kind="policy", name=policy.name)
        if policy.base not in self._tables.bases:
            raise NotFound(kind="base", name=policy.base)
        if all(tenant.tenant_id != policy.tenant_id for tenant in self._tables.tenants.values()):
            raise NotFound(kind="tenant", name=policy.tenant_id)
        self._tables.policies[policy.policy_id] = policy

    async def policy(self, tenant_id: TenantId, key: PolicyId | str) -> PolicyRecord:
        """Return a tenant's policy by id or name."""
        for policy in self._tables.policies.values():
            if _is(policy, tenant_id, key):
                return self._with_latest(policy)
        raise NotFound(kind="policy", name=key)

    async def policies(self, tenant_id: TenantId, *, limit: int, after: str | None) -> Sequence[PolicyRecord]:
        """Return a tenant's policies by name."""
        found = [policy for policy in self._tables.policies.values() if policy.tenant_id == tenant_id]
        rest = [policy for policy in found if policy.name > (after or "")]
        return [self._with_latest(policy) for policy in sorted(rest, key=lambda policy: policy.name)[:limit]]

    async def revision(self, policy_id: PolicyId, key: int | Digest) -> RevisionRecord:
        """Return a revision by number or digest."""
        for revision in self._tables.revisions.get(policy_id, []):
            if key in (revision.number, revision.digest):
                return revision
        raise NotFound(kind="revision", name=str(key))

    async def revisions(self, policy_id: PolicyId, *, limit: int, after: int) -> Sequence[RevisionRecord]:
        """Return a policy's revisions by number."""
        return self._tables.revisions.get(policy_id, [])[after:][:limit]

    async def resolve(self, tenant_id: TenantId, name: ModelName) -> Resolution:
        """Return what a model name means now."""
        found = [policy for policy in self._tables.policies.values() if _is(policy, tenant_id, name.name)]
        if not found:
            return base_resolution(name, self._tables.bases.get(name.name))
        policy = self._with_latest(found[0])
        rows = self._tables.aliases.get((policy.policy_id, name.alias or DEFAULT_ALIAS))
        revision = policy.latest
        if name.revision is not None:
            revision = (await self.revision(policy.policy_id, name.revision)).ref
        elif rows:
            revision = self._tables.revisions[policy.policy_id][rows[-1][0].number - 1].ref
        elif name.alias is not None:
            revision = None
        return policy_resolution(name, policy, revision)

    async def owned(self, tenant_id: TenantId, digests: Sequence[Digest]) -> Sequence[OwnedRevision]:
        """Return which of these digests are a tenant's, of which policies."""
        return [
            OwnedRevision(policy=policy.name, base=policy.base, revision=revision.ref)
            for policy in sorted(self._tables.policies.values(), key=lambda policy: policy.name)
            if policy.tenant_id == tenant_id
            for revision in self._tables.revisions.get(policy.policy_id, [])
            if revision.digest in digests
        ]

    async def settle_export(self, export: RevisionExported, refusal: Refusal | None, *, now: float) -> None:
        """Commit the verdict on an export and tell it."""
        key = (export.policy_id, export.export_id, export.tenant_id)
        async with self._ledger.transaction(export.id) as transaction:
            if key not in self._tables.exports:
                self._tables.exports[key] = refusal or self._append(export, now)
            await transaction.emit(answer(export, self._tables.exports[key]))

    async def add_policies(self, policies: Sequence[PolicyRecord]) -> None:
        """Store many new policies, all or none."""
        before = dict(self._tables.policies)
        try:
            for policy in policies:
                await self.add_policy(policy)
        except MintError:
            self._tables.policies = before
            raise

    async def publish_many(
        self, exports: Sequence[RevisionExported], *, now: float, announce: bool
    ) -> Sequence[RevisionRef]:
        """Publish checked adapters in one step."""
        for export in exports:
            if export.policy_id not in self._tables.policies:
                raise NotFound(kind="policy", name=export.policy_id)
        async with self._ledger.transaction(new_id("req")) as transaction:
            refs = []
            for export in exports:
                ref = self._append(export, now)
                refs.append(ref)
                self._tables.exports.setdefault((export.policy_id, export.export_id, export.tenant_id), ref)
                if announce:
                    await transaction.emit(answer(export, ref))
            return refs

    def _append(self, export: RevisionExported, now: float) -> RevisionRef:
        revisions = self._tables.revisions.setdefault(export.policy_id, [])
        for revision in revisions:
            if revision.digest == export.digest:
                return revision.ref
        revision = RevisionRecord(
            digest=export.digest,
            number=len(revisions) + 1,
            manifest=export.manifest,
            parent=export.parent,
            step=export.step,
            metrics=export.metrics,
            state="published",
            job_id=export.job_id,
            wave_id=export.wave_id,
            created_at=now,
        )
        revisions.append(revision)
        return revision.ref

    def _with_latest(self, policy: PolicyRecord) -> PolicyRecord:
        revisions = self._tables.revisions.get(policy.policy_id, [])
        return replace(policy, latest=revisions[-1].ref if revisions else None)


class MemoryAliases:
    """See `ports.Aliases`."""

    def __init__(self, tables: Tables, ledger: MemoryLedger) -> None:
        self._tables = tables
        self._ledger = ledger

    async def alias(self, policy_id: PolicyId, name: str) -> AliasRecord:
        """Return an alias with the newest rows of its history."""
        rows = self._tables.aliases.get((policy_id, name))
        if not rows:
            raise NotFound(kind="alias", name=name)
        entry = rows[-1][0]
        history = tuple(_move_of(*row) for row in rows[-HISTORY_ROWS:])
        revision = self._ref(policy_id, entry.number)
        return AliasRecord(alias=name, revision=revision, sequence=entry.sequence, history=history)

    async def aliases(self, policy_id: PolicyId) -> Sequence[AliasRecord]:
        """Return all aliases of a policy by name, without histories."""
        names = sorted(alias for owner, alias in self._tables.aliases if owner == policy_id)
        return [replace(await self.alias(policy_id, name), history=()) for name in names]

    async def move(
        self, policy: PolicyRecord, name: str, target: RevisionRef, mover: Mover, *, expected: str | None
    ) -> None:
        """Apply `core.aliases.plan_move` and tell it."""
        async with self._tables.lock, self._ledger.transaction(new_id("req")) as transaction:
            rows = self._tables.aliases.get((policy.policy_id, name), [])
            entry = plan_move(name, rows[-1][0] if rows else None, target, expected=expected)
            if entry is not None:
                self._tables.aliases[policy.policy_id, name] = [*rows, (entry, mover)]
                event = moved(policy, name, entry, target, actor=mover.actor, reason=mover.reason)
                await transaction.emit(event)

    async def roll_back(self, policy: PolicyRecord, name: str, mover: Mover, *, expected: str | None) -> None:
        """Apply `core.aliases.plan_rollback` and tell it."""
        async with self._tables.lock, self._ledger.transaction(new_id("req")) as transaction:
            rows = self._tables.aliases.get((policy.policy_id, name))
            if not rows:
                raise NotFound(kind="alias", name=name)
            current = rows[-1][0]
            below = rows[current.below - 1][0] if current.below else None
            entry = plan_rollback(name, current, below, expected=expected)
            self._tables.aliases[policy.policy_id, name] = [*rows, (entry, mover)]
            target = self._ref(policy.policy_id, entry.number)
            event = moved(policy, name, entry, target, actor=mover.actor, reason=mover.reason)
            await transaction.emit(event)

    def _ref(self, policy_id: PolicyId, number: int) -> RevisionRef:
        return self._tables.revisions[policy_id][number - 1].ref


class MemoryEvaluations:
    """See `ports.Evaluations`."""

    def __init__(self, tables: Tables, ledger: MemoryLedger) -> None:
        self._tables = tables
        self._ledger = ledger

    async def add(self, policy: PolicyRecord, evaluation: EvaluationRecord) -> EvaluationRecord:
        """Store and tell a score of an existing revision, or return the stored one of the same id."""
        async with self._ledger.transaction(new_id("req")) as transaction:
            rows = self._tables.evaluations.setdefault(policy.policy_id, [])
            for row in rows:
                if row.evaluation_id == evaluation.evaluation_id:
                    return row
            rows.append(evaluation)
            await transaction.emit(recorded(policy, evaluation))
            return evaluation

    async def list(self, policy_id: PolicyId, *, limit: int, after: str | None) -> Sequence[EvaluationRecord]:
        """Return a policy's evaluations as they came."""
        rows = self._tables.evaluations.get(policy_id, [])
        start = 0
        if after is not None:
            places = [place for place, row in enumerate(rows, 1) if row.evaluation_id == after]
            if not places:
                raise NotFound(kind="evaluation", name=after)
            start = places[0]
        return rows[start:][:limit]


def _is(policy: PolicyRecord, tenant_id: TenantId, key: str) -> bool:
    return policy.tenant_id == tenant_id and key == (policy.policy_id if is_policy_id(key) else policy.name)


def _move_of(entry: AliasEntry, mover: Mover) -> AliasMove:
    return AliasMove(
        sequence=entry.sequence,
        previous=entry.previous,
        digest=entry.digest,
        number=entry.number,
        actor=mover.actor,
        reason=mover.reason,
        at=mover.at,
    )
