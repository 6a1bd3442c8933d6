"""Members of a fleet: engines, trainers and gateways that say of themselves that they are there.

A member renews its row at the registry every `BEAT_SECONDS`. After `LEASE_SECONDS` without a beat it gets no
requests; the row stays for `FORGET_SECONDS`, as its host may only be cut off.
"""

from dataclasses import dataclass
from typing import Literal

from mint_common.errors import MintError
from mint_common.ids import BaseName

MemberKind = Literal["loader", "trainer", "gateway"]
MemberState = Literal["starting", "ready", "draining"]

BEAT_SECONDS = 2.0
LEASE_SECONDS = 10.0
NO_BASE = BaseName("-")
FORGET_SECONDS = 3600.0
"""Time after which a silent member counts as gone, for a collection of unused bytes too."""


class MemberReplaced(MintError):
    """Another {kind} named {name!r} started later: give each process of a fleet a name of its own."""

    code = "member_replaced"
    http_status = 412


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a member says of itself. ``epoch`` is of its process, which began at ``started_at`` (Unix time).
    A gateway's base is `NO_BASE`.

    ``member_id`` is its name among those of its kind, the same at every start; ``url`` is where others reach
    its internal HTTP.
    """

    kind: MemberKind
    member_id: str
    epoch: str
    started_at: float
    url: str
    base: BaseName
    state: MemberState


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member as the registry has it; ``silent_seconds`` is the time since its last beat."""

    kind: MemberKind
    member_id: str
    epoch: str
    url: str
    base: BaseName
    state: MemberState
    silent_seconds: float

    @property
    def is_alive(self) -> bool:
        """Return whether its lease has not expired."""
        return self.silent_seconds < LEASE_SECONDS

    @property
    def takes_requests(self) -> bool:
        """Return whether it is chosen for requests."""
        return self.is_alive and self.state == "ready"
