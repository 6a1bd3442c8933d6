"""What the gateway says of engines and adapters, as the cells of tables."""

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """How busy an engine is (`GET /mint/v1/engines`)."""

    requests: int
    loads_waiting: int
    loads_running: int
    in_slots: int
    in_host: int
    host_bytes: int
    host_bytes_capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNow:
    """One engine; ``load`` is None when it did not say."""

    engine_id: str
    base: str
    slots: int
    host_capacity: int
    load: Busy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterNow:
    """One revision on one engine (`GET /mint/v1/adapters`)."""

    engine_id: str
    policy: str
    number: int
    digest: str
    tier: str
    readiness: str
    size_bytes: int
    pinned: bool
    in_flight: int
    last_used_at: float
    queue_position: int | None = None


ENGINE_COLUMNS = ("engine", "base", "requests", "slots", "host", "host MiB", "loads running", "waiting")
ADAPTER_COLUMNS = ("revision", "engine", "tier", "state", "MiB", "in use", "pinned", "last use", "digest")

_TIERS = ("slot", "host", "stored")


def engine_cells(engine: EngineNow) -> tuple[str, ...]:
    """Return an engine's cells, in the order of ENGINE_COLUMNS."""
    busy = engine.load
    if busy is None:
        return (engine.engine_id, engine.base, *("?" for _ in ENGINE_COLUMNS[2:]))
    return (
        engine.engine_id,
        engine.base,
        str(busy.requests),
        f"{busy.in_slots}/{engine.slots}",
        f"{busy.in_host}/{engine.host_capacity}",
        f"{busy.host_bytes / MIB:.0f}/{busy.host_bytes_capacity / MIB:.0f}",
        str(busy.loads_running),
        str(busy.loads_waiting),
    )


def adapter_cells(adapter: AdapterNow, *, now: float) -> tuple[str, ...]:
    """Return an adapter's cells, in the order of ADAPTER_COLUMNS."""
    return (
        f"{adapter.policy}@{adapter.number}",
        adapter.engine_id,
        adapter.tier,
        _state(adapter),
        f"{adapter.size_bytes / MIB:.1f}",
        str(adapter.in_flight or ""),
        "yes" if adapter.pinned else "",
        _ago(now - adapter.last_used_at) if adapter.last_used_at else "",
        adapter.digest[:19],
    )


def nearest_first(adapters: Sequence[AdapterNow]) -> list[AdapterNow]:
    """Return adapters by tier, in each the most recently used first."""
    return sorted(
        adapters,
        key=lambda a: (_TIERS.index(a.tier), -a.last_used_at, a.policy, a.number, a.engine_id),
    )


def _state(adapter: AdapterNow) -> str:
    if adapter.queue_position is not None:
        return f"queued ({adapter.queue_position + 1}.)"
    return adapter.readiness


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
