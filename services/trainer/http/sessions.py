"""Internal HTTP: which training sessions this trainer's base has, and where they are."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from fastapi import FastAPI

from services.trainer.core.session import Session
from services.trainer.handlers.operations import Operations
from services.trainer.ports.policies import Policies
from services.trainer.ports.waves import SessionStore

Connection = TypeVar("Connection")


def add_routes(
    http: FastAPI, sessions: SessionStore[Connection], policies: Policies, operations: Operations
) -> None:
    """Add the trainer's routes to its HTTP application."""

    @http.get("/internal/sessions")
    async def list_sessions() -> object:
        """Return every managed session of the base, by policy id, with its tier, and what swapping has cost.

        ``held`` are revisions that sessions of operations go on from, or that clients named; ``in_memory``
        counts the policies of both kinds of session by their tier.
        """
        found: Sequence[Session] = await sessions.list()
        tiers = policies.tiers()
        return {
            "sessions": [
                {**msgspec.to_builtins(session), "tier": tiers.get(session.policy_id, "stored")}
                for session in found
            ],
            "held": await operations.held_revisions(),
            "in_memory": Counter(tiers.values()),
            "swaps": msgspec.to_builtins(policies.swaps()),
        }
