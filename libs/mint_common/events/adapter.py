"""Adapters: a revision's weights on an engine."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mint_common.claims import RevisionRef
from mint_common.events.event import Event
from mint_common.ids import Digest, EngineId


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWanted(Event):
    """A revision will be used soon: load it under admission control."""

    type: ClassVar[str] = "adapter.wanted"
    key: ClassVar[tuple[str, ...]] = ("request_id",)

    request_id: str
    revision: RevisionRef
    priority: Literal["request", "prewarm", "prefetch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent(Event):
    """A change of an adapter on an engine; see `AdapterLoaded` for the fields."""

    key: ClassVar[tuple[str, ...]] = ("engine_id", "epoch", "sequence")

    engine_id: EngineId
    epoch: str
    sequence: int
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLoaded(EngineEvent):
    """An adapter is ready on an engine: requests no longer wait for its load.

    ``epoch`` identifies the engine's run and ``sequence`` counts its residency changes, so that a reader can
    order them and drop those of a dead engine.
    """

    type: ClassVar[str] = "adapter.loaded"

    tier: Literal["host", "slot"]
    size_bytes: int
    load_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEvicted(EngineEvent):
    """An adapter left an engine; the next request for it reloads it.

    ``reason``: another adapter needed the room, the tenant asked for it, or the engine had lost it.
    """

    type: ClassVar[str] = "adapter.evicted"

    reason: Literal["room", "asked", "lost"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterNonFinite(EngineEvent):
    """An adapter computed numbers that are not finite: this engine refuses it until it is restored.

    ``tenant_id`` sent the request. The registry quarantines every revision of that digest.
    """

    type: ClassVar[str] = "adapter.nonfinite"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFailed(EngineEvent):
    """An adapter could not be loaded; the engine is untouched."""

    type: ClassVar[str] = "adapter.failed"

    code: str
    reason: str
