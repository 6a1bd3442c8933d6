"""Rows of old operations go while their session is open, and what they promise stays."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from contract.training_rig import CLAIM, HOLDER, NOW, A, B, Store, done, filled, new, open_store

from mint_common.errors import NotFound
from mint_common.ids import PolicyId
from mint_common.training import UNNUMBERED
from services.trainer.core.operations import Snapshot

pytestmark = pytest.mark.integration


@pytest.fixture
async def store(shared_database: str) -> AsyncIterator[Store]:
    async with open_store(shared_database) as made:
        yield made


async def seqs(store: Store, policy_id: PolicyId = A) -> list[int]:
    query = "SELECT seq FROM operations WHERE policy_id = $1 ORDER BY seq"
    return [row["seq"] for row in await store.pool.fetch(query, policy_id)]


async def trained(store: Store, count: int, *, covered: int) -> None:
    """Store some operations, finished at `NOW` + their number; a snapshot covers the first ones."""
    await filled(store, count)
    await store.operations.finish(HOLDER, [done(seq) for seq in range(count)])
    await store.operations.put_snapshot(HOLDER, Snapshot(policy_id=A, position=covered, claim=CLAIM))


async def forget_results(store: Store) -> None:
    await store.operations.forget_results(before=NOW + 99, limit=99)


async def test_operations_of_an_open_session_stay_while_anything_needs_them(store: Store) -> None:
    await trained(store, 6, covered=3)
    await store.operations.prune(before=NOW + 99)
    assert await seqs(store) == [0, 1, 2, 3, 4, 5], "their results can be asked for"
    await forget_results(store)
    await store.operations.prune(before=NOW + 2)
    assert await seqs(store) == [2, 3, 4, 5], "two are old"
    await store.operations.prune(before=NOW + 99)
    assert await seqs(store) == [3, 4, 5], "a replay begins after the snapshot"
    replayed = await store.operations.executed_after(A, 3)
    assert [one.seq for one in replayed] == [3, 4, 5]
    await store.operations.put_snapshot(HOLDER, Snapshot(policy_id=A, position=6, claim=CLAIM))
    await store.operations.prune(before=NOW + 99)
    assert await seqs(store) == [5], "the newest says which number comes next"
    session = await store.operations.session(A)
    assert session is not None
    assert (session.position, session.next_seq) == (6, 6)


async def test_an_operation_whose_row_is_deleted_is_not_executed_again(store: Store) -> None:
    await trained(store, 4, covered=4)
    await forget_results(store)
    await store.operations.prune(before=NOW + 99)
    assert await seqs(store) == [3]
    assert await store.operations.add(HOLDER, [new(1), new(0), new(2, payload="other"), new(4)]) == [
        False,
        False,
        False,
        True,
    ]
    assert await store.operations.check(new(1)) is False
    assert [one.seq for one in await store.operations.unfinished([A, B])] == [4]
    with pytest.raises(NotFound):
        await store.operations.result(A, 1)


async def test_what_waits_stays_and_so_does_what_has_no_number(store: Store) -> None:
    await filled(store, 5)
    await store.operations.add(HOLDER, [new(UNNUMBERED + 7)])
    finished = [done(0), done(2, 2), done(3, 3), done(UNNUMBERED + 7, 4)]
    await store.operations.finish(HOLDER, [replace(one, finished_at=NOW) for one in finished])
    await store.operations.put_snapshot(HOLDER, Snapshot(policy_id=A, position=4, claim=CLAIM))
    await forget_results(store)
    await store.operations.prune(before=NOW + 99)
    assert await seqs(store) == [1, 3, 4, UNNUMBERED + 7]
    await store.operations.finish(HOLDER, [done(1, 5)])
    assert await store.operations.result(A, 1) is not None


async def test_more_sessions_than_go_at_once_are_forgotten(store: Store) -> None:
    await store.pool.execute(
        """
        INSERT INTO training (policy_id, tenant_id, base, lora, metadata, created_at, last_operation_at)
        SELECT 'policy_' || n, 'ten_a', 'tiny', '{}', '{}', 0, 0 FROM generate_series(1, 250) AS n
        """
    )
    await store.pool.execute(
        """
        INSERT INTO operations
            (policy_id, seq, tenant_id, kind, digest, payload_is_claim, submitted_at, position, finished_at)
        SELECT 'policy_' || n, seq, 'ten_a', 'step', '', false, 0, seq + 1, 0
        FROM generate_series(1, 250) AS n, generate_series(0, 2) AS seq
        """
    )
    await store.operations.prune(before=NOW)
    assert await store.pool.fetchval("SELECT array_agg(DISTINCT seq) FROM operations") == [2]
    assert await seqs(store, B) == []


async def test_a_trainer_deletes_rows_of_its_own_base_only(store: Store) -> None:
    await trained(store, 4, covered=4)
    await forget_results(store)
    await store.pool.execute("UPDATE training SET base = 'other'")
    await store.operations.prune(before=NOW + 99)
    assert await seqs(store) == [0, 1, 2, 3]
