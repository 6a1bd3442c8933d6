"""The model door over a real engine: what agents' own clients get, and what of it is trained."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from mint_common.client.directory import EngineDirectory
from mint_common.generation import SampleRequest, Sampling, float32s, int32s
from mint_common.ids import BaseName, TenantId, derive_id
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.service import serve_socket
from services.rollout.adapters.engine_chat import EngineChat
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.door.answers import message_of, reading_request
from services.rollout.core.door.conversation import turn_of
from services.rollout.core.door.requests import read_chat
from services.rollout.core.sampling import GroupRequest, SampledGroup
from services.rollout.core.trajectories import ModelCall, Segment
from services.rollout.handlers.engine_requests import EngineRequests
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.open_episode import DoorParts, EpisodeTerms, OpenEpisode
from services.rollout.http.door import MAX_BODY_BYTES, DoorCalls, door_http
from tests.integration.loader.conftest import TOKEN, Rig

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

TERMS = EpisodeTerms(
    episode_id="ep_1",
    tenant_id=TenantId("t"),
    base=BaseName("tiny"),
    revision=None,
    model="policy",
    temperature=0.7,
    max_new_tokens=6,
    max_turns=4,
    seconds=60.0,
    seed=3,
)
IN_FLIGHT = 8
_NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": _NUMBERS}}]
USER = {"role": "user", "content": "1 2 3 "}


@dataclass(frozen=True, kw_only=True)
class OpenDoor:
    """A door that is served at its socket."""

    door: ModelDoor
    sampler: EngineSampler

    @contextmanager
    def episode(self, **terms: Any) -> Iterator[tuple[str, OpenEpisode]]:
        """Open an episode."""
        with self.door.opened(replace(TERMS, **terms)) as opened:
            yield opened

    @asynccontextmanager
    async def http(self, path: str) -> AsyncIterator[httpx.AsyncClient]:
        """Return a plain client of an episode."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.door.socket))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://localhost{path}") as client:
            yield client

    @asynccontextmanager
    async def openai(self, path: str) -> AsyncIterator[openai.AsyncOpenAI]:
        """Return OpenAI's client of an episode."""
        async with self.http(path) as http:
            yield openai.AsyncOpenAI(base_url=f"http://localhost{path}/v1", api_key="none", http_client=http)


@pytest_asyncio.fixture(loop_scope="session")
async def opened(rig: Rig) -> AsyncIterator[OpenDoor]:
    """Return a door in front of the engine."""
    engines = EngineDirectory([rig.url], token=TOKEN)
    sampler, clock = NotedSampler(engines), SystemClock()
    with TemporaryDirectory() as folder:
        parts = DoorParts(
            sampler=sampler,
            chat=EngineChat(engines),
            requests=EngineRequests(clock, in_flight=IN_FLIGHT),
            clock=clock,
        )
        door = ModelDoor(parts=parts, socket=Path(folder) / "socket")
        serving = asyncio.create_task(serve_socket(door_http(door, DoorCalls()), door.socket))
        while not door.socket.exists():
            await asyncio.sleep(0.01)
        yield OpenDoor(door=door, sampler=sampler)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    await engines.aclose()


async def test_turns_of_openais_client_are_one_segment_token_for_token(opened: OpenDoor) -> None:
    with opened.episode() as (path, episode):
        async with opened.openai(path) as client:
            messages: list[Any] = [USER]
            answers = []
            for _ in range(3):
                answer = await client.chat.completions.create(
                    model="policy",
                    messages=messages,
                    logprobs=True,
                    max_tokens=4,
                    extra_body={"return_token_ids": True},
                )
                answers.append(answer)
                said = answer.choices[0].message.model_dump(exclude_none=True)
                messages += [said, {"role": "user", "content": " 4 5"}]
        (segment,) = episode.segments
        last = answers[-1].model_dump()
        assert segment.tokens == (*last["prompt_token_ids"], *last["choices"][0]["token_ids"])
        assert len(segment.trained) == episode.turns == 3
        for answer, (start, end) in zip(answers, segment.trained, strict=True):
            choice = answer.model_dump()["choices"][0]
            assert tuple(choice["token_ids"]) == segment.tokens[start:end]
            assert len(choice["token_ids"]) <= 4
            entries = choice["logprobs"]["content"]
            assert [entry["logprob"] for entry in entries] == pytest.approx(segment.logprobs[start:end])
            assert all(entry["token"] for entry in entries)
            assert answer.usage is not None
            assert answer.usage.completion_tokens == end - start
        assert episode.fault is None


