"""Where a wave's log-probabilities are, beside other changes of its job."""

import asyncio
from dataclasses import replace

import pytest
from contract.test_jobs import Store, make_job, make_wave, store

from mint_common.ids import JobId
from services.rollout.core.job import wave_id_of
from services.rollout.core.wave import fold
from tests.testing.factories import JOB, make_claim
from tests.unit.rollout.test_job import completed

__all__ = ["store"]

pytestmark = pytest.mark.integration


async def test_where_log_probabilities_are_survives_changes_of_their_job(store: Store) -> None:
    wave, claim = make_wave(), make_claim("logprobs")
    await store.save("c1", make_job(), wave)
    await store.jobs.note_logprobs(JOB, wave_id_of(JOB, 9), claim)
    await store.jobs.note_logprobs(JobId("job_other"), wave.wave_id, claim)
    assert await store.jobs.waves_of(JOB) == [wave]
    async with store.ledger.transaction("c2") as transaction:
        job = await store.jobs.lock(transaction.connection, JOB)
        noted = asyncio.create_task(store.jobs.note_logprobs(JOB, wave.wave_id, claim))
        await asyncio.wait([noted], timeout=0.2)
        read = await store.jobs.wave(wave.wave_id, within=transaction.connection)
        changed = fold(read, completed(1), now=2.0)
        assert changed is not None
        await store.jobs.save(transaction.connection, job, [changed])
    await noted
    assert await store.jobs.wave(wave.wave_id) == replace(changed, logprobs=claim)
    await store.jobs.note_logprobs(JOB, wave.wave_id, claim)
    assert await store.jobs.wave(wave.wave_id) == replace(changed, logprobs=claim)
