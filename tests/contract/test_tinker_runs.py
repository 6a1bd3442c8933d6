"""What the gateway keeps of Tinker clients."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from contract.schemas import empty_schema

from mint_common.events import LoraSpec
from mint_common.ids import BaseName, PolicyId, TenantId
from services.gateway.adapters.tinker_postgres import PostgresTinkerRuns
from services.gateway.core.tinker.records import ClientSession, TrainingRun

pytestmark = pytest.mark.integration

MINE, OTHERS = TenantId("ten_mine"), TenantId("ten_other")


@pytest.fixture
async def runs(shared_database: str) -> AsyncIterator[PostgresTinkerRuns]:
    async with empty_schema(shared_database, "gateway") as pool:
        yield PostgresTinkerRuns(pool)


def _session(name: str, *, tenant: TenantId = MINE, at: float = 1.0, project: str = "") -> ClientSession:
    return ClientSession(
        session_id=name,
        tenant_id=tenant,
        project_id=project,
        display_name=None,
        tags=("a", "b"),
        metadata={"k": "v"},
        sdk_version="0.38.0",
        created_at=at,
        seen_at=at,
    )


def _run(session: str, number: int, *, tenant: TenantId = MINE, at: float = 1.0) -> TrainingRun:
    return TrainingRun(
        model_id=f"{session}:train:{number}",
        session_id=session,
        tenant_id=tenant,
        policy_id=PolicyId(f"pol_{session}_{number}"),
        base=BaseName("tiny"),
        base_model="mint/tiny",
        lora=LoraSpec(rank=8, alpha=32.0, targets=("q_proj",), seed=1),
        train_attn=True,
        train_mlp=False,
        is_trained=True,
        metadata={},
        created_at=at,
    )


async def test_a_session_is_kept_seen_moved_and_ended_once(runs: PostgresTinkerRuns):
    made = _session("s1")
    await runs.add_session(made)
    assert await runs.session("s1") == made
    await runs.see_session("s1", now=9.0)
    await runs.set_project("s1", "p")
    await runs.finish_session("s1", "success", "done")
    await runs.finish_session("s1", "errored", None)
    expected = replace(made, seen_at=9.0, project_id="p", finish="success", finish_detail="done")
    assert await runs.session("s1") == expected
    await runs.add_session(replace(made, project_id="q"))
    assert await runs.session("s1") == expected
    assert await runs.session("s2") is None


async def test_sessions_come_newest_first_in_pages_of_their_tenant(runs: PostgresTinkerRuns):
    for number in range(5):
        await runs.add_session(_session(f"s{number}", at=float(number // 2)))
    await runs.add_session(_session("theirs", tenant=OTHERS))
    names = [each.session_id for each in await runs.sessions(MINE, limit=10)]
    assert names == ["s4", "s3", "s2", "s1", "s0"]
    assert [each.session_id for each in await runs.sessions(MINE, limit=2, offset=1)] == ["s3", "s2"]
    page = await runs.sessions(MINE, limit=2, before=(1.0, "s3"))
    assert [each.session_id for each in page] == ["s2", "s1"]


async def test_a_run_is_kept_once_and_found_by_id_policy_session_and_project(runs: PostgresTinkerRuns):
    await runs.add_session(_session("s1", project="p"))
    first = await runs.add_run(_run("s1", 0))
    assert await runs.add_run(replace(first, base_model="tiny")) == first
    second = await runs.add_run(_run("s1", 1, at=2.0))
    await runs.add_run(_run("s2", 0, at=3.0))
    await runs.add_run(_run("s3", 0, tenant=OTHERS))
    assert await runs.run("s1:train:0") == first == await runs.run_of_policy(first.policy_id)
    assert await runs.run("s1:train:7") is None
    assert await runs.runs_of_sessions(["s1"]) == [first, second]
    assert await runs.runs(MINE, limit=1, offset=1) == ([second], 3)
    assert await runs.runs(MINE, limit=9, project_id="p") == ([second, first], 2)
    assert await runs.bases(MINE) == ["tiny"]
    assert await runs.all_bases() == ["tiny"]
