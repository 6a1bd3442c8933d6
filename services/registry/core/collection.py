"""What may go of a policy: which revisions its retention retires, and whose bytes nobody needs.

Invariant: a revision that somebody uses is in no plan. In use are what an alias points at and what a rollback
of it would point at, the newest revision and what it was trained from (a training session goes on there), and
every digest that engines and trainers say that they hold.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mint_common.events import Retention
from mint_common.ids import Digest

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRevision:
    """A revision as collection sees it; ``retired_at`` is None while it is published or quarantined."""

    number: int
    digest: Digest
    parent: Digest | None
    created_at: float
    retired_at: float | None
    has_bytes: bool
    is_quarantined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """All revisions of a policy by number, and the numbers that its aliases lead or would go back to."""

    retention: Retention
    revisions: Sequence[HeldRevision]
    pointed: AbstractSet[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionPlan:
    """Numbers of revisions to retire, and of retired ones whose bytes go."""

    retire: tuple[int, ...]
    collect: tuple[int, ...]


def plan_collection(
    holdings: Holdings, used: AbstractSet[Digest], *, now: float, grace_seconds: float
) -> CollectionPlan:
    """Return what may go now; bytes go ``grace_seconds`` after the retirement at the earliest."""
    safe = in_use(holdings, used)
    kept = _retained(holdings, now)
    free = [revision for revision in holdings.revisions if revision.number not in safe]
    return CollectionPlan(
        retire=tuple(
            revision.number
            for revision in free
            if revision.retired_at is None and revision.number not in kept
        ),
        collect=tuple(
            revision.number
            for revision in free
            if revision.retired_at is not None
            and revision.has_bytes
            and revision.retired_at <= now - grace_seconds
        ),
    )


def in_use(holdings: Holdings, used: AbstractSet[Digest]) -> set[int]:
    """Return the numbers of the revisions that somebody uses."""
    newest = holdings.revisions[-1:]
    digests = used | {revision.digest for revision in newest} | {revision.parent for revision in newest}
    by_digest = {revision.number for revision in holdings.revisions if revision.digest in digests}
    return by_digest | holdings.pointed


def _retained(holdings: Holdings, now: float) -> set[int]:
    """Return the numbers that the retention keeps: the newest few, the young ones; all, without either.

    A quarantined revision is kept as long as one in its place would be, but takes nobody's place.
    """
    rule = holdings.retention
    if rule.keep_last is None and rule.keep_days is None:
        return {revision.number for revision in holdings.revisions}
    standing = [revision for revision in holdings.revisions if revision.retired_at is None]
    published = [revision for revision in standing if not revision.is_quarantined]
    oldest = published[-rule.keep_last :][0].number if rule.keep_last and published else 0
    newest = [revision for revision in standing if rule.keep_last and revision.number >= oldest]
    born_after = now - rule.keep_days * DAY_SECONDS if rule.keep_days is not None else now
    young = [revision for revision in standing if revision.created_at > born_after]
    return {revision.number for revision in (*newest, *young)}
