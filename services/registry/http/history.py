"""Where revisions come from, and what two of them differ in."""

from collections import defaultdict
from typing import Annotated

from fastapi import FastAPI, Query

from mint_common.catalog import Lineage, RevisionDiff
from mint_common.errors import InvalidField
from services.registry.core.lineage import MOST_NODES, MOST_STEPS, Reach, lineage_of
from services.registry.core.names import policy_key, revision_key
from services.registry.http.context import Registry, Tenant

Steps = Annotated[int, Query(ge=0, le=MOST_STEPS)]
_REVISION = "/internal/tenants/{tenant_id}/policies/{policy}/revisions/{revision}"


def add_history_routes(http: FastAPI, registry: Registry) -> None:
    """Add lineage and differences."""

    @http.get(_REVISION + "/lineage")
    async def get_lineage(
        tenant_id: Tenant, policy: str, revision: str, ancestors: Steps = MOST_STEPS, descendants: Steps = 1
    ) -> Lineage:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        known = await registry.catalog.revision(found.policy_id, revision_key(revision))
        reach = Reach(ancestors=ancestors, descendants=descendants)
        related = await registry.catalog.related(
            found.policy_id, known.number, reach.beyond, limit=MOST_NODES
        )
        aliases: dict[int, list[str]] = defaultdict(list)
        after: str | None = None
        while page := await registry.aliases.aliases(found.policy_id, after=after):
            for alias in page:
                aliases[alias.revision.number].append(alias.alias)
            after = page[-1].alias
        return lineage_of(found.policy_id, known, related, reach, aliases)

    @http.get(_REVISION + "/diff")
    async def get_diff(
        tenant_id: Tenant, policy: str, revision: str, against: str | None = None
    ) -> RevisionDiff:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        after = await registry.catalog.revision(found.policy_id, revision_key(revision))
        other = against or after.parent
        if other is None:
            problem = f"revision {after.number} has no parent to be compared with: name another revision"
            raise InvalidField(field="against", problem=problem)
        before = await registry.catalog.revision(found.policy_id, revision_key(other))
        return await registry.diffs.diff(found, before, after)
