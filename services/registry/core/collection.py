"""Collection: which revisions of a policy are retired by its retention, and which bytes are removed.

Invariant: no plan contains a revision in use. In use are the target of each alias and of its next rollback,
the newest revision and its parent (training continues from them), and every digest that engines and trainers
report.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mint_common.bounds import DAY_SECONDS
from mint_common.events import Retention
from mint_common.ids import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectibleRevision:
    """A revision as collection sees it; ``retired_at`` is None while it is published or quarantined."""

    number: int
    digest: Digest
    parent: Digest | None
    created_at: float
    retired_at: float | None
    has_bytes: bool
    is_quarantined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRevisions:
    """All revisions of a policy by number.

    ``pointed`` are the targets of its aliases and of their rollbacks. No training goes on from a revision of
    a policy that ``is_removed``.
    """

    retention: Retention
    revisions: Sequence[CollectibleRevision]
    pointed: AbstractSet[int]
    is_removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionPlan:
    """Numbers of the revisions to retire, and of the retired ones whose bytes are to be removed."""

    retire: tuple[int, ...]
    collect: tuple[int, ...]


def plan_collection(
    policy: PolicyRevisions, used: AbstractSet[Digest], *, now: float, grace_seconds: float
) -> CollectionPlan:
    """Return the plan; bytes are removed ``grace_seconds`` after the retirement at the earliest."""
    safe = in_use(policy, used)
    kept = _retained(policy, now)
    free = [revision for revision in policy.revisions if revision.number not in safe]
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


def in_use(policy: PolicyRevisions, used: AbstractSet[Digest]) -> set[int]:
    """Return the numbers of the revisions in use."""
    newest = () if policy.is_removed else policy.revisions[-1:]
    own = {revision.digest for revision in newest} | {revision.parent for revision in newest}
    # ``used`` may have a million digests: it is asked, not joined.
    by_digest = {
        revision.number for revision in policy.revisions if revision.digest in own or revision.digest in used
    }
    return by_digest | policy.pointed


def _retained(policy: PolicyRevisions, now: float) -> set[int]:
    """Return the numbers that the retention covers: the newest ``keep_last`` and those younger than
    ``keep_days``.

    Without a retention, all. A quarantined revision does not count towards ``keep_last``, but stays
    while older ones do.
    """
    rule = policy.retention
    if rule.keep_last is None and rule.keep_days is None:
        return {revision.number for revision in policy.revisions}
    standing = [revision for revision in policy.revisions if revision.retired_at is None]
    published = [revision for revision in standing if not revision.is_quarantined]
    oldest = published[-rule.keep_last :][0].number if rule.keep_last and published else 0
    newest = [revision for revision in standing if rule.keep_last and revision.number >= oldest]
    born_after = now - rule.keep_days * DAY_SECONDS if rule.keep_days is not None else now
    young = [revision for revision in standing if revision.created_at > born_after]
    return {revision.number for revision in (*newest, *young)}
