"""The outputs of one request, as vLLM's serving classes iterate them.

Invariants: it can be closed while another task waits for an output, which cancels the wait; once it is
closed, the request has been aborted and no task waits.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any


async def read_ahead(outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Yield outputs one by one, as they came, to a reader that is slower than they come.

    vLLM joins those that wait: the event of 20 tokens with log-probabilities takes the loop 5 ms.
    """
    come: deque[Any] = deque()
    news = asyncio.Event()

    async def read() -> None:
        try:
            async for output in outputs:
                come.append(output)
                news.set()
        finally:
            news.set()

    async with aclosing(outputs):
        async for first in outputs:  # the request starts here, in its tenant's turn
            yield first
            break
        reading = asyncio.create_task(read())
        try:
            while come or not reading.done():
                news.clear()
                if come:
                    yield come.popleft()
                else:
                    await news.wait()
            reading.result()
        finally:
            reading.cancel()
            await _wait_out(reading)
            if not reading.cancelled():
                reading.exception()


async def _wait_out(task: asyncio.Task[None]) -> None:
    """Return, or raise the last cancellation that came meanwhile, when a task has ended."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class RequestOutputs:
    """An asynchronous iterator over the outputs of a request. Any, here and below: vllm has no types.

    vLLM's merge of several generators cancels the tasks that wait for them and does not wait for their end,
    and a generator that still runs can't be closed.
    """

    def __init__(self, outputs: AsyncGenerator[Any, None]) -> None:
        self._outputs = outputs
        self._reader: asyncio.Task[Any] | None = None
        self._is_read = asyncio.Event()
        self._is_read.set()
        self._closing = asyncio.Lock()
        self._is_closed = False

    def __aiter__(self) -> "RequestOutputs":
        return self

    async def __anext__(self) -> Any:
        """Return the next output. Raises StopAsyncIteration at the end."""
        if self._is_closed:
            raise StopAsyncIteration
        self._reader = asyncio.current_task()
        self._is_read.clear()
        try:
            return await anext(self._outputs)
        finally:
            self._is_read.set()

    async def aclose(self) -> None:
        """Abort the request if it has not ended. Idempotent."""
        self._is_closed = True
        async with self._closing:
            if not self._is_read.is_set():
                assert self._reader is not None
                if not self._reader.cancelling():  # twice would end the abort too
                    self._reader.cancel()
                await self._is_read.wait()
            await self._outputs.aclose()
