"""Event streams that share one reading of the log."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from contract.bus_messages import message

from mint_common.bus.port import EventLog, Replay
from mint_common.errors import EventsExpired, Unavailable
from services.gateway.adapters.shared_log import JOINED_SECONDS, UNREAD_BYTES, SharedLog
from tests.testing.bus_memory import MemoryBus
from tests.testing.clock import ManualClock

SUBJECTS = ["mint.test.>"]


class CountedLog:
    """A log that counts its open readings, and may be out of reach."""

    def __init__(self, bus: MemoryBus) -> None:
        self.open = self.opened = 0
        self.is_away = False
        self._bus = bus

    @asynccontextmanager
    async def replay(self, *, subjects: Sequence[str], after: str | None) -> AsyncIterator[Replay]:
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable(what="NATS", problem="is away")
        async with self._bus.replay(subjects=subjects, after=after) as replay:
            self.open, self.opened = self.open + 1, self.opened + 1
            try:
                yield replay
            finally:
                self.open -= 1


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus(clock: ManualClock) -> MemoryBus:
    return MemoryBus(clock)


@pytest.fixture
def counted(bus: MemoryBus) -> CountedLog:
    return CountedLog(bus)


@pytest.fixture
def log(counted: CountedLog, clock: ManualClock) -> EventLog:
    return SharedLog(counted, clock)


async def test_fifty_streams_are_one_reading_that_ends_with_the_last(
    bus: MemoryBus, counted: CountedLog, log: EventLog
) -> None:
    async with AsyncExitStack() as streams:
        opened = [log.replay(subjects=SUBJECTS, after=None) for _ in range(50)]
        found = await asyncio.gather(*map(streams.enter_async_context, opened))
        for number in range(3):
            await bus.publish(message("mint.test.a.t.b", bytes([number])))
        for stream in found:
            assert [(await anext(stream)).message.data for _ in range(3)] == [b"\0", b"\1", b"\2"]
        assert len({stream.place for stream in found}) == 1
        assert (counted.open, counted.opened) == (1, 1)
        async with log.replay(subjects=["mint.other.>"], after=None):
            assert counted.open == 2, "other subjects are another reading"
        async with log.replay(subjects=SUBJECTS, after=found[0].place):
            assert counted.open == 2, "a place is another reading"
    assert counted.open == 0


async def test_a_slow_stream_ends_where_it_is_and_the_others_go_on(bus: MemoryBus, log: EventLog) -> None:
    async with (
        log.replay(subjects=SUBJECTS, after=None) as slow,
        log.replay(subjects=SUBJECTS, after=None) as quick,
    ):
        for _ in range(4):
            await bus.publish(message("mint.test.a.t.b", bytes(UNREAD_BYTES // 3)))
            await anext(quick)
        for _ in range(3):
            place = (await anext(slow)).place
        with pytest.raises(EventsExpired):
            await anext(slow)
        async with log.replay(subjects=SUBJECTS, after=place) as again:
            assert (await anext(again)).place == quick.place, "it goes on after what it read"


async def test_a_log_out_of_reach_is_told_to_each_and_tried_again(counted: CountedLog, log: EventLog) -> None:
    async def opened() -> None:
        async with log.replay(subjects=SUBJECTS, after=None):
            pass

    counted.is_away = True
    found = await asyncio.gather(opened(), opened(), return_exceptions=True)
    assert [type(each) for each in found] == [Unavailable] * 2
    counted.is_away = False
    await opened()


async def test_a_reading_at_an_old_place_is_not_joined(
    counted: CountedLog, log: EventLog, clock: ManualClock
) -> None:
    async with log.replay(subjects=SUBJECTS, after=None):
        await clock.advance(JOINED_SECONDS)
        async with log.replay(subjects=SUBJECTS, after=None):
            assert counted.open == 2
        assert counted.open == 1


async def test_a_cancelled_stream_leaves_the_others(bus: MemoryBus, log: EventLog) -> None:
    async with log.replay(subjects=SUBJECTS, after=None) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), log.replay(subjects=SUBJECTS, after=None) as other:
                await anext(other)
        await bus.publish(message("mint.test.a.t.b", b"x"))
        assert (await anext(stream)).message.data == b"x"


async def test_an_unexpected_error_ends_the_streams_of_its_reading_and_is_logged(
    bus: MemoryBus, log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("rubbish")

    async with log.replay(subjects=SUBJECTS, after=None) as stream:
        monkeypatch.setattr("services.gateway.adapters.shared_log._Follower.give", fails)
        await bus.publish(message("mint.test.a.t.b", b"x"))
        with pytest.raises(EventsExpired):
            await anext(stream)
    assert "rubbish" in caplog.text
    monkeypatch.undo()
    async with log.replay(subjects=SUBJECTS, after=None) as stream:
        await bus.publish(message("mint.test.a.t.b", b"y"))
        assert (await anext(stream)).message.data == b"y"
