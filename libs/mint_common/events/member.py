"""Members of the fleet: engines, trainers and gateways that announce themselves to the registry."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mint_common.events.event import Event
from mint_common.ids import TenantId

NO_TENANT = TenantId("-")
"""Tenant of events that are about no tenant's work: no stream and no webhook has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberChanged(Event):
    """An engine, a trainer or a gateway joined, changed its state or its address, fell silent, or left.

    ``base`` is the one that it has, or ``-``, and ``tenant_id`` is ``-``. The registry's list is the truth.
    """

    type: ClassVar[str] = "member.changed"
    key: ClassVar[tuple[str, ...]] = ("change_id",)

    change_id: str
    kind: Literal["loader", "trainer", "gateway"]
    member_id: str
    epoch: str
    url: str
    state: Literal["starting", "ready", "draining", "silent", "gone"]
