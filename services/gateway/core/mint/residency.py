"""Residency as a tenant sees it: its own revisions on the engines, under its own names."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from mint_common.catalog import OwnedRevision
from mint_common.generation import AdapterChange, AdapterStatus, EngineInfo, EngineLoad
from mint_common.ids import Digest, EngineId


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry(EngineInfo):
    """An engine and its load by all tenants or one; ``load`` None is unknown.

    A ``restarting`` engine is expected back in ``retry_after_seconds``; a ``silent`` one does not answer.
    """

    load: EngineLoad | None
    state: Literal["serving", "silent", "restarting"] = "serving"
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry(AdapterStatus):
    """The place of one revision of the tenant on one engine."""

    engine_id: EngineId
    policy: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChangeEntry(AdapterChange):
    """A change of one revision of the tenant on one engine."""

    engine_id: EngineId
    policy: str
    number: int


def describe_engine(info: EngineInfo, load: EngineLoad | None) -> EngineEntry:
    """Return an engine's entry."""
    shown = load and EngineLoad(**{each.name: getattr(load, each.name) for each in fields(EngineLoad)})
    return EngineEntry(**asdict(info) | {"load": shown})


def describe_silent(info: EngineInfo) -> EngineEntry:
    """Return the entry of an engine that does not answer."""
    return EngineEntry(**asdict(info), load=None, state="silent")


def describe_restarting(info: EngineInfo, retry_after_seconds: int) -> EngineEntry:
    """Return the entry of an engine that is expected back."""
    return EngineEntry(**asdict(info), load=None, state="restarting", retry_after_seconds=retry_after_seconds)


def load_of_tenant(adapters: Sequence[AdapterStatus], *, whole: EngineLoad) -> EngineLoad:
    """Return an engine's load by one tenant; of the whole engine only the size."""
    in_host = [status for status in adapters if status.tier != "stored"]
    states = [status.state for status in adapters]
    return EngineLoad(
        requests=sum(status.in_flight for status in adapters),
        loads_waiting=states.count("queued"),
        loads_running=states.count("fetching"),
        in_slots=sum(status.tier == "slot" for status in in_host),
        in_host=len(in_host),
        host_bytes=sum(status.host_bytes for status in in_host),
        host_bytes_capacity=whole.host_bytes_capacity,
    )


def describe_residency(
    resident: Sequence[tuple[EngineId, Sequence[AdapterStatus]]], owned: Sequence[OwnedRevision]
) -> list[AdapterEntry]:
    """Return one entry per engine and revision of the tenant's; others' adapters are left out.

    Two policies may own the same digest: equal weights are one revision, and both have it resident.
    """
    owners = _by_digest(owned)
    return [
        AdapterEntry(engine_id=engine_id, policy=owner.policy, number=owner.revision.number, **asdict(status))
        for engine_id, adapters in resident
        for status in adapters
        for owner in owners.get(status.digest, ())
    ]


def describe_changes(
    changed: Sequence[tuple[EngineId, Sequence[AdapterChange]]], owned: Sequence[OwnedRevision]
) -> list[AdapterChangeEntry]:
    """Return one entry per engine, change and revision of the tenant's, the latest first."""
    owners = _by_digest(owned)
    entries = [
        AdapterChangeEntry(
            engine_id=engine_id, policy=owner.policy, number=owner.revision.number, **asdict(change)
        )
        for engine_id, changes in changed
        for change in changes
        for owner in owners.get(change.digest, ())
    ]
    return sorted(entries, key=lambda entry: -entry.at)


def _by_digest(owned: Sequence[OwnedRevision]) -> Mapping[Digest, Sequence[OwnedRevision]]:
    owners: dict[Digest, list[OwnedRevision]] = defaultdict(list)
    for each in owned:
        owners[each.revision.digest].append(each)
    return owners
