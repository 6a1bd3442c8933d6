"""What goes wrong on the machine of a trainer: a blob that cannot be read, a computation that fails."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mint_common.blobs.localfs import LocalBlobs
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import Unavailable
from mint_common.settings import BlobSettings
from services.trainer import app
from services.trainer.adapters.policies import resident_policies
from services.trainer.adapters.policies.tasks import PolicyTask


@dataclass(slots=True, kw_only=True)
class Troubles:
    """Which keys of the blob store fail, by a part of their names, and what has been tried in vain."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    deletes: set[str] = field(default_factory=set)
    tried: list[str] = field(default_factory=list)

    def check(self, parts: set[str], key: str) -> None:
        """Raise Unavailable for a key that fails."""
        if any(part in key for part in parts):
            self.tried.append(key)
            raise Unavailable(what="the blob folder", problem="Input/output error")


class FaultyBlobs(LocalBlobs):
    """A blob folder of which some files fail."""

    def __init__(self, root: Path, troubles: Troubles) -> None:
        super().__init__(root)
        self._troubles = troubles

    async def get(self, claim: Claim) -> bytes:
        """Read, or fail."""
        self._troubles.check(self._troubles.reads, claim.uri)
        return await super().get(claim)

    async def put(self, key: str, data: bytes) -> Claim:
        """Write, or fail."""
        self._troubles.check(self._troubles.writes, key)
        return await super().put(key, data)

    async def put_new(self, key: str, data: bytes) -> Claim:
        """Write, or fail."""
        self._troubles.check(self._troubles.writes, key)
        return await super().put_new(key, data)

    async def delete(self, key: str) -> None:
        """Delete, or fail."""
        self._troubles.check(self._troubles.deletes, key)
        await super().delete(key)


def spoil_blobs(monkeypatch: pytest.MonkeyPatch) -> Troubles:
    """Give trainers of this process blobs that can fail."""
    troubles = Troubles()

    async def open_faulty(settings: BlobSettings) -> Blobs:
        return FaultyBlobs(Path(settings.url.removeprefix("file://")), troubles)

    monkeypatch.setattr(app, "open_blobs", open_faulty)
    return troubles


def spoil_computing(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[list[PolicyTask]], BaseException | None]
) -> None:
    """Let plans of trainers of this process fail where ``fails`` says with what."""
    carry_out = resident_policies.carry_out

    def carried_out(base: Any, tiers: Any, tasks: Any, *more: Any, **options: Any) -> Any:  # as the original
        if (fault := fails(list(tasks))) is not None:
            raise fault
        return carry_out(base, tiers, tasks, *more, **options)

    monkeypatch.setattr(resident_policies, "carry_out", carried_out)
