"""The registry's store in memory: for tests, and the reference of what a store does."""

from collections.abc import Sequence
from dataclasses import replace

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import (
    OwnedRevision,
    PolicyFilter,
    PolicyRecord,
    Resolution,
    RevisionFilter,
    RevisionRecord,
    RevisionState,
    SettableState,
)
from mint_common.claims import RevisionRef
from mint_common.errors import (
    AlreadyExists,
    BaseChanged,
    InvalidField,
    MintError,
    NotFound,
    RevisionInUse,
    RevisionLostError,
)
from mint_common.events import Event, RevisionExported
from mint_common.ids import BaseName, Digest, PolicyId, TenantId, new_id
from mint_common.runtime.clock import SystemClock
from mint_common.testing.ledger_memory import MemoryLedger
from services.registry.adapters.memory_custody import vouch_for
from services.registry.adapters.memory_lineage import relatives
from services.registry.adapters.memory_tables import Tables
from services.registry.core.exports import Refusal, answer, state_changed
from services.registry.core.lineage import Reach, Relative
from services.registry.core.names import DEFAULT_ALIAS, ModelName, is_policy_id
from services.registry.core.policies import PolicyChange, change_policy, changed, created, selects
from services.registry.core.resolve import base_resolution, policy_resolution
from services.registry.ports import ALL_POLICIES, ALL_REVISIONS


