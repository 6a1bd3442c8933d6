"""Residency as a tenant sees it: its own revisions on the engines, by the names that it knows."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mint_common.catalog import OwnedRevision
from mint_common.generation import AdapterStatus, EngineInfo, EngineLoad
from mint_common.ids import Digest, EngineId


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry(EngineInfo):
    """An engine and how busy it is; ``load`` is None when it did not say."""

    load: EngineLoad | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry(AdapterStatus):
    """Where one revision of the tenant's is on one engine."""

    engine_id: EngineId
    policy: str
    number: int


def describe_engine(info: EngineInfo, load: EngineLoad | None) -> EngineEntry:
    """Return an engine's entry."""
    return EngineEntry(**asdict(info) | {"load": load})


def describe_residency(
    resident: Sequence[tuple[EngineId, Sequence[AdapterStatus]]], owned: Sequence[OwnedRevision]
) -> list[AdapterEntry]:
    """Return one entry per engine and revision of the tenant's; others' adapters are left out.

    Two policies may own the same digest: equal weights are one revision, and both have it resident.
    """
    owners: dict[Digest, list[OwnedRevision]] = defaultdict(list)
    for each in owned:
        owners[each.revision.digest].append(each)
    return [
        AdapterEntry(engine_id=engine_id, policy=owner.policy, number=owner.revision.number, **asdict(status))
        for engine_id, adapters in resident
        for status in adapters
        for owner in owners.get(status.digest, ())
    ]
