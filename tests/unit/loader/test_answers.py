"""An answer of an inference API, from its admission to its last byte, around half an engine."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from mint_common.claims import RevisionRef
from mint_common.errors import NonFiniteOutput
from mint_common.ids import TenantId
from mint_common.inference.operations import ApiOperation
from services.loader.ports import Admission, AnswerHead, ApiCall, ApiWork

Make = Callable[..., Awaitable[Any]]  # Any: Bench of conftest.py, which cannot be imported
WORK = ApiWork(n=1, sequences=1, prompt_tokens=1, tokens=4)


@dataclass
class Streaming:
    """The half of an engine that answers: a head and two parts, or a failure behind the first."""

    is_poisoned: bool = False

    async def serve(self, call: ApiCall, *, admission: Admission) -> AsyncGenerator[AnswerHead | bytes, None]:
        """Answer once admitted."""
        async with admission(WORK) as adapter:
            yield AnswerHead(is_stream=True, served=adapter.digest if adapter else "base:b")
            yield b"one"
            if self.is_poisoned and adapter:
                raise NonFiniteOutput(digest=adapter.digest)
            yield b"two"


def call(revision: RevisionRef | None) -> ApiCall:
    return ApiCall(
        model="m",
        request_id="r",
        tenant_id=TenantId("t"),
        revision=revision,
        operation=ApiOperation.CHAT,
        body=b"{}",
    )


async def test_a_warm_stream_counts_as_warm_to_its_end_and_waits_for_its_first_token_until_it_comes(
    make_bench: Make,
) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    await bench.tiers.prewarm(revision, tenant_id=TenantId("t"), cause="c")
    counts = bench.tiers.resident_set
    async with aclosing(bench.serving(Streaming()).serve(call(revision))) as parts:
        seen = [(counts.warm, counts.first_tokens, counts.generating) async for _ in parts]
    assert seen == [(1, 0, 1)] * 3
    assert (counts.warm, counts.first_tokens, counts.generating) == (0, 0, 0)
    assert bench.tiers.status(revision.digest).in_flight == 0


@pytest.mark.parametrize("is_poisoned", [False, True])
async def test_a_stream_ends_as_the_engine_ends_it(make_bench: Make, is_poisoned: bool) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    asked = bench.serving(Streaming(is_poisoned=is_poisoned))
    head, *parts = [part async for part in asked.serve(call(revision))]
    assert isinstance(head, AnswerHead)
    assert head.served == revision.digest
    if not is_poisoned:
        assert parts == [b"one", b"two"]
        return
    assert parts[0] == b"one"
    assert parts[1].startswith(b'data: {"error":')
    with pytest.raises(NonFiniteOutput):  # it is quarantined: refused before anything is begun
        await anext(asked.serve(call(revision)))
