"""The store of evaluation runs: what is kept of them, and who carries out which."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
from contract.schemas import empty_schema

from mint_common.datasets import Format
from mint_common.errors import NotFound, Overloaded
from mint_common.events import JobFile
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.runtime.edge import create_http
from services.rollout.adapters import evaluation_runs_postgres
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.core.evaluation import (
    EvaluationData,
    EvaluationRun,
    RunState,
    ScoredRow,
    ScoredRows,
    scored,
)
from services.rollout.core.job import JobState, open_job
from services.rollout.core.job_scores import signer_of, suite_of
from services.rollout.http import evaluations
from tests.testing.factories import EXACT, TENANT
from tests.unit.rollout.test_environment_waves import COUNTER
from tests.unit.rollout.test_evaluation import RUN, rows
from tests.unit.rollout.world import submitted

pytestmark = pytest.mark.integration

OTHER = TenantId("ten_other")


@pytest.fixture
async def store(shared_database: str) -> AsyncIterator[PostgresEvaluationRuns]:
    async with empty_schema(shared_database, "rollout") as pool:
        yield PostgresEvaluationRuns(pool)


def named(run_id: str, tenant_id: TenantId = RUN.tenant_id, *, created_at: float = 1.0) -> EvaluationRun:
    return replace(RUN, run_id=run_id, tenant_id=tenant_id, created_at=created_at)


async def claimed(store: PostgresEvaluationRuns, *, now: float) -> str | None:
    run = await store.claim(before=now - 20, now=now, of_a_tenant=2)
    return None if run is None else run.run_id


async def test_a_run_over_a_file_is_read_back_equal_with_its_rows(store: PostgresEvaluationRuns) -> None:
    file = JobFile(
        file_id="file-1", filename="a.jsonl", content=RUN.revision.manifest, format=Format.REWARD, rows=4
    )
    data = EvaluationData(file=file, holdout=0.25, grader=EXACT, on_long="drop")
    run = replace(RUN, task="", policy_id=None, revision=None, data=data, suite="file:file-1")
    assert await store.add([run], max_open=1) == [run]
    found = [*rows([1.0, None, 0.25]).rows, ScoredRow(row=9, score=2.0, answer="b", weight=7.0)]
    ended = scored(run, ScoredRows(rows=found, dropped=2), now=3.0)
    await store.finish(ended, found)
    assert await store.run(run.tenant_id, run.run_id) == ended
    assert await store.rows(run.run_id, after=0, limit=9) == found
    assert await store.rows(run.run_id, after=1, limit=2) == found[1:3]
    # One that has ended does not change.
    await store.finish(replace(ended, value=0.0), rows([0.0]).rows)
    assert await store.run(run.tenant_id, run.run_id) == ended
    assert await store.runs_of(run.tenant_id, limit=9) == [replace(ended, data=replace(data, grader=None))]
    with pytest.raises(NotFound):
        await store.run(OTHER, run.run_id)


async def test_a_run_in_an_environment_is_read_back_equal(store: PostgresEvaluationRuns) -> None:
    run = replace(RUN, task="", environment=replace(COUNTER, args={"level": [1, "a"]}))
    assert await store.add([run], max_open=1) == [run]
    counted = replace(rows([1.0, None]), episodes={"ok": 1, "env_error": 1})
    ended = scored(run, counted, now=3.0)
    assert (ended.episodes, ended.grader_errors) == ({"ok": 1, "env_error": 1}, {})
    await store.finish(ended, counted.rows)
    assert await store.run(run.tenant_id, run.run_id) == ended
    assert await store.runs_of(run.tenant_id, limit=9) == [ended]


async def test_open_runs_are_bounded_where_that_is_asked(store: PostgresEvaluationRuns) -> None:
    await store.add([named("evr_1")], max_open=1)
    with pytest.raises(Overloaded):
        await store.add([named("evr_2")], max_open=1)
    await store.add([named("evr_2")], max_open=None)
    await store.add([named("evr_3", OTHER)], max_open=1)


async def test_runs_are_paged_newest_first(store: PostgresEvaluationRuns) -> None:
    runs = [named(f"evr_{number}", created_at=float(number // 2)) for number in range(5)]
    await store.add(runs, max_open=None)
    seen, after = [], None
    while page := await store.runs_of(RUN.tenant_id, limit=2, after=after):
        seen += [run.run_id for run in page]
        after = page[-1]
    assert seen == ["evr_4", "evr_2", "evr_3", "evr_0", "evr_1"]


async def test_open_runs_of_jobs_take_no_place_of_the_tenant_s_own(store: PostgresEvaluationRuns) -> None:
    authority = replace(RUN.caller.authority, key_id="job:job_1")
    of_job = replace(named("evr_1"), caller=replace(RUN.caller, authority=authority))
    await store.add([of_job], max_open=None)
    assert await store.add([named("evr_2")], max_open=1) == [named("evr_2")]


async def test_a_run_that_is_there_is_answered_when_no_more_may_be_open(
    store: PostgresEvaluationRuns,
) -> None:
    await store.add([named("evr_1")], max_open=1)
    assert await store.add([named("evr_1", created_at=9.0)], max_open=1) == [named("evr_1")]


async def test_a_run_that_is_sent_twice_at_once_takes_the_last_place_once(
    store: PostgresEvaluationRuns,
) -> None:
    sent = (store.add([named("evr_1")], max_open=1) for _ in range(8))
    assert await asyncio.gather(*sent) == [[named("evr_1")]] * 8


async def test_of_runs_that_begin_together_all_are_stored_or_none(store: PostgresEvaluationRuns) -> None:
    both = [named("evr_2"), named("evr_3")]
    await store.add([named("evr_1")], max_open=3)
    with pytest.raises(Overloaded):
        await store.add(both, max_open=2)
    assert await store.runs_of(RUN.tenant_id, limit=9) == [named("evr_1")]
    assert await store.add(both, max_open=3) == both
    assert await store.add(both, max_open=3) == both


async def test_runs_that_begin_at_once_are_no_more_than_may_be_open(store: PostgresEvaluationRuns) -> None:
    begun = (store.add([named(f"evr_{n}")], max_open=3) for n in range(8))
    ended = await asyncio.gather(*begun, return_exceptions=True)
    assert sum(isinstance(each, Overloaded) for each in ended) == 5


async def test_a_tenant_s_runs_leave_places_to_others(store: PostgresEvaluationRuns) -> None:
    for n in range(1, 5):
        await store.add([named(f"evr_{n}", created_at=n)], max_open=None)
    await store.add([named("evr_other", OTHER, created_at=9.0)], max_open=None)
    found = [await claimed(store, now=100.0) for _ in range(4)]
    assert found == ["evr_1", "evr_2", "evr_other", None]
    # One that ends, or shows no progress, gives its place to the next.
    await store.finish(scored(named("evr_2", created_at=2), rows([1.0]), now=101.0), rows([1.0]).rows)
    assert await claimed(store, now=101.0) == "evr_3"
    assert await store.touch("evr_3", scored=1, now=125.0)
    assert [await claimed(store, now=125.0) for _ in range(3)] == ["evr_1", "evr_other", None]


async def test_runs_of_jobs_that_have_ended_are_cancelled_and_no_others(shared_database: str) -> None:
    async with empty_schema(shared_database, "rollout") as pool:
        jobs, store = PostgresJobs(pool), PostgresEvaluationRuns(pool)
        for state in JobState:
            job = open_job(
                submitted(job_id=JobId(f"job_{state}"), policy_id=PolicyId(f"pol_{state}")), now=1.0
            )
            async with pool.acquire() as connection:
                await jobs.save(connection, replace(job, state=state), [])
            run = replace(named(f"evr_{state}", job.tenant_id), suite=suite_of(job))
            own = replace(run, run_id=f"evr_own_{state}")
            await store.add([replace(run, caller=signer_of(job)), own], max_open=None)
        await store.cancel_of_ended_jobs(now=5.0)
        found = {run.run_id: run for run in await store.runs_of(TENANT, limit=99)}
    ended = {name for name, run in found.items() if run.state is RunState.CANCELLED}
    assert ended == {"evr_succeeded", "evr_failed", "evr_cancelled"}
    assert {(found[name].reason, found[name].finished_at) for name in ended} == {("its job has ended", 5.0)}
    assert len(found) == 12


async def test_the_newest_runs_keep_their_rows(
    store: PostgresEvaluationRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_runs_postgres, "RUNS_WITH_ROWS", 2)
    for n, tenant in enumerate((RUN.tenant_id, OTHER, RUN.tenant_id, RUN.tenant_id), start=1):
        (run,) = await store.add([named(f"evr_{n}", tenant)], max_open=None)
        await store.finish(scored(run, rows([1.0]), now=float(n)), rows([1.0]).rows)
    kept = [bool(await store.rows(f"evr_{n}", after=0, limit=9)) for n in range(1, 5)]
    assert kept == [False, True, True, True]
    http = create_http(title="rollout", service="rollout", internal_token=None, ready=lambda: True)
    http.include_router(evaluations.router)
    http.state.parts = SimpleNamespace(runs=store)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=http), base_url="http://rollout"
    ) as client:
        path = f"/internal/tenants/{RUN.tenant_id}/evaluations"
        gone, stored = [await client.get(f"{path}/run/evr_{n}/rows") for n in (1, 3)]
    assert (gone.status_code, "run_id" in gone.text) == (422, True)
    assert (stored.status_code, len(stored.json())) == (200, 1)


async def test_runs_of_jobs_take_no_rows_of_others(
    store: PostgresEvaluationRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_runs_postgres, "RUNS_WITH_ROWS", 1)
    signer = signer_of(open_job(submitted(), now=1.0))
    for n, caller in enumerate((RUN.caller, signer, signer), start=1):
        (run,) = await store.add([replace(named(f"evr_{n}"), caller=caller)], max_open=None)
        await store.finish(scored(run, rows([1.0]), now=float(n)), rows([1.0]).rows)
    kept = [bool(await store.rows(f"evr_{n}", after=0, limit=9)) for n in range(1, 4)]
    assert kept == [True, False, True]
