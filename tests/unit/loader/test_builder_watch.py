"""A builder that says nothing is taken for hung, unless it is at work: then not for a long time."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mint_common.errors import Unavailable
from mint_common.settings import BlobSettings
from services.loader.adapters.builder.child import BuilderProcesses
from services.loader.adapters.builder.client import Builder, BuilderConfig
from services.loader.adapters.builder.wire import Answer, Ping
from tests.testing.clock import ManualClock

BEAT_SECONDS = 15.0


class Measured(BuilderProcesses):
    """Processes whose builder uses so much of a processor between two looks."""

    def __init__(self, uses: int) -> None:
        super().__init__()
        self.uses = uses
        self._used = 0

    def processor_seconds(self) -> float:
        self._used += self.uses
        return self._used


@pytest.fixture
async def writer() -> AsyncIterator[asyncio.StreamWriter]:
    ours, theirs = socket.socketpair()
    with theirs:
        _, writer = await asyncio.open_connection(sock=ours)
        yield writer
        writer.close()


async def watched(writer: asyncio.StreamWriter, *, uses: int, answers: bool, beats: int) -> bool:
    """Return whether a builder is taken for hung within so many beats."""
    clock = ManualClock()
    blobs = BlobSettings(url="file:///nowhere")
    config = BuilderConfig(
        blobs=blobs, base_dir=Path(), cache_dir=Path(), disk_bytes=1, silence_seconds=4 * BEAT_SECONDS
    )
    builder = Builder(config, clock)
    builder._processes = Measured(uses)
    watching = asyncio.create_task(builder._watch(writer))
    for _ in range(beats):
        await clock.advance(BEAT_SECONDS)
        if answers:
            builder._take(Answer(number=0, outcome=Ping()))
    if not watching.done():
        watching.cancel()
        return False
    with pytest.raises(Unavailable, match="has said nothing for"):
        await watching
    return True


async def test_silence_without_work_is_a_hang(writer: asyncio.StreamWriter) -> None:
    assert not await watched(writer, uses=0, answers=False, beats=3)
    assert await watched(writer, uses=0, answers=False, beats=4)
    assert not await watched(writer, uses=0, answers=True, beats=99)


async def test_a_builder_at_work_answers_nothing_for_a_while_and_not_for_ever(
    writer: asyncio.StreamWriter,
) -> None:
    assert not await watched(writer, uses=1, answers=False, beats=39)
    assert await watched(writer, uses=1, answers=False, beats=40)


def test_the_processor_time_of_a_builder_is_measured() -> None:
    processes = BuilderProcesses()
    processes._pid = os.getpid()
    before, end = processes.processor_seconds(), time.process_time() + 0.05
    while time.process_time() < end:
        sum(range(1000))
    assert processes.processor_seconds() > before
    with subprocess.Popen(["true"]) as ended:
        processes._pid = ended.pid
    assert processes.processor_seconds() == 0
