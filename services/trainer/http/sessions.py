"""Internal HTTP: which training sessions this trainer's base has, and where they are."""

from collections import Counter
from typing import Annotated

import msgspec
from fastapi import FastAPI, Query, Response

from services.trainer.handlers.lease_term import OperationParts
from services.trainer.http.packed import packed

MAX_HELD = 100_000
"""Digests of a page."""


def add_routes(http: FastAPI, parts: OperationParts) -> None:
    """Add the trainer's routes to its HTTP application."""

    @http.get("/internal/held")
    async def list_held(
        after: str = "", limit: Annotated[int, Query(ge=1, le=MAX_HELD)] = MAX_HELD
    ) -> Response:
        """Return revisions that sessions go on from, or that clients named, by digest."""
        held = await parts.store.held_revisions(now=parts.clock.now(), after=after, limit=limit)
        return packed(held)

    @http.get("/internal/sessions")
    async def list_sessions() -> object:
        """Return every managed session of the base, by policy id, with its tier, and what swapping has cost.

        ``held`` are revisions that sessions go on from, or that clients named; ``in_memory`` counts the
        policies of both kinds of session by their tier.
        """
        found = await parts.store.managed_sessions()
        tiers = parts.policies.tiers()
        return {
            "sessions": [
                {
                    "policy_id": session.policy_id,
                    "tenant_id": session.tenant_id,
                    "lora": msgspec.to_builtins(session.lora),
                    "step": session.step,
                    "digest": session.digest,
                    "parent": session.parent,
                    "tier": tiers.get(session.policy_id, "stored"),
                }
                for session in found
            ],
            "held": await parts.store.held_revisions(now=parts.clock.now()),
            "in_memory": Counter(tiers.values()),
            "swaps": msgspec.to_builtins(parts.policies.swaps()),
        }
