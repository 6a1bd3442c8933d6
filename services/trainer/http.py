"""Internal HTTP: which training sessions this trainer's base has."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from fastapi import FastAPI

from services.trainer.core.session import Session
from services.trainer.ports import SessionStore

Connection = TypeVar("Connection")


def add_routes(http: FastAPI, sessions: SessionStore[Connection]) -> None:
    """Add the trainer's routes to its HTTP application."""

    @http.get("/internal/sessions")
    async def list_sessions() -> object:
        """Return every session of the base, by policy id."""
        found: Sequence[Session] = await sessions.list()
        return msgspec.to_builtins({"sessions": found})
