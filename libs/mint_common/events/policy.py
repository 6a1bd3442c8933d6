"""Policies: a tenant's lines of training."""

from dataclasses import dataclass
from typing import ClassVar

from mint_common.events.event import Event
from mint_common.events.job import LoraSpec
from mint_common.ids import PolicyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Revisions of a policy to retain: the newest ``keep_last``, and all of the last ``keep_days`` days.

    A revision that neither covers is retired, unless an alias points at it. None covers all revisions.
    """

    keep_last: int | None = None
    keep_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCreated(Event):
    """A policy was created; it equals its base until its first revision."""

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
class PolicyRemoved(Event):
    """A policy was removed, with its revisions; its name is free."""

    type: ClassVar[str] = "policy.removed"
    key: ClassVar[tuple[str, ...]] = ("policy_id",)

    policy_id: PolicyId
    name: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyParked(Event):
    """A policy's training waits, because data of its next operation cannot be read now; others continue.

    The operation is retried ``retry_seconds`` after ``at`` (seconds since the epoch), then at most once a
    minute. ``code`` and ``reason`` describe the error.
    """

    type: ClassVar[str] = "policy.parked"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "at")

    policy_id: PolicyId
    at: int
    code: str
    reason: str
    retry_seconds: float
