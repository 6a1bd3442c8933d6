"""Internal HTTP: which training sessions this trainer's base has, and where they are."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from fastapi import FastAPI

from services.trainer.core.session import Session
from services.trainer.ports.policies import Policies
from services.trainer.ports.waves import SessionStore

Connection = TypeVar("Connection")


def add_routes(http: FastAPI, sessions: SessionStore[Connection], policies: Policies) -> None:
    """Add the trainer's routes to its HTTP application."""

    @http.get("/internal/sessions")
    async def list_sessions() -> object:
        """Return every session of the base, by policy id, with its tier, and what swapping has cost."""
        found: Sequence[Session] = await sessions.list()
        tiers = policies.tiers()
        return {
            "sessions": [
                {**msgspec.to_builtins(session), "tier": tiers.get(session.policy_id, "stored")}
                for session in found
            ],
            "swaps": msgspec.to_builtins(policies.swaps()),
        }
