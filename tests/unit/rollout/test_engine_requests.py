"""Calls of engines: one tenant's hold up no other's; what fails is asked again, but not for ever."""

import asyncio

import pytest

from mint_common.client.attempts import MAX_FAILURES, NoAnswer
from mint_common.errors import (
    EngineDied,
    EngineRestarting,
    InvalidField,
    MintError,
    Overloaded,
    PeerFailed,
    RequestEndsEngines,
)
from mint_common.ids import TenantId
from services.rollout.handlers.engine_requests import ANSWER_SECONDS, EngineRequests
from tests.testing.clock import ManualClock, settle

FLOOD, OTHER = TenantId("ten_flood"), TenantId("ten_other")


async def test_a_tenant_s_calls_never_hold_up_another_s() -> None:
    requests, begun = EngineRequests(ManualClock(0.0), in_flight=2), 0

    async def never() -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    async def answer() -> str:
        return "an answer"

    flood = [asyncio.ensure_future(requests.retried(FLOOD, never)) for _ in range(50)]
    await settle()
    assert begun == 2
    async with asyncio.timeout(60):
        assert await requests.retried(OTHER, answer) == "an answer"
    for call in flood:
        call.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


class Asked:
    """An engine that takes ``seconds`` for each call, and fails with ``errors`` before it answers."""

    def __init__(self, clock: ManualClock, *errors: MintError, seconds: float = 1.0) -> None:
        self.clock = clock
        self.errors = list(errors)
        self.seconds = seconds
        self.begun = 0

    async def __call__(self) -> str:
        self.begun += 1
        await self.clock.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop(0)
        return "an answer"


async def outcome(clock: ManualClock, asked: Asked, *, minutes: float) -> str | BaseException | None:
    """Return how a call ended within so many minutes; None when it has not."""
    call = asyncio.ensure_future(EngineRequests(clock, in_flight=2).retried(OTHER, asked))
    for _ in range(int(minutes)):
        await clock.advance(60)
    if not call.done():
        call.cancel()
        return None
    return call.exception() or call.result()


async def test_a_group_of_twenty_minutes_is_sampled_once() -> None:
    clock = ManualClock(0.0)
    asked = Asked(clock, seconds=20 * 60.0)
    assert await outcome(clock, asked, minutes=21) == "an answer"
    assert asked.begun == 1


async def test_an_engine_may_be_away_or_full_for_long() -> None:
    clock = ManualClock(0.0)
    away = [EngineRestarting(retry_after_seconds=20)] * 500
    full = [Overloaded(what="the engine", depth=9, retry_after_seconds=1)] * 100
    assert await outcome(clock, Asked(clock, *away, *full), minutes=70) == "an answer"


@pytest.mark.parametrize(
    "error", [PeerFailed(what="an engine", status=500), EngineDied(retry_after_seconds=20)]
)
async def test_what_fails_on_an_engine_ends_after_a_few_attempts_with_the_reason(error: MintError) -> None:
    clock = ManualClock(0.0)
    asked = Asked(clock, *[error] * 100)
    ended = await outcome(clock, asked, minutes=2)
    assert isinstance(ended, NoAnswer)
    assert (asked.begun, ended.retryable, ended.calls) == (MAX_FAILURES, False, MAX_FAILURES)
    assert str(error) in str(ended)


@pytest.mark.parametrize(
    "error", [InvalidField(field="n", problem="too many"), RequestEndsEngines(deaths=2, seconds=9)]
)
async def test_what_a_later_call_would_meet_again_is_raised_at_once(error: MintError) -> None:
    clock = ManualClock(0.0)
    asked = Asked(clock, error)
    assert (await outcome(clock, asked, minutes=1), asked.begun) == (error, 1)


async def test_a_call_that_never_ends_and_an_engine_that_never_comes_back_have_a_deadline() -> None:
    for seconds, errors in (
        (10 * ANSWER_SECONDS, []),
        (600.0, [EngineRestarting(retry_after_seconds=1)] * 99),
    ):
        clock = ManualClock(0.0)
        ended = await outcome(clock, Asked(clock, *errors, seconds=seconds), minutes=ANSWER_SECONDS / 60 + 1)
        assert isinstance(ended, NoAnswer)
        assert ended.seconds >= ANSWER_SECONDS - 700
