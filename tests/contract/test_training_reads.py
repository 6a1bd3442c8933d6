"""Reads that a trainer may have died of are counted until one ends: of operations, and of waves' records."""

from collections.abc import AsyncIterator

import pytest
from contract.training_rig import NOW, A, Store, filled, open_store

from mint_common.ids import WaveId

pytestmark = pytest.mark.integration


@pytest.fixture
async def store(shared_database: str) -> AsyncIterator[Store]:
    async with open_store(shared_database) as made:
        yield made


async def test_reads_are_counted_until_one_ends(store: Store) -> None:
    await filled(store, 2)
    for seq in (0, 0, 1):
        await store.operations.begin_read(A, seq)
    await store.operations.end_read(A, 1)
    assert [one.reads for one in await store.operations.unfinished([A])] == [2, 0]


async def test_reads_of_waves_are_counted_until_one_ends(store: Store) -> None:
    one, two = WaveId("wave_1"), WaveId("wave_2")
    for wave_id in (one, one, two):
        await store.operations.begin_counted_read(wave_id, now=NOW)
    await store.operations.end_counted_read(two)
    assert [await store.operations.begun_reads(wave_id) for wave_id in (one, two)] == [2, 0]
    await store.operations.prune(before=NOW + 1)
    assert await store.operations.begun_reads(one) == 0
