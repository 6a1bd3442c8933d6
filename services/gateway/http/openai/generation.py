"""The open answer streams of one request, merged in order of arrival.

Invariants: leaving `open_streams` ends every stream and so aborts generation on the engines; chunks of
one prompt keep their order; at most `AHEAD` chunks wait for a slow client, and as many are on their way to
it; the streams of a request start one by one, in turns of their tenant's.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from mint_common.client.directory import EngineDirectory
from mint_common.generation import GenerationChunk, GenerationRequest, Started
from mint_common.ids import BaseName
from services.gateway.http.edge.admission import AdmissionGate

AHEAD = 16

Item = tuple[int, GenerationChunk | Exception | None]
"""A chunk with the index of its prompt; None is the end of its stream, an exception its failure."""


class MergedStreams:
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

    async def batches(self) -> AsyncIterator[Sequence[tuple[int, GenerationChunk]]]:
        """Yield (prompt index, chunk), all that have arrived at once, until every stream has ended."""
        open_streams = self._streams
        while open_streams:
            batch: list[tuple[int, GenerationChunk]] = []
            failure: Exception | None = None
            for index, chunk in await self._come():
                if isinstance(chunk, Exception):
                    failure = chunk
                    break
                if chunk is None:
                    open_streams -= 1
                else:
                    batch.append((index, chunk))
            if batch:
                yield batch
            if failure is not None:
                raise failure

    async def _come(self) -> Sequence[Item]:
        if self._early:
            return [self._early.popleft() for _ in range(min(AHEAD, len(self._early)))]
        come = [await self._items.get()]
        while not self._items.empty():
            come.append(self._items.get_nowait())
        return come


@asynccontextmanager
async def open_streams(
    engines: EngineDirectory,
    base: BaseName,
    requests: Sequence[GenerationRequest],
    *,
    admission: AdmissionGate,
) -> AsyncIterator[MergedStreams]:
    """Start all requests, each admitted in turn. If one fails, the whole answer fails.

    The first needs no admission: its HTTP request was admitted.
    """
    items: asyncio.Queue[Item] = asyncio.Queue(maxsize=AHEAD)
    # No TaskGroup: it would wrap an error of the caller's body, and the pumps raise nothing themselves.
    pumps = [
        asyncio.create_task(_pump(engines, base, request, items, index, admission=admission))
        for index, request in enumerate(requests)
    ]
    try:
        yield MergedStreams(items, len(requests))
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
    *,
    admission: AdmissionGate,
) -> None:
    try:
        if index:
            await admission.admit(request.tenant_id)
        async with aclosing(engines.generate(base, request)) as chunks:
            async for chunk in chunks:
                await items.put((index, chunk))
        await items.put((index, None))
    except Exception as error:  # noqa: BLE001  (handed to the reader, which raises it)
        await items.put((index, error))
