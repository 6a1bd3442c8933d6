"""Differences of two revisions: manifests, metrics, scores, and weights module by module.

Invariants: comparisons run one at a time, tenants in turn, each in a scratch folder that is deleted at its
end; one module of each adapter is in memory.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from mint_common.adapters_format import Manifest, stage_adapter
from mint_common.adapters_format.norms import ModuleChange, compare_adapters
from mint_common.blobs.port import Blobs
from mint_common.catalog import PolicyRecord, RevisionDiff, RevisionRecord
from mint_common.errors import RevisionLostError
from mint_common.ids import Digest, TenantId
from mint_common.runtime.fair_gate import FairGate
from mint_common.tenant_budget import TenantBudget
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.adapters.evaluations_postgres import PostgresEvaluations
from services.registry.core.diffs import changed_config, changed_numbers, scores_by_name, training_numbers
from services.registry.handlers.scratch import TEMPORARY, Scratch

TENANT_DIFFS = 8
"""Comparisons of a tenant that wait or run: each may take a minute, and holds a connection of its gateway."""

MAX_MODULES = 50_000
"""Maximum modules of the cached comparisons, some 300 bytes each."""

_Pair = tuple[TenantId, Digest, Digest]
_Compared = tuple[tuple[Manifest, Manifest], tuple[ModuleChange, ...]]
"""Two manifests, and the modules of their adapters: no later event changes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffHandler:
    """Compares revisions."""

    catalog: PostgresCatalog
    evaluations: PostgresEvaluations
    blobs: Blobs
    scratch: Scratch = TEMPORARY
    _turns: FairGate = field(default_factory=lambda: FairGate(1, callers=_callers()), init=False)
    _cached: OrderedDict[_Pair, _Compared] = field(default_factory=OrderedDict, init=False)

    async def diff(self, policy: PolicyRecord, before: RevisionRecord, after: RevisionRecord) -> RevisionDiff:
        """Compare two revisions. Raises RevisionLostError, BlobMissing, BlobCorrupt, Overloaded."""
        for each in (before, after):
            if each.fault is not None:
                raise RevisionLostError(name=policy.name, number=each.number, fault=each.fault)
        manifests, modules = await self._compared(policy, before, after)
        scores = [await self.evaluations.scores(policy.policy_id, each.number) for each in (before, after)]
        return RevisionDiff(
            before=before,
            after=after,
            config=changed_config(*manifests),
            metrics=changed_numbers(training_numbers(before), training_numbers(after)),
            scores=changed_numbers(*map(scores_by_name, scores)),
            modules=modules,
        )

    async def _compared(
        self, policy: PolicyRecord, before: RevisionRecord, after: RevisionRecord
    ) -> _Compared:
        """Return the comparison of a pair: a cached one, or one that is made when its tenant has its turn."""
        pair = policy.tenant_id, before.digest, after.digest
        if pair not in self._cached:
            async with self._turns.turn(policy.tenant_id):
                if pair not in self._cached:  # else made for another caller meanwhile
                    compared = await self._compare(policy, before, after)
                    self._cache(pair, compared)
                    return compared
        self._cached.move_to_end(pair)
        return self._cached[pair]

    async def _compare(
        self, policy: PolicyRecord, before: RevisionRecord, after: RevisionRecord
    ) -> _Compared:
        facts = await self.catalog.base(policy.base)
        async with self.scratch.folder("diff-") as scratch:
            manifests = (
                await stage_adapter(self.blobs, before.manifest, scratch / "before"),
                await stage_adapter(self.blobs, after.manifest, scratch / "after"),
            )
            modules = await asyncio.to_thread(compare_adapters, facts, scratch / "before", scratch / "after")
        return manifests, tuple(modules)

    def _cache(self, pair: _Pair, compared: _Compared) -> None:
        """Cache a comparison, and drop those that were requested longest ago."""
        self._cached[pair] = compared
        while len(self._cached) > 1 and sum(len(each) for _, each in self._cached.values()) > MAX_MODULES:
            self._cached.popitem(last=False)


def _callers() -> TenantBudget:
    return TenantBudget(what="the queue of your tenant's comparisons", limit=TENANT_DIFFS)