async def test_the_log_probabilities_are_those_at_the_jobs_temperature(opened: OpenDoor, rig: Rig) -> None:
    with opened.episode() as (path, episode):
        async with opened.openai(path) as client:
            await client.chat.completions.create(model="policy", messages=[USER], temperature=1.9)
        (segment,) = episode.segments
    start, end = segment.trained[0]
    read = await rig.client.sample(
        SampleRequest(
            request_id="r",
            tenant_id=TERMS.tenant_id,
            revision=None,
            tokens=segment.tokens[:start],
            sampling=Sampling(max_new_tokens=1, temperature=0.7, seed=1, logprobs=20),
            logprobs_mode="processed",
        )
    )
    likeliest = read.sequences[0].likeliest
    assert likeliest is not None
    known = dict(zip(int32s(likeliest.tokens), float32s(likeliest.logprobs), strict=True))
    assert segment.logprobs[start] == pytest.approx(known[segment.tokens[start]], abs=1e-4)
    assert end - start <= TERMS.max_new_tokens


async def test_a_stream_and_a_whole_answer_of_one_seed_are_the_same(opened: OpenDoor) -> None:
    texts = []
    for stream in (False, True):
        with opened.episode() as (path, _):
            async with opened.openai(path) as client:
                if not stream:
                    whole = await client.chat.completions.create(model="policy", messages=[USER])
                    texts.append(whole.choices[0].message.content)
                    continue
                parts = await client.chat.completions.create(
                    model="policy", messages=[USER], stream=True, stream_options={"include_usage": True}
                )
                chunks = [chunk async for chunk in parts]
                texts.append("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
                assert chunks[-1].usage is not None
    assert texts[0] == texts[1]


async def test_token_clients_get_and_give_ids(opened: OpenDoor) -> None:
    with opened.episode() as (path, episode):
        async with opened.http(path) as client:
            models = (await client.get("/v1/models")).json()
            assert (models["data"][0]["id"], models["data"][0]["max_model_len"]) == ("policy", 256)
            found = await client.post("/tokenize", json={"model": "policy", "messages": [USER]})
            prompt = found.json()["tokens"]
            params = {"max_tokens": 3, "logprobs": 1, "temperature": 0.1, "stop_token_ids": [2]}
            body = {"model": "policy", "token_ids": prompt, "sampling_params": params}
            answer = (await client.post("/inference/v1/generate", json=body)).json()
            (choice,) = answer["choices"]
            entries = choice["logprobs"]["content"]
            assert [entry["token"] for entry in entries] == [f"token_id:{t}" for t in choice["token_ids"]]
            tokens = [*prompt, *choice["token_ids"], 53]
            body = {"model": "policy", "messages": [USER], "tokens": tokens, "return_token_ids": True}
            answer = (await client.post("/v1/chat/completions/tokens", json=body)).json()
            assert answer["prompt_token_ids"] == tokens
        (segment,) = episode.segments
        assert segment.tokens == (*tokens, *answer["choices"][0]["token_ids"])
        assert len(segment.trained) == 2


async def test_a_stop_text_ends_token_clients_answers_behind_it(opened: OpenDoor) -> None:
    prompt = await opened.sampler.tokenize(TERMS.base, "f abcdefgh=")

    async def asked(**params: Any) -> tuple[Any, Segment]:
        with opened.episode(max_new_tokens=24) as (path, episode):
            async with opened.http(path) as client:
                body = {"token_ids": prompt, "sampling_params": {"max_tokens": 24, **params}}
                answer = await client.post("/inference/v1/generate", json=body)
                assert answer.status_code == 200, answer.text
            (segment,) = episode.segments
        (choice,) = answer.json()["choices"]
        assert tuple(choice["token_ids"]) == segment.tokens[len(prompt) :]
        return choice, segment

    whole, segment = await asked()
    assert len(whole["token_ids"]) > 4
    stop = segment.text[1:3]
    assert len(stop) == 2
    for said in (stop, ["unheard of", stop]):
        cut, short = await asked(stop=said)
        size = len(cut["token_ids"])
        assert cut["finish_reason"] == "stop"
        assert cut["token_ids"] == whole["token_ids"][:size]
        assert size < len(whole["token_ids"])
        assert short.logprobs == pytest.approx(segment.logprobs[: len(prompt) + size])
    with opened.episode() as (path, episode):
        async with opened.http(path) as client:
            body = {"token_ids": [40], "sampling_params": {"stop": ["a", ""]}}
            assert (await client.post("/inference/v1/generate", json=body)).status_code == 400
        assert episode.fault is None


class NotedSampler(EngineSampler):
    """Notes what the engine is asked and answers, by request."""

    def __init__(self, engines: EngineDirectory) -> None:
        super().__init__(engines)
        self.noted: dict[str, tuple[int, ...]] = {}

    async def sample(self, request: GroupRequest) -> SampledGroup:
        """Sample."""
        found = await super().sample(request)
        self.noted[request.request_id] = request.prompt_tokens + found.completions[0].tokens
        return found


@pytest.mark.slow
async def test_two_hundred_episodes_of_two_to_four_turns_are_what_the_engine_read_and_sampled(
    opened: OpenDoor,
) -> None:
    sampler = opened.sampler
    assert isinstance(sampler, NotedSampler)
    alike = asyncio.Semaphore(IN_FLIGHT)

    async def run(number: int) -> None:
        terms = {"seed": number, "temperature": (0.7, 1.0)[number % 2], "episode_id": f"ep_many_{number}"}
        turns = 2 + number % 3
        async with alike:
            with opened.episode(**terms) as (path, episode):
                async with opened.openai(path) as client:
                    messages: list[Any] = [{"role": "user", "content": f"{number} {number + 1} "}]
                    for turn in range(turns):
                        answer = await client.chat.completions.create(model="policy", messages=messages)
                        said = answer.choices[0].message.model_dump(exclude_none=True)
                        messages += [said, {"role": "user", "content": f" {turn} {number % 7}"}]
            calls = [derive_id("req", terms["episode_id"], turn) for turn in range(1, turns + 1)]
            (segment,) = episode.segments
            assert segment.tokens == sampler.noted[calls[-1]]
            assert [end for _, end in segment.trained] == [len(sampler.noted[each]) for each in calls]
            if number % 20 == 1:  # of temperature 1: the engine reads the same tokens as it sampled them
                asked = GroupRequest(
                    request_id=f"read_{number}",
                    tenant_id=TERMS.tenant_id,
                    base=TERMS.base,
                    revision=None,
                    prompt="",
                    prompt_tokens=segment.tokens,
                    n=1,
                    max_new_tokens=1,
                    temperature=0.0,
                    seed=0,
                    logprobs_mode="raw",
                    routes=False,
                )
                read = (await sampler.read(asked)).logprobs
                own = [at for start, end in segment.trained for at in range(start, end)]
                assert [read[at] for at in own] == pytest.approx(
                    [segment.logprobs[at] for at in own], abs=1e-3
                )

    await asyncio.gather(*(run(number) for number in range(200)))


async def test_a_changed_history_opens_a_segment(opened: OpenDoor) -> None:
    with opened.episode() as (path, episode):
        async with opened.openai(path) as client:
            await client.chat.completions.create(model="policy", messages=[USER])
            other: list[Any] = [
                {"role": "user", "content": "9 9"},
                {"role": "assistant", "content": "8"},
                USER,
            ]
            await client.chat.completions.create(model="policy", messages=other)
        assert [len(each.trained) for each in episode.segments] == [1, 1]


async def test_limits_are_a_400_that_clients_do_not_repeat(opened: OpenDoor) -> None:
    with opened.episode(max_turns=1) as (path, episode):
        async with opened.openai(path) as client:
            await client.chat.completions.create(model="policy", messages=[USER])
            with pytest.raises(openai.BadRequestError, match="has had its 1 calls"):
                await client.chat.completions.create(model="policy", messages=[USER])
        assert episode.at_limit
    with opened.episode() as (path, episode):
        async with opened.http(path) as client:
            long = {"model": "policy", "messages": [{"role": "user", "content": "1 2 " * 400}]}
            refused = await client.post("/v1/chat/completions", json=long)
            assert refused.status_code == 400
            for wrong in ({"top_p": 0.5}, {"stop": ["x"]}, {"n": 2}):
                body = {"model": "policy", "messages": [USER], **wrong}
                refused = await client.post("/v1/chat/completions", json=body)
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(wrong)))
            head = f"POST {path}/v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
            reader, writer = await asyncio.open_unix_connection(opened.door.socket)
            writer.write(f"{head}content-length: {MAX_BODY_BYTES + 1}\r\n\r\n{{".encode())
            assert b" 413 " in await reader.readline()
            writer.close()
            assert (await client.post("/v1/chat/completions", content=b"{")).status_code == 400
        assert (episode.turns, episode.segments, episode.fault) == (0, (), None)
    with opened.episode(seconds=0.0) as (path, _):
        async with opened.openai(path) as client:
            with pytest.raises(openai.BadRequestError, match="are over"):
                await client.chat.completions.create(model="policy", messages=[USER])


