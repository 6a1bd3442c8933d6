"""A light load generator for the OpenAI API: it must not take the processor that it measures."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

PROMPT = "f abcdefgh="


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One request: when it was sent, and how long its first token and its whole answer took, in seconds."""

    model: str
    sent_at: float
    first_seconds: float
    seconds: float
    status: int
    revision: str


class OpenAI:
    """One OpenAI-compatible server."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = f"{url}/v1/completions"

    async def ask(self, model: str, *, tokens: int = 1, stream: bool = False) -> Answered:
        """Ask greedily for exactly so many tokens."""
        body = {
            "model": model,
            "prompt": PROMPT,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
        sent_at = time.perf_counter()
        async with self._http.post(self._url, data=msgspec.json.encode(body), headers=_JSON) as answer:
            # Response headers come before the first token on some servers: wait for a byte of the body.
            await answer.content.readany()
            first = time.perf_counter() - sent_at
            await answer.content.read()
            return Answered(
                model=model,
                sent_at=sent_at,
                first_seconds=first,
                seconds=time.perf_counter() - sent_at,
                status=answer.status,
                revision=answer.headers.get("x-mint-revision", ""),
            )

    async def post(self, path: str, body: object) -> int:
        """Post to another route; return the status."""
        url = self._url.removesuffix("/v1/completions") + path
        async with self._http.post(url, data=msgspec.json.encode(body), headers=_JSON) as answer:
            await answer.read()
            return answer.status


_JSON = {"content-type": "application/json"}


@contextlib.asynccontextmanager
async def open_openai(url: str, *, api_key: str = "none") -> AsyncIterator[OpenAI]:
    """Open connections to a server."""
    headers = {"authorization": f"Bearer {api_key}"}
    # Servers close idle connections after 5 s: none is used that may just be closed.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as http:
        yield OpenAI(http, url)


async def in_flight(
    ask: Callable[[str], Awaitable[Answered]], models: Iterable[str], *, at_once: int
) -> list[Answered]:
    """Send one request for each model in order, so many at once; return the answers as they came."""
    waiting = iter(models)
    answers: list[Answered] = []

    async def worker() -> None:
        for model in waiting:
            answer = await ask(model)
            answers.append(answer)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return answers


async def at_rate(
    ask: Callable[[str], Coroutine[Any, Any, Answered]],
    models: Iterable[str],
    *,
    per_second: float,
    until: asyncio.Event,
) -> list[Answered]:
    """Send requests at fixed times, whether or not earlier ones were answered (open loop)."""
    tasks: list[asyncio.Task[Answered]] = []
    began = time.perf_counter()
    for number, model in enumerate(models):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, began + number / per_second - time.perf_counter())):
                await until.wait()
        if until.is_set():
            break
        tasks.append(asyncio.create_task(ask(model)))
    return list(await asyncio.gather(*tasks))
