"""Aliases: mutable names that point at one revision."""

from dataclasses import dataclass
from typing import ClassVar

from mint_common.claims import RevisionRef
from mint_common.events.event import Event
from mint_common.ids import Digest, PolicyId


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMoved(Event):
    """An alias points at another revision. ``sequence`` numbers the rows of its history (1, 2, ...)."""

    type: ClassVar[str] = "alias.moved"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "alias", "sequence")

    policy_id: PolicyId
    alias: str
    sequence: int
    previous: Digest | None
    revision: RevisionRef
    actor: str
    reason: str
