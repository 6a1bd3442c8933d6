"""Streams of several tenants are started in turns, and what has come together is handed on together."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise
from typing import cast

import pytest

from mint_common.client.directory import EngineDirectory
from mint_common.errors import Unavailable
from mint_common.generation import (
    Delta,
    Finished,
    GenerationChunk,
    GenerationRequest,
    Sampling,
    Started,
)
from mint_common.ids import BaseName, EngineId, TenantId
from mint_common.runtime.clock import SystemClock
from services.gateway.core.admission import AdmissionQueue
from services.gateway.http.edge.admission import AdmissionGate
from services.gateway.http.openai.generation import open_streams

ANN, BEN = TenantId("ann"), TenantId("ben")
PROMPTS = 100
TINY = BaseName("tiny")


class Engines:
    """An engine that answers at once with what it is given, and notes whose streams were started."""

    def __init__(self, chunks: Sequence[GenerationChunk | Exception]) -> None:
        self.started: list[TenantId] = []
        self._chunks = chunks

    async def generate(
        self, base: BaseName, request: GenerationRequest
    ) -> AsyncGenerator[GenerationChunk, None]:
        """Answer."""
        assert base == TINY
        self.started.append(request.tenant_id)
        yield Started(engine_id=EngineId("engine"), revision=None, prompt_tokens=(1,))
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


def requests(tenant_id: TenantId, count: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            request_id=str(number),
            tenant_id=tenant_id,
            revision=None,
            tokens=(1,),
            sampling=Sampling(max_new_tokens=1, temperature=1.0),
        )
        for number in range(count)
    ]


def make_admission() -> AdmissionGate:
    return AdmissionGate(AdmissionQueue(name="the line", share=1, depth=1 << 20), SystemClock())


async def read(engines: Engines, asked: Sequence[GenerationRequest], admission: AdmissionGate) -> list[int]:
    """Return how many chunks came in each batch."""
    async with open_streams(cast(EngineDirectory, engines), TINY, asked, admission=admission) as answers:
        await answers.starts()
        return [len(batch) async for batch in answers.batches()]


async def test_who_comes_after_many_prompts_waits_for_one_of_them() -> None:
    engines, admission = Engines([Finished(index=0, reason="stop")]), make_admission()
    flood = asyncio.create_task(read(engines, requests(ANN, PROMPTS), admission))
    while len(engines.started) < 5:
        await asyncio.sleep(0)
    before = len(engines.started)
    await admission.admit(BEN)
    assert len(engines.started) <= before + 2, "the one that is being started, and one turn"
    assert sum(await flood) == PROMPTS


async def test_a_loop_iteration_starts_one_further_stream_at_the_most() -> None:
    engines, admission = Engines([Finished(index=0, reason="stop")]), make_admission()
    flood = asyncio.create_task(read(engines, requests(ANN, PROMPTS), admission))
    seen = [0]
    while not flood.done():
        await asyncio.sleep(0)
        seen.append(len(engines.started))
    assert max(after - before for before, after in pairwise(seen)) <= 2, "the first is in its request's turn"
    assert seen[-1] == PROMPTS


async def test_what_has_come_meanwhile_is_one_batch() -> None:
    deltas = [Delta(index=0, text="a", tokens=(1,))] * 64
    sizes = await read(
        Engines([*deltas, Finished(index=0, reason="stop")]), requests(ANN, 1), make_admission()
    )
    assert sum(sizes) == len(deltas) + 1
    assert len(sizes) <= 8, "each batch is sent once, and sending is what costs"


async def test_what_came_before_an_error_is_handed_on_before_it() -> None:
    chunks = [Delta(index=0, text="a", tokens=(1,)), Unavailable(what="the engine", problem="gone")]
    engines = cast(EngineDirectory, Engines(chunks))
    async with open_streams(engines, TINY, requests(ANN, 1), admission=make_admission()) as answers:
        batches = answers.batches()
        come = [chunk for _, chunk in await anext(batches)]
        assert come[-1] == chunks[0]
        with pytest.raises(Unavailable):
            await anext(batches)