async def test_a_foreign_or_ended_address_does_not_exist(opened: OpenDoor) -> None:
    with opened.episode() as (path, _):
        pass
    for gone in (path, "/e/guess"):
        async with opened.openai(gone) as client:
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="policy", messages=[USER])
        async with opened.http(gone) as client:
            assert (await client.get("/v1/models")).status_code == 404
    async with opened.http("") as client:
        assert (await client.get("/metrics")).status_code == 404


async def test_the_end_of_an_episode_ends_the_calls_that_wait_for_an_engine(opened: OpenDoor) -> None:
    never, requests = asyncio.Event(), opened.door.parts.requests
    others = [asyncio.create_task(requests.retried(TERMS.tenant_id, never.wait)) for _ in range(IN_FLIGHT)]
    with opened.episode() as (path, episode):
        async with opened.http(path) as client:
            body = {"model": "policy", "messages": [USER]}
            calling = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            while not episode.calls:
                await asyncio.sleep(0.01)
            episode.end()
            assert (await calling).status_code == 404
    never.set()
    await asyncio.gather(*others)
    assert episode.segments == ()


async def test_tool_calls_are_read_and_their_results_continue_the_tokens(opened: OpenDoor) -> None:
    chat, base, tenant = opened.door.parts.chat, TERMS.base, TERMS.tenant_id
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    asked = {"prompt": text, "add_special_tokens": False}
    found = json.loads(await chat.tokenize(base, asked, tenant_id=tenant))["tokens"]
    call = ModelCall(prompt=(5, 6), completion=(*found, 2), logprobs=(-1.0,) * (len(found) + 1), text=text)
    request = read_chat(json.dumps({"model": "policy", "messages": [USER], "tools": TOOLS}).encode())
    message = message_of(call, await chat.read(base, reading_request(call, request), tenant_id=tenant))
    (made,) = message["tool_calls"]
    assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("add", {"a": 1, "b": 2})
    with opened.episode() as (path, episode):
        turn = turn_of([USER, message], request.template, call.tokens, is_cut=False)
        episode._answered.append(turn)
        async with opened.openai(path) as client:
            tail: Any = {"role": "tool", "tool_call_id": made["id"], "content": "3"}
            answer = await client.chat.completions.create(
                model="policy",
                messages=[USER, message, tail],  # type: ignore[list-item]  # as the client repeats them
                tools=TOOLS,  # type: ignore[arg-type]
                extra_body={"return_token_ids": True},
            )
        prompt = tuple(answer.model_dump()["prompt_token_ids"])
        assert prompt[: len(call.tokens)] == call.tokens
        assert len(prompt) > len(call.tokens)
