"""A slow reader holds no adapter: what the engine has made waits beside it, within bounds."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from mint_common.errors import EngineDied
from mint_common.tenant_budget import TenantBudget
from services.loader.adapters.step_stream import StepStream

PART = b"x" * 1000


class Engine:
    """Makes ``parts`` of a stream; the adapter is held until the last of them."""

    def __init__(self, parts: int = 200, *, dies: bool = False) -> None:
        self.parts = parts
        self.dies = dies
        self.made = 0
        self.is_held = False

    async def stream(self) -> AsyncGenerator[bytes, None]:
        self.is_held = True
        try:
            for _ in range(self.parts):
                self.made += 1
                yield PART
                await asyncio.sleep(0)
            if self.dies:
                raise EngineDied(retry_after_seconds=20)
        finally:
            self.is_held = False


class Reader:
    """Reads what it is sent once it may."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.gone = asyncio.Event()
        self.bodies: list[bytes] = []
        self.is_whole = False

    async def send(self, message: Any) -> None:
        await self.may_read.wait()
        self.bodies.append(message.get("body", b""))
        self.is_whole = message["type"] == "http.response.body" and not message["more_body"]

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def started(
    engine: Engine, reader: Reader, answers: TenantBudget, tenant: str = "t"
) -> "asyncio.Task[None]":
    stream = StepStream(engine.stream(), headers={}, unread=answers, tenant=tenant)
    task = asyncio.ensure_future(stream({}, reader.receive, reader.send))
    for _ in range(2000):
        await asyncio.sleep(0)
    return task


async def test_an_adapter_is_let_go_when_the_engine_has_made_all_though_nothing_is_read() -> None:
    engine, reader, answers = Engine(), Reader(), TenantBudget(total=1 << 28)
    task = await started(engine, reader, answers)
    assert (engine.made, engine.is_held) == (200, False)
    reader.may_read.set()
    await task
    assert (b"".join(reader.bodies), reader.is_whole) == (200 * PART, True)
    assert not answers.held


async def test_what_a_tenant_leaves_unread_is_bounded_and_others_find_room() -> None:
    engine, reader, answers = Engine(), Reader(), TenantBudget(total=40_000)
    task = await started(engine, reader, answers)
    assert (engine.made, engine.is_held) == (30, True)  # three quarters
    assert answers.fits("another")
    other, others_reader = Engine(5), Reader()
    others = await started(other, others_reader, answers, "another")
    assert not other.is_held
    for each in (reader, others_reader):
        each.may_read.set()
    await asyncio.gather(task, others)
    assert b"".join(reader.bodies) == 200 * PART
    assert not answers.held


async def test_what_a_reader_that_goes_has_left_unread_is_given_up() -> None:
    engine, reader, answers = Engine(), Reader(), TenantBudget(total=40_000)
    task = await started(engine, reader, answers)
    reader.gone.set()
    await task
    assert not engine.is_held
    assert not answers.held


async def test_the_death_of_an_engine_breaks_the_stream_after_all_that_it_made() -> None:
    engine, reader, answers = Engine(3, dies=True), Reader(), TenantBudget(total=1 << 28)
    task = await started(engine, reader, answers)
    reader.may_read.set()
    await task
    assert (b"".join(reader.bodies), reader.is_whole) == (3 * PART, False)
    assert not answers.held
