"""What is collected of a policy: never what is in use, and all of the rest."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mint_common.bounds import DAY_SECONDS
from mint_common.events import Retention
from mint_common.ids import sha256_digest
from services.registry.core.collection import (
    CollectibleRevision,
    PolicyRevisions,
    plan_collection,
)

NOW = 1_000 * DAY_SECONDS
GRACE = 7 * DAY_SECONDS


def digest(number: int) -> str:
    return sha256_digest(str(number).encode())


def revision(
    number: int, *, days: float = 100, retired: float | None = None, **fields
) -> CollectibleRevision:
    """A revision of some days ago, retired some days ago."""
    made = {"parent": digest(number - 1) if number > 1 else None, "has_bytes": True} | fields
    return CollectibleRevision(
        number=number,
        digest=digest(number),
        created_at=NOW - days * DAY_SECONDS,
        retired_at=None if retired is None else NOW - retired * DAY_SECONDS,
        **made,
    )


def holdings(
    *revisions: CollectibleRevision, pointed: set[int] = frozenset(), **retention: int
) -> PolicyRevisions:
    return PolicyRevisions(retention=Retention(**retention), revisions=revisions, pointed=pointed)


def plan(held: PolicyRevisions, used: set[str] = frozenset()) -> tuple[tuple[int, ...], tuple[int, ...]]:
    made = plan_collection(held, used, now=NOW, grace_seconds=GRACE)
    return made.retire, made.collect


def line(count: int, **fields) -> list[CollectibleRevision]:
    return [revision(number, **fields) for number in range(1, count + 1)]


def test_without_retention_nothing_is_retired() -> None:
    assert plan(holdings(*line(9))) == ((), ())


def test_keep_last_leaves_the_newest_published() -> None:
    retired = revision(5, retired=1)
    held = holdings(*line(4), retired, revision(6), revision(7), revision(8), keep_last=3)
    assert plan(held) == ((1, 2, 3, 4), ())


def test_a_quarantined_revision_takes_nobodys_place_and_is_kept_in_its_own() -> None:
    held = holdings(
        *line(3), revision(4, is_quarantined=True), revision(5), revision(6, is_quarantined=True), keep_last=2
    )
    assert plan(held) == ((1, 2), ())
    only = holdings(
        revision(1), *(revision(number, is_quarantined=True) for number in (2, 3, 4)), keep_last=1
    )
    assert plan(only) == ((), ())
    none = holdings(*(revision(number, is_quarantined=True) for number in (1, 2, 3)), keep_last=1)
    assert plan(none) == ((), ())


def test_keep_days_leaves_the_young() -> None:
    held = holdings(revision(1, days=40), revision(2, days=31), *line(5, days=29)[2:], keep_days=30)
    assert plan(held) == ((1, 2), ())


def test_either_rule_keeps() -> None:
    held = holdings(
        revision(1, days=40), revision(2, days=20), *line(5, days=40)[2:], keep_days=30, keep_last=2
    )
    assert plan(held) == ((1, 3), ())


def test_bytes_go_after_the_grace_time_once() -> None:
    held = holdings(
        revision(1, retired=8), revision(2, retired=6), revision(3, retired=8, has_bytes=False), *line(6)[3:]
    )
    assert plan(held) == ((), (1,))


def test_what_is_in_use_stays() -> None:
    held = line(9, retired=30)
    assert plan(holdings(*held, pointed={2}), {digest(3)})[1] == (1, 4, 5, 6, 7)


numbers = st.sets(st.integers(1, 12))
revisions = st.lists(
    st.tuples(st.floats(0, 60), st.none() | st.floats(0, 20), st.booleans(), st.none() | st.integers(1, 12)),
    max_size=12,
).map(
    lambda made: [
        revision(number, days=days, retired=retired, has_bytes=has_bytes, parent=parent and digest(parent))
        for number, (days, retired, has_bytes, parent) in enumerate(made, 1)
    ]
)
kept = st.none() | st.integers(1, 5)


@given(revisions=revisions, pointed=numbers, used=numbers, last=kept, days=kept)
def test_nothing_in_use_is_ever_in_the_plan(revisions, pointed, used, last, days) -> None:
    held = PolicyRevisions(
        retention=Retention(keep_last=last, keep_days=days), revisions=revisions, pointed=pointed
    )
    made = plan_collection(held, {digest(number) for number in used}, now=NOW, grace_seconds=GRACE)
    safe = pointed | used
    if revisions:
        safe |= {revisions[-1].number}
        safe |= {one.number for one in revisions if one.digest == revisions[-1].parent}
    assert not safe & {*made.retire, *made.collect}
    by_number = {one.number: one for one in revisions}
    for number in made.collect:
        gone = by_number[number]
        assert gone.has_bytes
        assert gone.retired_at is not None
        assert gone.retired_at <= NOW - GRACE
    assert all(by_number[number].retired_at is None for number in made.retire)
    assert not made.retire or last or days


@given(revisions=revisions, pointed=numbers, used=numbers, last=kept, days=kept)
def test_collecting_again_finds_nothing_more(revisions, pointed, used, last, days) -> None:
    def planned(held: list[CollectibleRevision]):
        what = PolicyRevisions(
            retention=Retention(keep_last=last, keep_days=days), revisions=held, pointed=pointed
        )
        return plan_collection(what, {digest(n) for n in used}, now=NOW, grace_seconds=GRACE)

    made = planned(revisions)
    after = [
        replace(
            one,
            retired_at=NOW if one.number in made.retire else one.retired_at,
            has_bytes=one.has_bytes and one.number not in made.collect,
        )
        for one in revisions
    ]
    again = planned(after)
    assert (again.retire, again.collect) == ((), ())
