"""The ways in which one tenant floods an engine within its limits; each goes on until it is killed."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
import msgspec

from mint_common.client.engine import EngineClient
from mint_common.client.http import InternalHttp
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import TenantId

BASE = "tiny"
_JSON = {"content-type": "application/json"}
_BACK_OFF_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom a flood goes to, and as whom."""

    gateway_url: str
    loader_url: str
    internal_token: str
    api_key: str
    tenant_id: TenantId


class Flood:
    """One tenant's client."""

    def __init__(self, http: aiohttp.ClientSession, target: Target) -> None:
        self._http = http
        self._target = target
        self._numbers = itertools.count()

    async def chats(self, *, stream: bool) -> None:
        """As many completions as a request may have, with as many log-probabilities as an answer may hold."""
        body = {
            "model": BASE,
            "messages": [{"role": "user", "content": "tell me all"}],
            "n": 128,
            "max_tokens": 150,
            "logprobs": True,
            "top_logprobs": 20,
            "ignore_eos": True,
            "stream": stream,
        }
        await self._again(16, lambda: self._post("/v1/chat/completions", body))

    async def many_prompts(self) -> None:
        """As many choices as one request may have, over many prompts."""

        def ask() -> Awaitable[int]:
            prompts = [[20 + (7 * next(self._numbers) + at) % 200 for at in range(8)] for _ in range(32)]
            body = {"model": BASE, "prompt": prompts, "n": 4, "max_tokens": 200, "ignore_eos": True}
            return self._post("/v1/completions", body)

        await self._again(16, ask)

    async def long_prompts(self) -> None:
        """Prompts that fill the context and share nothing."""

        def ask() -> Awaitable[int]:
            prompt = [20 + (31 * next(self._numbers) + 7 * at) % 200 for at in range(240)]
            return self._post(
                "/v1/completions", {"model": BASE, "prompt": prompt, "max_tokens": 8, "ignore_eos": True}
            )

        await self._again(128, ask)

    async def rollouts(self) -> None:
        """What a job's waves ask of the loader."""
        async with InternalHttp(self._target.loader_url, token=self._target.internal_token) as http:
            engine = EngineClient(http)

            async def ask() -> int:
                request = SampleRequest(
                    request_id=f"wave-{next(self._numbers)}",
                    tenant_id=self._target.tenant_id,
                    revision=None,
                    tokens=tuple(range(20, 40)),
                    sampling=Sampling(max_new_tokens=200, temperature=1.0, n=16, ignore_eos=True),
                )
                await engine.sample(request)
                return 200

            await self._again(32, ask)

    async def unpolled_samples(self) -> None:
        """Samples that nobody polls, as many as are taken."""
        session = await self._call("/api/v1/create_session", {})
        opened = await self._call(
            "/api/v1/create_sampling_session",
            {"session_id": session["session_id"], "sampling_session_seq_id": 0, "base_model": BASE},
        )

        def ask() -> Awaitable[int]:
            body = {
                "sampling_session_id": opened["sampling_session_id"],
                "seq_id": next(self._numbers),
                "num_samples": 128,
                "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(range(20, 40))}]},
                "sampling_params": {"max_tokens": 200, "stop": []},
            }
            return self._post("/api/v1/asample", body)

        for _ in range(160):
            await ask()
        await self._again(1, ask)

    async def _again(self, at_once: int, ask: Callable[[], Awaitable[int]]) -> None:
        async def worker() -> None:
            while True:
                if await ask() != 200:
                    await asyncio.sleep(_BACK_OFF_SECONDS)

        await asyncio.gather(*(worker() for _ in range(at_once)))

    async def _post(self, path: str, body: object) -> int:
        url, data = self._target.gateway_url + path, msgspec.json.encode(body)
        async with self._http.post(url, data=data, headers=_JSON) as answer:
            async for _ in answer.content.iter_any():
                continue
            return answer.status

    async def _call(self, path: str, body: object) -> dict[str, str]:
        url, data = self._target.gateway_url + path, msgspec.json.encode(body)
        async with self._http.post(url, data=data, headers=_JSON) as answer:
            return msgspec.json.decode(await answer.read(), type=dict[str, str], strict=False)


FLOODS: Mapping[str, Callable[[Flood], Awaitable[None]]] = {
    "chat_logprobs": lambda flood: flood.chats(stream=False),
    "chat_streams": lambda flood: flood.chats(stream=True),
    "many_prompts": Flood.many_prompts,
    "long_prompts": Flood.long_prompts,
    "rollouts": Flood.rollouts,
    "unpolled_samples": Flood.unpolled_samples,
}
"""What takes longest to end stands last."""


def run_flood(name: str, target: Target) -> None:
    """Flood until the process is killed."""
    asyncio.run(_run(name, target))


async def _run(name: str, target: Target) -> None:
    headers = {"authorization": f"Bearer {target.api_key}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
        await FLOODS[name](Flood(http, target))
