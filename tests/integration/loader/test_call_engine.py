"""A call of several prompts, whose requests vLLM merges: all are ended before its adapter is let go."""

import asyncio
import gc
import warnings
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mint_common.errors import RequestRefused
from mint_common.ids import TenantId
from mint_common.inference.operations import ApiOperation
from mint_common.runtime.fair_gate import LoopGate
from services.loader.adapters.vllm.compile_checks import CompileChecks
from services.loader.adapters.vllm.openai.call import CallEngine
from services.loader.adapters.vllm.openai.serving import _events, _marked
from services.loader.ports import ApiCall, ApiWork

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

PROMPTS = 3
CALL = ApiCall(
    model="m",
    request_id="r",
    tenant_id=TenantId("t"),
    revision=None,
    operation=ApiOperation.COMPLETION,
    body=b"{}",
)


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """Import vLLM, whose libraries warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vllm.v1.engine.exceptions  # noqa: F401


class StandInLLM:
    """Requests that never end by themselves, or all fail at once."""

    model_config = SimpleNamespace(max_model_len=64)
    errored = False

    def __init__(self, *, fails: bool = False, answers: Any = None) -> None:
        self.fails = fails
        self.answers = answers
        self.skipped: list[int] = []
        self.log: list[str] = []
        self.begun = asyncio.Event()

    async def generate(
        self, prompt: Any, params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        del prompt
        self.skipped.append(params.routed_experts_prompt_start)
        try:
            if self.answers is not None:
                yield SimpleNamespace(lora_request=options["lora_request"], outputs=self.answers)
                return
            self.log.append(f"begun {request_id}")
            if self.fails:
                raise ValueError("out of the vocabulary")
            if len(self.log) == PROMPTS:
                self.begun.set()
            await asyncio.Event().wait()
            yield None
        except (asyncio.CancelledError, GeneratorExit):
            await asyncio.sleep(0)  # an abort is sent
            self.log.append(f"aborted {request_id}")
            raise

    @asynccontextmanager
    async def admission(self, work: ApiWork) -> AsyncIterator[None]:
        del work
        try:
            yield
        finally:
            self.log.append("released")


async def admitted(llm: StandInLLM) -> CallEngine:
    engine = CallEngine(
        llm,
        CALL,
        base="tiny",
        admission=llm.admission,
        starts=LoopGate(),
        compile_checks=CompileChecks(tokenizer="none", vocab_size=1, seconds=1),
    )
    await engine.admit(SimpleNamespace(n=1), [{"prompt_token_ids": [1, 2]}] * PROMPTS)
    return engine


def merged(engine: CallEngine, *, logprobs: int | None = None) -> AsyncGenerator[Any, None]:
    from vllm.utils.async_utils import merge_async_iterators

    params = SimpleNamespace(structured_outputs=None, logprobs=logprobs)
    requests = [engine.generate({"prompt_token_ids": [1, 2]}, params, "theirs") for _ in range(PROMPTS)]
    return merge_async_iterators(*requests)


@pytest.mark.parametrize("logprobs", [None, 20])
@pytest.mark.parametrize("waits_for_it", [True, False])
async def test_a_reader_that_leaves_ends_every_request_before_the_adapter_is_let_go(
    waits_for_it: bool, logprobs: int | None
) -> None:
    llm = StandInLLM()
    engine = await admitted(llm)
    outputs = merged(engine, logprobs=logprobs)
    reading = asyncio.create_task(anext(outputs))
    await llm.begun.wait()
    if waits_for_it:
        reading.cancel()
        await asyncio.wait([reading])
    await engine.aclose()
    aborted = [f"aborted r-{number}" for number in range(PROMPTS)]
    assert (sorted(llm.log[PROMPTS:-1]), llm.log[-1]) == (aborted, "released")
    await asyncio.wait([reading])


async def test_an_answer_has_no_routes_that_its_client_cannot_ask_for() -> None:
    answer = SimpleNamespace(token_ids=(1,), finish_reason="stop", routed_experts=np.ones((3, 2, 2)))
    llm = StandInLLM(answers=[answer])
    engine = await admitted(llm)
    async with aclosing(engine):
        assert [one.routed_experts async for _, output in merged(engine) for one in output.outputs] == [
            None
        ] * 3
    assert llm.skipped == [2] * PROMPTS, "routes of prompts are not even collected"


async def test_the_first_failure_of_several_is_told_and_none_is_left_to_the_log() -> None:
    loop, told = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: told.append(context))
    llm = StandInLLM(fails=True)
    engine = await admitted(llm)
    try:
        async with aclosing(engine):
            with pytest.raises(ValueError, match="out of the vocabulary"):
                await anext(merged(engine))
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert (llm.log[-1], told) == ("released", [])


async def test_a_stream_that_ends_before_its_first_output_is_an_error() -> None:
    async def of(*events: str) -> AsyncGenerator[str, None]:
        for event in events:
            yield event

    engine = await admitted(StandInLLM())
    refused = (
        'data: {"error":{"message":"no such field","type":"BadRequestError","param":"x","code":400}}\n\n'
    )
    with pytest.raises(RequestRefused, match="no such field"):
        await anext(_events(of(refused, "data: [DONE]\n\n"), engine))
    with pytest.raises(RuntimeError, match="a bug"):
        await anext(_events(of('data: {"error":{"message":"a bug","code":500}}\n\n'), engine))
    with pytest.raises(RuntimeError, match="does not say why"):
        await anext(_events(of(), engine))
    engine.failure = RequestRefused(field="prompt", problem="too long")
    with pytest.raises(RequestRefused, match="too long"):
        await anext(_events(of(), engine))
    engine.has_begun, engine.failure = True, None
    stream = _events(of('data: {"id":"c"}\n\n'), engine)
    assert (await anext(stream)).is_stream
    assert await anext(stream) == b'data: {"system_fingerprint":"base:tiny","id":"c"}\n\n'
    engine.failure = RequestRefused(field="prompt", problem="lost midway")
    with pytest.raises(RequestRefused, match="lost midway"):
        await anext(stream)
    await engine.aclose()


async def test_the_first_event_says_what_answers_whatever_the_client_says() -> None:
    said = '"metadata":{"system_fingerprint":"base:tiny"}}\n\n'
    marked = 'data: {"system_fingerprint":"base:tiny","id":"r",' + said
    for first in ('data: {"id":"r",' + said, marked):
        assert _marked(first.encode(), "base:tiny") == marked.encode()


async def test_a_call_knows_when_its_requests_have_ended() -> None:
    class OneOutput(StandInLLM):
        async def generate(self, *given: Any, **options: Any) -> AsyncGenerator[Any, None]:
            del given, options
            yield SimpleNamespace(lora_request=None, outputs=())

    engine = await admitted(OneOutput())
    params = SimpleNamespace(logprobs=None, structured_outputs=None)
    one, other = (engine.generate({"prompt_token_ids": [1]}, params, "") for _ in range(2))
    for request in (one, other):
        await anext(request)
        assert engine.running == 2
    assert ([output async for output in one], engine.running) == ([], 1)
    assert ([output async for output in other], engine.running) == ([], 0)
    await engine.aclose()
