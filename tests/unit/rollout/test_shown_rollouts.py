"""What a user gets of a step when the trainer's log-probabilities of it cannot be read: the rest of it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from struct import pack
from typing import Any, cast

import pytest

from mint_common.claims import Claim
from mint_common.client.directory import EngineDirectory
from mint_common.ids import WaveId
from mint_common.records import Group, Sample, WaveLogprobs, WaveRecord, encode_blob
from mint_common.runtime.fair_gate import FairGate
from services.rollout.adapters.engine_chat import EngineChat
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.core.job import open_job
from services.rollout.handlers.rollouts import Rollouts
from tests.testing.blobs_memory import MemoryBlobs
from tests.testing.factories import JOB, make_claim
from tests.testing.ledger_memory import MemoryConnection
from tests.unit.rollout.memory_jobs import MemoryJobs
from tests.unit.rollout.world import history, submitted

OWN = WaveLogprobs(wave_id=WaveId("w"), groups=((pack("<2f", -1.5, -2.5),),))
SAMPLE = Sample(tokens=(5, 6), logprobs=(-1.0, -2.0), reward=1.0, text="t")
RECORD = WaveRecord(
    wave_id=WaveId("w"), revision=None, groups=(Group(prompt_tokens=(1,), samples=(SAMPLE,)),)
)


@pytest.fixture
async def engines() -> AsyncIterator[EngineDirectory]:
    directory = EngineDirectory([], token="t" * 32)
    yield directory
    await directory.aclose()


async def _claims(blobs: MemoryBlobs) -> dict[str, Claim | None]:
    whole = await blobs.put("whole", encode_blob(OWN))
    return {
        "none": None,
        "whole": whole,
        "missing": make_claim("missing"),
        "torn": replace(whole, sha256="0" * 64),
        "rubbish": await blobs.put("rubbish", b"\xc1 rubbish"),
        "of another kind": await blobs.put("other", encode_blob(RECORD)),
    }


@pytest.mark.parametrize("what", ["none", "whole", "missing", "torn", "rubbish", "of another kind"])
async def test_a_step_is_shown_whatever_its_log_probabilities_are(
    engines: EngineDirectory, what: str
) -> None:
    blobs = MemoryBlobs()
    record, claim = await blobs.put("record", encode_blob(RECORD)), (await _claims(blobs))[what]
    (wave,) = history([0.5])
    wave = replace(wave, record=record, logprobs=claim)
    jobs, job, connection = MemoryJobs(), open_job(submitted(job_id=JOB), now=1.0), MemoryConnection()
    await jobs.save(connection, job, [wave])
    for change in connection.changes:
        change()
    rollouts = Rollouts(
        jobs=cast(PostgresJobs, jobs), blobs=blobs, chat=EngineChat(engines), reading=FairGate(1)
    )
    shown: Any = await rollouts.show(job, step=None, group=0, episode=None)
    (part,) = shown["episodes"][0]["segments"][0]
    assert part["logprobs"] == [-1.0, -2.0]
    assert part.get("trainer_logprobs") == ([-1.5, -2.5] if what == "whole" else None)
