"""What lists show of policies: the newest checkpoint of each kind, how many there are, and their size."""

from collections.abc import AsyncIterator

import pytest
from contract.test_training_store import put, record
from contract.training_rig import NOW, A, B, Store, open_store

from tests.testing.factories import make_claim


@pytest.fixture
async def store(shared_database: str) -> AsyncIterator[Store]:
    async with open_store(shared_database) as made:
        yield made


async def test_policies_are_summed_up_in_one_question(store: Store) -> None:
    old, new = (record(f"c{n}", created_at=NOW + n, claim=make_claim(f"c{n}")) for n in range(2))
    await put(store, old, new, record("short", created_at=NOW + 9, expires_at=NOW + 9.5))
    summaries = await store.rows.summaries([A, B], now=NOW + 10)
    assert list(summaries) == [A]
    session = await store.operations.session(A)
    assert session is not None
    assert summaries[A].last_operation_at == session.last_operation_at
    (training,) = summaries[A].checkpoints
    assert (training.newest, training.count) == (new, 2)
    assert training.size_bytes == old.claim.size_bytes + new.claim.size_bytes
