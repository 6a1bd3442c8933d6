"""A restart brings back what was hot, and never forgets what it has not tried yet."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import Unavailable
from mint_common.ids import TenantId, sha256_digest
from services.loader.core.working_set import WorkingSetEntry, hottest_first
from services.loader.handlers.working_set import WorkingSetSaver

Make = Callable[..., Awaitable[Any]]  # Any: Bench of conftest.py, which cannot be imported
TENANT = TenantId("t")
HOUR = 3600.0


def kept(revision: RevisionRef, *, uses: int = 1, at: float = 0.0, pinned: bool = False) -> WorkingSetEntry:
    return WorkingSetEntry(revision=revision, tenant_id=TENANT, pinned=pinned, uses=uses, last_used_at=at)


def some(number: int) -> RevisionRef:
    claim = Claim(uri="u", sha256="0" * 64, size_bytes=1)
    return RevisionRef(digest=sha256_digest(str(number).encode()), number=number, manifest=claim)


@dataclass
class MemoryStore:
    """A working set in memory."""

    rows: Sequence[WorkingSetEntry] = ()
    is_away: bool = False
    saves: int = field(default=0)

    async def save(self, rows: Sequence[WorkingSetEntry]) -> None:
        if self.is_away:
            raise Unavailable(what="the store", problem="the test says so")
        self.rows, self.saves = list(rows), self.saves + 1

    async def load(self) -> Sequence[WorkingSetEntry]:
        return self.rows


def saver(bench: Any, store: MemoryStore, *, most: int = 3) -> WorkingSetSaver:
    return WorkingSetSaver(tiers=bench.tiers, store=store, clock=bench.clock, most=most, at_once=2)


def test_pinned_then_often_then_lately_used() -> None:
    rows = [
        kept(some(1), uses=100, at=0.0),
        kept(some(2), uses=3, at=9 * HOUR),
        kept(some(3), uses=1, at=9 * HOUR),
        kept(some(4), pinned=True),
    ]
    order = [each.revision.number for each in hottest_first(rows, now=9 * HOUR, most=3)]
    assert order == [4, 2, 3]


def test_tenants_take_turns_as_their_adapters_come_back() -> None:
    own = [kept(some(number), uses=100 - number) for number in range(4)]
    other = [replace(kept(some(9), uses=1), tenant_id=TenantId("other"))]
    order = [each.revision.number for each in hottest_first([*own, *other], now=0.0, most=9)]
    assert order == [0, 9, 1, 2, 3]


async def test_a_restart_loads_again_what_an_earlier_run_held(make_bench: Make) -> None:
    bench = await make_bench(host=3)
    revisions = [await bench.revision(seed) for seed in range(4)]
    store = MemoryStore([kept(each, uses=1 + n, pinned=n == 0) for n, each in enumerate(revisions)])
    await saver(bench, store).restore()
    assert set(bench.engine.loads) == {revisions[n].digest for n in (0, 2, 3)}
    assert bench.tiers.status(revisions[0].digest).pinned


async def test_what_cannot_be_loaded_any_more_is_left_out(make_bench: Make) -> None:
    bench = await make_bench()
    good, broken = await bench.revision(0), await bench.revision(1)
    bench.engine.broken.add(broken.digest)
    rows = [kept(some(9), uses=50), kept(broken, uses=40), kept(good)]
    await saver(bench, MemoryStore(rows)).restore()
    assert bench.tiers.status(good.digest).readiness == "ready"


async def test_uses_add_up_over_restarts_and_only_changes_are_written(make_bench: Make) -> None:
    bench = await make_bench()
    revision, store = await bench.revision(0), MemoryStore()
    store.rows = [kept(revision, uses=40)]
    saving = saver(bench, store)
    await saving.restore()
    await saving.keep()
    await saving.keep()
    assert store.saves == 1
    assert [each.uses for each in store.rows] == [41 - 1 + bench.tiers.working_set()[0].uses]


async def test_a_store_that_is_away_is_tried_again_later(make_bench: Make) -> None:
    bench = await make_bench()
    store = MemoryStore(is_away=True)
    saving = saver(bench, store)
    await bench.tiers.prewarm(await bench.revision(0), tenant_id=TENANT, cause="evt")
    await saving.keep()
    assert store.saves == 0
    store.is_away = False
    await saving.keep()
    assert store.saves == 1


@pytest.mark.parametrize("most", [1, 2])
async def test_no_more_is_restored_than_there_is_room_for(make_bench: Make, most: int) -> None:
    bench = await make_bench()
    rows = [kept(await bench.revision(seed)) for seed in range(3)]
    await saver(bench, MemoryStore(rows), most=most).restore()
    assert len(bench.engine.loads) == most
