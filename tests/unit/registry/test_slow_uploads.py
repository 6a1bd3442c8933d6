"""Uploads end in time, however slowly their bytes come."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mint_common.errors import UploadRefused
from mint_common.runtime.slow_clients import MinRate
from services.registry.handlers.uploads import unstalled


async def test_body_that_stops_is_refused_and_one_that_goes_on_is_not() -> None:
    async def body(pause: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"a"
        await pause.wait()
        yield b"b"

    silent, going = asyncio.Event(), asyncio.Event()
    going.set()
    rate = MinRate(bytes_per_second=10, grace_seconds=5, stall_seconds=0.1)
    assert [part async for part in unstalled(body(going), rate)] == [b"a", b"b"]
    with pytest.raises(UploadRefused) as refused:
        assert [part async for part in unstalled(body(silent), rate)] == []
    assert refused.value.code == "upload_refused.stalled"


async def test_body_that_comes_drop_by_drop_ends_in_time() -> None:
    async def drops() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b"x"

    patient = MinRate(bytes_per_second=10, grace_seconds=5, stall_seconds=5)
    with pytest.raises(UploadRefused, match=r"did not end in 0\.2 s"):
        assert [part async for part in unstalled(drops(), patient, in_all=0.2)] == []
    with pytest.raises(UploadRefused, match="bytes came in 0"):
        assert [
            part
            async for part in unstalled(drops(), replace(patient, bytes_per_second=1000, grace_seconds=0.1))
        ] == []
