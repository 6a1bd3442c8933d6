"""The open answer streams of one request, merged in order of arrival.

Invariants: leaving `open_answers` ends every stream, which aborts what the engines still generate; chunks of
one prompt keep their order; at most `AHEAD` chunks wait for a slow client.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from mint_common.client.directory import EngineDirectory
from mint_common.generation import GenerationChunk, GenerationRequest, Started
from mint_common.ids import BaseName

AHEAD = 16

Item = tuple[int, GenerationChunk | Exception | None]
"""A chunk with the index of its prompt; None is the end of its stream, an exception its failure."""


class Answers:
    """The merged streams. Both methods raise the MintError that ended a stream."""

    def __init__(self, items: asyncio.Queue[Item], streams: int) -> None:
        self._items = items
        self._streams = streams
        self._early: deque[Item] = deque()

    async def starts(self) -> list[Started]:
        """Wait until every stream has started; return the starts in the order of the prompts."""
        starts: dict[int, Started] = {}
        while len(starts) < self._streams:
            index, chunk = await self._items.get()
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, Started):
                starts[index] = chunk
            else:
                self._early.append((index, chunk))
        return [starts[index] for index in range(self._streams)]

    async def chunks(self) -> AsyncIterator[tuple[int, GenerationChunk]]:
        """Yield (prompt index, chunk) until every stream has ended."""
        open_streams = self._streams
        while open_streams:
            index, chunk = self._early.popleft() if self._early else await self._items.get()
            if isinstance(chunk, Exception):
                raise chunk
            if chunk is None:
                open_streams -= 1
            else:
                yield index, chunk


@asynccontextmanager
async def open_answers(
    engines: EngineDirectory, base: BaseName, requests: Sequence[GenerationRequest]
) -> AsyncIterator[Answers]:
    """Start all requests at once. One that fails fails the whole answer."""
    items: asyncio.Queue[Item] = asyncio.Queue(maxsize=AHEAD)
    # No TaskGroup: it would wrap an error of the caller's body, and the pumps raise nothing themselves.
    pumps = [
        asyncio.create_task(_pump(engines, base, request, items, index))
        for index, request in enumerate(requests)
    ]
    try:
        yield Answers(items, len(requests))
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    engines: EngineDirectory,
    base: BaseName,
    request: GenerationRequest,
    items: asyncio.Queue[Item],
    index: int,
) -> None:
    try:
        async with aclosing(engines.generate(base, request)) as chunks:
            async for chunk in chunks:
                await items.put((index, chunk))
        await items.put((index, None))
    except Exception as error:  # noqa: BLE001  (handed to the reader, which raises it)
        await items.put((index, error))
