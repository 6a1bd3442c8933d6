"""Sampling sessions in a real Postgres: kept, repeated, moved along, spared from collection, forgotten."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import asyncpg
import pytest

from mint_common.claims import Claim, RevisionRef
from mint_common.ids import BaseName, Digest, PolicyId, TenantId
from mint_common.runtime.postgres import migrate, open_pool
from services.gateway.adapters.sampling_sessions_postgres import PostgresSamplingSessions
from services.gateway.adapters.tinker_postgres import PostgresTinkerRuns
from services.gateway.core.tinker.records import ClientSession
from services.gateway.core.tinker.sampling_sessions import KEPT_SECONDS, LIVE_SECONDS, SamplingOpening
from tests.testing.clock import ManualClock

pytestmark = pytest.mark.integration


@dataclass(frozen=True, kw_only=True)
class Rig:
    pool: asyncpg.Pool
    clock: ManualClock
    runs: PostgresTinkerRuns
    sessions: PostgresSamplingSessions

    def another(self) -> PostgresSamplingSessions:
        """Return what another gateway, or this one after a restart, sees."""
        return PostgresSamplingSessions(self.pool, self.clock)


@pytest.fixture
async def rig(database: str) -> AsyncIterator[Rig]:
    pool = await open_pool(database, schema="gateway")
    await migrate(pool, schema="gateway", package="services.gateway.adapters.migrations")
    clock = ManualClock(start=1e6)
    runs = PostgresTinkerRuns(pool)
    for name in ("one", "two"):
        await runs.add_session(_client(name, clock.now()))
    yield Rig(pool=pool, clock=clock, runs=runs, sessions=PostgresSamplingSessions(pool, clock))
    await pool.close()


def _client(name: str, now: float) -> ClientSession:
    return ClientSession(
        session_id=name,
        tenant_id=TenantId("t"),
        project_id="",
        display_name=None,
        tags=(),
        metadata={},
        sdk_version="",
        created_at=now,
        seen_at=now,
    )


def _revision(number: int) -> RevisionRef:
    digest = Digest("sha256:" + f"{number:064x}")
    return RevisionRef(
        digest=digest, number=number, manifest=Claim(uri=f"m{number}", sha256="0" * 64, size_bytes=1)
    )


def _opening(seq: int, number: int | None, **changes: object) -> SamplingOpening:
    opening = SamplingOpening(
        tenant_id=TenantId("t"),
        session_id="one",
        seq=seq,
        base=BaseName("tiny"),
        base_model="mint/tiny",
        revision=None if number is None else _revision(number),
        model_id="one:train:0",
        policy_id=PolicyId("p"),
    )
    return replace(opening, **changes)


async def test_a_session_is_kept_and_another_gateway_knows_it(rig: Rig):
    for opening in (_opening(0, 1), _opening(1, None, model_path="tinker://x", kind="snapshot")):
        assert await rig.sessions.open(opening) == opening.sampling_session_id
        assert await rig.sessions.get(opening.sampling_session_id) == opening
        assert await rig.another().get(opening.sampling_session_id) == opening
    assert await rig.sessions.of_session("one") == ["one:sample:0", "one:sample:1"]
    assert await rig.sessions.get("one:sample:2") is None


async def test_a_repeated_opening_changes_nothing(rig: Rig):
    await rig.sessions.open(_opening(0, 1))
    await rig.sessions.open(_opening(0, 2))
    assert await rig.another().get("one:sample:0") == _opening(0, 1)


async def test_inflight_sessions_of_a_run_move_together_and_never_back(rig: Rig):
    await rig.sessions.open(_opening(0, 1))
    await rig.sessions.open(_opening(1, 1, kind="inflight"))
    await rig.sessions.open(_opening(2, 1, kind="inflight", model_id="one:train:1"))
    await rig.sessions.open(_opening(3, 3, kind="inflight"))
    await rig.sessions.open(_opening(4, 2, kind="inflight"))
    found = [await rig.sessions.get(f"one:sample:{seq}") for seq in range(5)]
    assert [each.revision.number for each in found if each and each.revision] == [1, 3, 1, 3, 2]


async def test_what_living_clients_sample_from_is_in_use(rig: Rig):
    await rig.sessions.open(_opening(0, 1))
    await rig.sessions.open(_opening(1, None))
    await rig.sessions.open(_opening(0, 2, session_id="two"))
    assert await rig.sessions.digests() == {_revision(1).digest, _revision(2).digest}
    await rig.runs.finish_session("two", "success", None)
    assert await rig.sessions.digests() == {_revision(1).digest}
    await rig.clock.advance(LIVE_SECONDS)
    assert await rig.sessions.digests() == set()
    await rig.runs.see_session("one", now=rig.clock.now())
    assert await rig.sessions.digests() == {_revision(1).digest}


async def test_sessions_of_clients_long_gone_are_forgotten(rig: Rig):
    await rig.sessions.open(_opening(0, 1))
    await rig.sessions.open(_opening(0, 2, session_id="two"))
    await rig.clock.advance(KEPT_SECONDS)
    await rig.runs.see_session("two", now=rig.clock.now())
    await rig.sessions.prune()
    assert await rig.another().of_session("one") == []
    assert await rig.another().of_session("two") == ["two:sample:0"]