class MemoryCatalog:
    """See `ports.Catalog`."""

    def __init__(self, tables: Tables, ledger: MemoryLedger) -> None:
        self._tables = tables
        self._ledger = ledger

    async def put_base(self, facts: BaseFacts, *, now: float) -> BaseFacts:  # noqa: ARG002  # no answer shows it
        """Store a base, or return what is stored."""
        found = self._tables.bases.setdefault(facts.name, facts)
        if found.digest != facts.digest:
            raise BaseChanged(name=facts.name, found=found.digest, expected=facts.digest)
        if not found.norms:
            found = self._tables.bases[facts.name] = replace(found, norms=facts.norms)
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
        self._add_policy(policy)
        await self._tell(created(policy))

    def _add_policy(self, policy: PolicyRecord) -> None:
        if policy.name in self._tables.bases:
            raise InvalidField(field="name", problem=f"{policy.name!r} is the name of a base")
        if any(_is(other, policy.tenant_id, policy.name) for other in self._tables.policies.values()):
            raise AlreadyExists(kind="policy", name=policy.name)
        if policy.base not in self._tables.bases:
            raise NotFound(kind="base", name=policy.base)
        if all(tenant.tenant_id != policy.tenant_id for tenant in self._tables.tenants.values()):
            raise NotFound(kind="tenant", name=policy.tenant_id)
        self._tables.policies[policy.policy_id] = policy

    async def change_policy(
        self, policy_id: PolicyId, change: PolicyChange, *, expected: int | None
    ) -> PolicyRecord:
        """Describe a policy otherwise."""
        if policy_id not in self._tables.policies:
            raise NotFound(kind="policy", name=policy_id)
        policy = self._tables.policies[policy_id]
        described = change_policy(policy, change, expected=expected)
        if described != policy:
            self._tables.policies[policy_id] = described
            await self._tell(changed(described))
        return self._with_latest(described)

    async def policy(self, tenant_id: TenantId, key: PolicyId | str) -> PolicyRecord:
        """Return a tenant's policy by id or name."""
        for policy in self._tables.policies.values():
            if _is(policy, tenant_id, key):
                return self._with_latest(policy)
        raise NotFound(kind="policy", name=key)

    async def policies(
        self, tenant_id: TenantId, wanted: PolicyFilter = ALL_POLICIES, *, limit: int, after: str | None
    ) -> Sequence[PolicyRecord]:
        """Return a page of a tenant's policies."""
        own = [policy for policy in self._tables.policies.values() if policy.tenant_id == tenant_id]

        def place(policy: PolicyRecord) -> tuple[float, str]:
            return policy.created_at if wanted.is_by_time else 0.0, policy.name

        start = (0.0, after or "")
        if wanted.is_by_time and after is not None:
            cursor = [policy for policy in own if policy.name == after]
            if not cursor:
                raise InvalidField(field="after", problem=f"the tenant has no policy {after!r}")
            start = place(cursor[0])
        found = [policy for policy in own if selects(wanted, policy) and place(policy) > start]
        return [self._with_latest(policy) for policy in sorted(found, key=place)[:limit]]

    async def revision(self, policy_id: PolicyId, key: int | Digest) -> RevisionRecord:
        """Return a revision by number or digest."""
        for revision in self._tables.revisions.get(policy_id, []):
            if key in (revision.number, revision.digest):
                return revision
        raise NotFound(kind="revision", name=str(key))

    async def revisions(
        self, policy_id: PolicyId, wanted: RevisionFilter = ALL_REVISIONS, *, limit: int, after: int
    ) -> Sequence[RevisionRecord]:
        """Return a page of a policy's revisions by number."""
        rest = self._tables.revisions.get(policy_id, [])[after:]
        return [
            revision
            for revision in rest
            if wanted.state in (None, revision.state)
            and (wanted.created_after is None or revision.created_at >= wanted.created_after)
            and (wanted.created_before is None or revision.created_at < wanted.created_before)
        ][:limit]

    async def related(
        self, policy_id: PolicyId, number: int, reach: Reach, *, limit: int
    ) -> Sequence[Relative]:
        """Return a revision's ancestors and descendants within reach, nearest first."""
        return relatives(self._tables.revisions.get(policy_id, []), number, reach)[:limit]

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
        elif revision is None:
            revision = self._newest(policy.policy_id, "quarantined")
        if revision is None:
            return policy_resolution(name, policy, None)
        row = self._tables.revisions[policy.policy_id][revision.number - 1]
        return policy_resolution(name, policy, revision, state=row.state, fault=row.fault)

    async def owned(self, tenant_id: TenantId, digests: Sequence[Digest]) -> Sequence[OwnedRevision]:
        """Return which of these digests are a tenant's, of which policies."""
        return [
            OwnedRevision(policy=policy.name, base=policy.base, revision=revision.ref)
            for policy in sorted(self._tables.policies.values(), key=lambda policy: policy.name)
            if policy.tenant_id == tenant_id
            for revision in self._tables.revisions.get(policy.policy_id, [])
            if revision.digest in digests
        ]

    async def set_state(self, policy: PolicyRecord, number: int, state: SettableState) -> RevisionRecord:
        """Retire a revision, or restore it."""
        found = await self.revision(policy.policy_id, number)
        pointing = [
            alias
            for (owner, alias), rows in sorted(self._tables.aliases.items())
            if owner == policy.policy_id and rows[-1][0].number == number
        ]
        if pointing and state == "retired":
            raise RevisionInUse(number=number, aliases=", ".join(pointing))
        if found.state == state:
            return found
        if found.fault == "collected":
            raise RevisionLostError(name=policy.name, number=number, fault=found.fault)
        changed = replace(found, state=state)
        self._tables.revisions[policy.policy_id][number - 1] = changed
        self._tables.changes[policy.policy_id, number] += 1
        if state == "retired":
            self._tables.retired_at[policy.policy_id, number] = SystemClock().now()
        sequence = self._tables.changes[policy.policy_id, number]
        async with self._ledger.transaction(new_id("req")) as transaction:
            await transaction.emit(state_changed(policy, changed, sequence=sequence))
        return changed

    async def settle_export(self, export: RevisionExported, refusal: Refusal | None, *, now: float) -> None:
        """Commit the verdict on an export and tell it."""
        key = (export.policy_id, export.export_id, export.tenant_id)
        async with self._ledger.transaction(export.id) as transaction:
            if key not in self._tables.exports:
                if refusal is None:
                    await transaction.emit(*vouch_for(self._tables, export))
                self._tables.exports[key] = refusal or self._append(export, now)
            await transaction.emit(answer(export, self._tables.exports[key]))

    async def add_policies(self, policies: Sequence[PolicyRecord], *, announce: bool = False) -> None:
        """Store many new policies, all or none."""
        before = dict(self._tables.policies)
        try:
            for policy in policies:
                self._add_policy(policy)
        except MintError:
            self._tables.policies = before
            raise
        if announce:
            await self._tell(*map(created, policies))

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
                await transaction.emit(*vouch_for(self._tables, export))
                ref = self._append(export, now)
                refs.append(ref)
                self._tables.exports.setdefault((export.policy_id, export.export_id, export.tenant_id), ref)
                if announce:
                    await transaction.emit(answer(export, ref))
            return refs

    async def _tell(self, *events: Event) -> None:
        async with self._ledger.transaction(new_id("req")) as transaction:
            await transaction.emit(*events)

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
        return replace(policy, latest=self._newest(policy.policy_id, "published"))

    def _newest(self, policy_id: PolicyId, state: RevisionState) -> RevisionRef | None:
        revisions = self._tables.revisions.get(policy_id, [])
        found = [revision.ref for revision in revisions if revision.state == state]
        return found[-1] if found else None


def _is(policy: PolicyRecord, tenant_id: TenantId, key: str) -> bool:
    return policy.tenant_id == tenant_id and key == (policy.policy_id if is_policy_id(key) else policy.name)
