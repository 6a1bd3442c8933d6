"""Concurrent and broken-off requests through the official asynchronous client."""

import asyncio

import pytest
from openai import AsyncOpenAI

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 90.0


@pytest.fixture
async def client(stack, counter):
    async with AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        yield client


async def _aborted(stack, prompt: str) -> None:
    """Wait until the engine's request with this prompt has been aborted."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            mine = {call.facts.request_id for call in stack.loader.calls if call.prompt == prompt}
            if mine and mine <= set(stack.loader.aborted):
                return
            await asyncio.sleep(0.02)


async def test_concurrent_answers_do_not_mix(client):
    models = ["tiny", "counter@1", "counter@2", "counter@3"] * 8
    answers = await asyncio.gather(
        *(client.completions.create(model=m, prompt=str(at), max_tokens=30) for at, m in enumerate(models))
    )
    names = {"tiny": "base", "counter@1": "r1", "counter@2": "r2", "counter@3": "r3"}
    assert [a.choices[0].text for a in answers] == [f"{names[m]}/0/{at}" for at, m in enumerate(models)]


async def test_async_chat_stream(client):
    stream = await client.chat.completions.create(
        model="counter@1", messages=[{"role": "user", "content": "hey"}], stream=True
    )
    assert "".join([part.choices[0].delta.content or "" async for part in stream]) == "r1/0/hey"


async def test_leaving_a_stream_aborts_the_generation(client, stack):
    stream = await client.completions.create(model="tiny", prompt="SLOW stream", stream=True)
    async for _ in stream:
        break
    await stream.close()
    await _aborted(stack, "SLOW stream")


async def test_leaving_a_whole_request_aborts_the_generation(client, stack):
    asking = asyncio.create_task(client.completions.create(model="tiny", prompt="SLOW whole"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "SLOW whole" not in {call.prompt for call in stack.loader.calls}:
            await asyncio.sleep(0.02)
    asking.cancel()
    await _aborted(stack, "SLOW whole")
