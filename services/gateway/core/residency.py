"""Residency as a tenant sees it: its own revisions on the engines, by the names that it knows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mint_common.generation import AdapterStatus
from mint_common.ids import Digest
from services.gateway.core.json_types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedRevision:
    """A revision of the tenant's."""

    policy: str
    number: int


def describe_residency(
    resident: Sequence[tuple[str, Sequence[AdapterStatus]]], owned: Mapping[Digest, Sequence[OwnedRevision]]
) -> list[JsonObject]:
    """Return one entry per engine and revision of the tenant's; others' adapters are left out.

    ``resident`` is (engine id, its adapters). Two policies may own the same digest: equal weights are one
    revision, and both have it resident.
    """
    return [
        {"engine_id": engine_id, "policy": owner.policy, "number": owner.number, **asdict(status)}
        for engine_id, adapters in resident
        for status in adapters
        for owner in owned.get(status.digest, ())
    ]
