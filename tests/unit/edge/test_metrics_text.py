"""Readers of metrics share texts, and take a bounded share of the process."""

import asyncio
import threading
import time

from mint_common.runtime.edge_series import REST, MetricsText


async def test_all_who_ask_before_a_text_begins_get_it_and_later_ones_a_later_one():
    made, began, goes_on = 0, threading.Event(), threading.Event()

    def make() -> bytes:
        nonlocal made
        made += 1
        began.set()
        goes_on.wait(10)
        return b"%d" % made

    text = MetricsText(make)
    first = [asyncio.create_task(text.read()) for _ in range(8)]
    while not began.is_set():
        await asyncio.sleep(0.001)
    later = [asyncio.create_task(text.read()) for _ in range(8)]
    later.pop().cancel()
    await asyncio.sleep(0)
    goes_on.set()
    assert set(await asyncio.gather(*first)) == {b"1"}
    assert set(await asyncio.gather(*later)) == {b"2"}
    assert await text.read() == b"3"


async def test_readers_without_end_take_a_fifth_of_the_time():
    spent = 0.0

    def make() -> bytes:
        nonlocal spent
        began = time.thread_time()
        while time.thread_time() - began < 0.01:
            pass
        spent += time.thread_time() - began
        return b""

    text, began = MetricsText(make), time.monotonic()

    async def read() -> None:
        for _ in range(5):
            await text.read()

    await asyncio.gather(*(read() for _ in range(8)))
    assert spent <= (time.monotonic() - began) / REST
