"""Seconds that a tenant's clients take of trainers on a day, committed with the operations that took them."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from contract.training_rig import (
    BASE,
    HOLDER,
    LATER,
    NOW,
    OTHER,
    TENANT,
    A,
    B,
    Store,
    done,
    filled,
    new,
    open_store,
)

from services.trainer.core.operations import Fenced, FinishedOperation

pytestmark = pytest.mark.integration

DAY = 86_400.0


@pytest.fixture
async def store(shared_database: str) -> AsyncIterator[Store]:
    async with open_store(shared_database) as made:
        yield made


def took(one: FinishedOperation, seconds: float, *, at: float = NOW) -> FinishedOperation:
    return replace(one, seconds=seconds, finished_at=at)


async def test_seconds_add_up_over_a_tenants_policies_until_midnight(store: Store) -> None:
    await filled(store, 4)
    assert await store.operations.add(HOLDER, [new(0, policy_id=B)]) == [True]
    assert await store.operations.seconds(TENANT, now=NOW) == 0.0
    together = [took(done(0), 1.5), took(done(0, policy_id=B), 4.0), took(done(1), 0.25)]
    await store.operations.finish(HOLDER, together)
    await store.operations.finish(HOLDER, [took(done(2), 0.5)])
    assert await store.operations.seconds(TENANT, now=NOW) == 6.25
    assert await store.operations.seconds(OTHER, now=NOW) == 0.0
    tomorrow = NOW + DAY
    assert await store.operations.seconds(TENANT, now=tomorrow) == 0.0
    await store.operations.finish(HOLDER, [took(done(3), 3.0, at=tomorrow)])
    assert await store.operations.seconds(TENANT, now=tomorrow) == 3.0


async def test_seconds_of_managed_jobs_and_of_fenced_trainers_do_not_count(store: Store) -> None:
    await filled(store, 2)
    await store.operations.finish(HOLDER, [took(done(0), 1.0)])
    await store.fence(LATER)
    with pytest.raises(Fenced):
        await store.operations.finish(HOLDER, [took(done(1), 8.0)])
    assert await store.operations.seconds(TENANT, now=NOW) == 1.0
    await store.pool.execute(
        "UPDATE training SET is_managed = true WHERE base = $1 AND policy_id = $2", BASE, A
    )
    assert await store.operations.seconds(TENANT, now=NOW) == 0.0
