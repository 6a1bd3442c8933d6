"""Policies: a tenant's lines of training."""

from dataclasses import dataclass
from typing import ClassVar

from mint_common.events.event import Event
from mint_common.events.job import LoraSpec
from mint_common.ids import PolicyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which revisions of a policy stay: its newest ``keep_last``, and all of the last ``keep_days`` days.

    A revision that both leave out is retired, unless an alias points at it. None leaves nothing out.
    """

    keep_last: int | None = None
    keep_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCreated(Event):
    """A policy exists; it equals its base until its first revision."""

    type: ClassVar[str] = "policy.created"
    key: ClassVar[tuple[str, ...]] = ("policy_id",)

    policy_id: PolicyId
    name: str
    lora: LoraSpec
    description: str
    labels: dict[str, str]
    retention: Retention


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged(Event):
    """A policy's description, labels or retention changed. ``changed`` counts these changes."""

    type: ClassVar[str] = "policy.changed"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "changed")

    policy_id: PolicyId
    changed: int
    name: str
    description: str
    labels: dict[str, str]
    retention: Retention


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyParked(Event):
    """A policy's training waits, and only that policy's: what its next operation needs cannot be read now.

    It is tried again ``retry_seconds`` after ``at`` (seconds since the epoch), then at most once a minute,
    and goes on by itself. ``code`` and ``reason`` are of the error.
    """

    type: ClassVar[str] = "policy.parked"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "at")

    policy_id: PolicyId
    at: int
    code: str
    reason: str
    retry_seconds: float
