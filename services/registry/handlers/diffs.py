"""Differences of two revisions: manifests, metrics, scores, and weights module by module.

Invariants: comparisons run one at a time, tenants in turn, each in a scratch folder that is deleted at its
end; one module of each adapter is in memory.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from mint_common.adapters_format import Manifest, stage_adapter
from mint_common.adapters_format.norms import compare_adapters
from mint_common.blobs.port import Blobs
from mint_common.catalog import PolicyRecord, RevisionDiff, RevisionRecord
from mint_common.errors import RevisionLostError
from mint_common.runtime.fair_gate import FairGate
from mint_common.tenant_budget import TenantBudget
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.adapters.evaluations_postgres import PostgresEvaluations
from services.registry.core.diffs import changed_config, changed_numbers, scores_by_name, training_numbers
from services.registry.handlers.scratch import TEMPORARY, Scratch

TENANT_DIFFS = 8
"""Comparisons of a tenant that wait or run: each may take a minute, and holds a connection of its gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffHandler:
    """Compares revisions."""

    catalog: PostgresCatalog
    evaluations: PostgresEvaluations
    blobs: Blobs
    scratch: Scratch = TEMPORARY
    _turns: FairGate = field(default_factory=lambda: FairGate(1, callers=_callers()), init=False)

    async def diff(self, policy: PolicyRecord, before: RevisionRecord, after: RevisionRecord) -> RevisionDiff:
        """Compare two revisions. Raises RevisionLostError, BlobMissing, BlobCorrupt, Overloaded."""
        async with self._turns.turn(policy.tenant_id):
            return await self._diff(policy, before, after)

    async def _diff(
        self, policy: PolicyRecord, before: RevisionRecord, after: RevisionRecord
    ) -> RevisionDiff:
        facts = await self.catalog.base(policy.base)
        scores = [await self.evaluations.scores(policy.policy_id, each.number) for each in (before, after)]
        async with self.scratch.folder("diff-") as scratch:
            manifests = [
                await self._stage(policy, each, scratch / name)
                for each, name in ((before, "before"), (after, "after"))
            ]
            modules = await asyncio.to_thread(compare_adapters, facts, scratch / "before", scratch / "after")
        return RevisionDiff(
            before=before,
            after=after,
            config=changed_config(*manifests),
            metrics=changed_numbers(training_numbers(before), training_numbers(after)),
            scores=changed_numbers(*map(scores_by_name, scores)),
            modules=tuple(modules),
        )

    async def _stage(self, policy: PolicyRecord, revision: RevisionRecord, folder: Path) -> Manifest:
        if revision.fault is not None:
            raise RevisionLostError(name=policy.name, number=revision.number, fault=revision.fault)
        return await stage_adapter(self.blobs, revision.manifest, folder)


def _callers() -> TenantBudget:
    return TenantBudget(what="the queue of your tenant's comparisons", limit=TENANT_DIFFS)
