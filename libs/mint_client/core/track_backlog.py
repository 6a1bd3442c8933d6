"""A subscriber's backlog: its place in the event log, and the jobs and policies that changed.

A unit is recorded whole, however many events told of it, so a repeat of an event changes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

MAX_PAUSE_SECONDS = 60.0
"""Maximum delay before a tracker or a unit is tried again: a tracker that is back is noticed in a minute."""


class UnitKind(StrEnum):
    """Kind of a unit of recording."""

    JOBS = "jobs"
    """The jobs that may have changed while no event was read."""
    JOB = "job"
    POLICY = "policy"
    REVISION = "revision"
    """A revision with a new score or alias: the job that made it is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Unit:
    """One thing to record; ``digest`` is of a revision, ``of`` then its policy."""

    kind: UnitKind
    of: str
    digest: str = ""


OPEN_JOBS = Unit(kind=UnitKind.JOBS, of="open")
ALL_JOBS = Unit(kind=UnitKind.JOBS, of="all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Failures in a row, the time of the next attempt, and the last problem."""

    failures: int = 0
    due_at: float = 0.0
    problem: str = ""

    def again(self, problem: str, *, now: float) -> "Delay":
        """Return the delay after one more failure: twice the last one, up to the maximum."""
        seconds = min(2.0 ** min(self.failures, 16), MAX_PAUSE_SECONDS)
        return Delay(failures=self.failures + 1, due_at=now + seconds, problem=problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackScope:
    """Which events count: those of a policy, of a job (and its policy), or all."""

    policy_id: str = ""
    job_id: str = ""

    def has(self, fields: Mapping[str, Any]) -> bool:
        """Return whether something of a policy and a job, as far as it names them, counts."""
        is_policy = self.policy_id in ("", fields.get("policy_id", self.policy_id))
        return is_policy and self.job_id in ("", fields.get("job_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingUnit:
    """A unit to record and its delay, if it was refused."""

    unit: Unit
    delay: Delay = Delay()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackBacklog:
    """A subscriber's state, stored between runs.

    Jobs that ended before ``since`` are not recorded. ``pause`` is of the tracker, and of all units.
    """

    since: float = 0.0
    place: str | None = None
    waiting: tuple[WaitingUnit, ...] = ()
    pause: Delay = field(default_factory=Delay)

    def noted(self, units: Iterable[Unit], *, place: str | None = None) -> "TrackBacklog":
        """Return the state after an event at a place: its units wait, unless they do already."""
        known = {each.unit for each in self.waiting}
        new = tuple(WaitingUnit(unit=unit) for unit in dict.fromkeys(units) if unit not in known)
        return replace(self, place=place or self.place, waiting=self.waiting + new)

    def due(self, *, now: float) -> list[Unit]:
        """Return the units to record now."""
        if now < self.pause.due_at:
            return []
        return [each.unit for each in self.waiting if each.delay.due_at <= now]

    def next_at(self) -> float | None:
        """Return when the next unit is due; None: no unit waits."""
        if not self.waiting:
            return None
        return max(self.pause.due_at, min(each.delay.due_at for each in self.waiting))

    def done(self, unit: Unit) -> "TrackBacklog":
        """Return the state after a unit was recorded, which shows that the tracker is there."""
        left = tuple(each for each in self.waiting if each.unit != unit)
        return replace(self, waiting=left, pause=Delay())

    def refused(self, unit: Unit, problem: str, *, now: float) -> "TrackBacklog":
        """Return the state after the tracker refused one unit; the others go on."""
        waiting = tuple(
            replace(each, delay=each.delay.again(problem, now=now)) if each.unit == unit else each
            for each in self.waiting
        )
        return replace(self, waiting=waiting, pause=Delay())

    def paused(self, problem: str, *, now: float) -> "TrackBacklog":
        """Return the state after the tracker did not answer: all units wait."""
        return replace(self, pause=self.pause.again(problem, now=now))

    @property
    def problems(self) -> tuple[str, ...]:
        """Return what is wrong, a sentence each; empty: all is recorded or being recorded."""
        refused = [f"{each.unit.of}: {each.delay.problem}" for each in self.waiting if each.delay.problem]
        return (*([self.pause.problem] if self.pause.problem else []), *refused)


def units_of(event: Mapping[str, Any], scope: TrackScope) -> tuple[Unit, ...]:  # the gateway's JSON
    """Return the units that an event changed: the job of a step, the policy of a revision or an alias."""
    kind, data = event["type"], event["data"]
    policy_id, job_id = data.get("policy_id") or "", data.get("job_id") or ""
    if scope.policy_id not in ("", policy_id):
        return ()
    units = []
    if job_id and scope.has(data):
        units.append(Unit(kind=UnitKind.JOB, of=job_id))
    if kind in ("revision.published", "alias.moved"):
        units.append(Unit(kind=UnitKind.POLICY, of=policy_id))
    if kind == "alias.moved":
        units.append(Unit(kind=UnitKind.REVISION, of=policy_id, digest=data["revision"]["digest"]))
    if kind == "evaluation.recorded":
        units.append(Unit(kind=UnitKind.REVISION, of=policy_id, digest=data["digest"]))
    return tuple(units)
