"""Processes whose machines disagree about the time, over one database."""

import time

import pytest
from contract.schemas import empty_schema

from services.rollout.adapters.database_clock import DatabaseClock
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from tests.unit.rollout.test_evaluation import RUN

pytestmark = pytest.mark.integration
STALL_SECONDS = 20.0
WRONG_SECONDS = 25.0


async def test_a_process_whose_machine_is_ahead_takes_no_run_that_another_has(
    shared_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with empty_schema(shared_database, "rollout") as pool:
        runs, ours = PostgresEvaluationRuns(pool), DatabaseClock(pool)
        monkeypatch.setattr(time, "time", lambda real=time.time: real() + WRONG_SECONDS)
        ahead = DatabaseClock(pool)
        await runs.add([RUN], max_open=None)

        async def claims(clock: DatabaseClock) -> bool:
            now = clock.now()
            return await runs.claim(before=now - STALL_SECONDS, now=now, of_a_tenant=2) is not None

        assert ahead.now() - ours.now() > STALL_SECONDS
        for clock in (ours, ahead):
            await clock.follow()
        assert abs(ahead.now() - ours.now()) < 1.0
        assert await claims(ours)
        assert not await claims(ahead)
