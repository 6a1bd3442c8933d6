"""Finds the holders of a policy, such as jobs and pins: they prevent its removal.

The registry knows aliases and rules, and checks them as it removes; the rest is asked before.
Work that begins in between fails, because its policy is gone.
"""

from collections.abc import Sequence

import msgspec

from mint_common.authority import Caller
from mint_common.catalog import PolicyRecord
from services.gateway.core.tinker.records import ALIVE_SECONDS
from services.gateway.http.mint.context import CatalogParts, JobParts
from services.gateway.http.mint.residency import entries_of
from services.gateway.http.tinker.context import Tinker


async def holders_of(
    policy: PolicyRecord, caller: Caller, catalog: CatalogParts, jobs: JobParts, tinker: Tinker
) -> Sequence[str]:
    """Return what holds a policy besides its aliases and rules, each in a word and its id.

    Raises Unavailable when that cannot be known now.
    """
    names = ("tenants", caller.tenant_id, "policies", policy.policy_id, "work")
    _, content = await jobs.rollout.forward("GET", names, caller)
    holders = msgspec.json.decode(content, type=list[str])
    pinned = {
        entry.number
        for entry in await entries_of(catalog, caller.tenant_id)
        if entry.policy == policy.name and entry.pinned
    }
    holders += [f"pinned revision {number}" for number in sorted(pinned)]
    run = await tinker.runs.run_of_policy(policy.policy_id)
    if run is not None:
        session = await tinker.runs.session(run.session_id)
        seen_after = tinker.clock.now() - ALIVE_SECONDS
        if session is not None and session.finish is None and session.seen_at > seen_after:
            holders.append(f"open Tinker session {session.session_id}")
        if run.is_trained:
            trainer = await catalog.trainers.find(policy.base)
            saved = await trainer.checkpoints(caller.tenant_id, policy_id=policy.policy_id, limit=MAX_NAMED)
            holders += [f"Tinker checkpoint {each.name}" for each in saved]
    return holders[:MAX_NAMED]


MAX_NAMED = 5
"""Maximum holders that a refusal names."""
