"""An engine that answers nothing while requests wait is silent until it answers; one that is slow is not."""

import asyncio
from collections.abc import Callable

import pytest

from mint_common.client import silence
from mint_common.client.silence import SilentEngines
from mint_common.errors import Unavailable

URL = "http://engine"


class Engine:
    """Answers questions while it is there, and says how many there were."""

    def __init__(self) -> None:
        self.there = asyncio.Event()
        self.there.set()
        self.asked = 0
        self.error: Exception | None = None

    async def describe(self, _url: str) -> None:
        self.asked += 1
        await self.there.wait()
        if self.error:
            raise self.error


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "QUIET_SECONDS", 0.02)
    monkeypatch.setattr(silence, "ANSWER_SECONDS", 0.05)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def wait_long(silent: SilentEngines, release: asyncio.Event) -> None:
    with silent.waiting(URL):
        await release.wait()


async def test_an_engine_that_is_cut_off_is_silent_until_it_answers() -> None:
    engine, release = Engine(), asyncio.Event()
    silent = SilentEngines(engine.describe)
    waiting = asyncio.create_task(wait_long(silent, release))
    await until(lambda: engine.asked > 2)
    assert URL not in silent, "it answers questions while it computes"
    engine.there.clear()
    await until(lambda: URL in silent)
    waiting.cancel()
    await asyncio.sleep(0.1)
    assert URL in silent, "the end of the last request changes nothing"
    engine.there.set()
    await until(lambda: URL not in silent)
    await until(lambda: not silent._watches)
    asked = engine.asked
    await asyncio.sleep(0.1)
    assert engine.asked == asked, "no request waits for it"
    await silent.aclose()


async def test_a_request_that_is_answered_ends_the_silence() -> None:
    engine, release = Engine(), asyncio.Event()
    silent = SilentEngines(engine.describe)
    engine.there.clear()
    waiting = asyncio.create_task(wait_long(silent, release))
    await until(lambda: URL in silent)
    release.set()
    await waiting
    assert URL not in silent
    await silent.aclose()


async def test_an_engine_that_answers_requests_is_not_asked() -> None:
    engine, release = Engine(), asyncio.Event()
    silent = SilentEngines(engine.describe)
    waiting = asyncio.create_task(wait_long(silent, release))
    async with asyncio.timeout(5):
        for _ in range(50):
            with silent.waiting(URL):
                await asyncio.sleep(0.005)
    assert engine.asked <= 2
    release.set()
    await waiting
    await silent.aclose()


async def test_an_error_is_no_silence_and_a_left_address_is_forgotten() -> None:
    engine, release = Engine(), asyncio.Event()
    engine.error = Unavailable(what="an engine", problem="it refuses connections")
    silent = SilentEngines(engine.describe)
    waiting = asyncio.create_task(wait_long(silent, release))
    await until(lambda: engine.asked > 2)
    assert URL not in silent
    engine.error = None
    engine.there.clear()
    await until(lambda: URL in silent)
    silent.forget(URL)
    assert URL not in silent
    release.set()
    await waiting
    assert not silent._engines, "nothing is kept of an address that has left"
    await silent.aclose()


async def test_an_unexpected_error_ends_one_watch_and_the_next_request_begins_another() -> None:
    engine, release = Engine(), asyncio.Event()
    engine.error = RuntimeError("rubbish")
    silent = SilentEngines(engine.describe)
    waiting = asyncio.create_task(wait_long(silent, release))
    await until(lambda: engine.asked == 1)
    await until(lambda: not silent._watches)
    engine.error = None
    engine.there.clear()
    again = asyncio.create_task(wait_long(silent, release))
    await until(lambda: URL in silent)
    release.set()
    await asyncio.gather(waiting, again)
    await silent.aclose()
