"""Requests at the door of the gateway: who passes, who waits, and that nobody's body is lost."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from mint_common.authority import Authority
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from services.gateway.core.callers import Caller, KeyMemory
from services.gateway.core.cold_line import ColdLine
from services.gateway.http.pace import Pace
from services.gateway.http.turns import LARGEST_BYTES, Turns

ANN = TenantId("ann")


class Door:
    """The door, in front of an application that notes what it is asked and answers when it is told to."""

    def __init__(self, *, depth: int = 8, share: float = 0.001) -> None:
        keys, clock = KeyMemory(ttl_seconds=10, capacity=4), SystemClock()
        keys.put(
            "tml-ann",
            Caller(authority=Authority(tenant_id=ANN, key_id="k", scopes=frozenset()), name="ann"),
            now=clock.monotonic() - 99,
        )
        self.pace = Pace(ColdLine(share=share, depth=depth), clock)
        self.asked: list[bytes] = []
        self.answers = asyncio.Event()
        self.lines: list[TenantId] = []
        gateway = SimpleNamespace(pace=self.pace, keys=keys, clock=clock, is_warm=self._is_warm)
        self._app = SimpleNamespace(state=SimpleNamespace(gateway=gateway))
        self._door = Turns(self._answer)

    def _is_warm(self, tenant_id: TenantId, model: str) -> bool:
        self.lines.append(tenant_id)
        return model == "warm"

    async def _answer(self, _scope: Any, receive: Callable[[], Awaitable[Any]], _send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.asked.append(body)
        await self.answers.wait()

    def ask(
        self, *parts: bytes, gone: asyncio.Event | None = None, path: str = "/v1/completions", size: int = 0
    ) -> "tuple[asyncio.Task[None], list[Any]]":
        """Send a request; ``gone`` is set when its client leaves."""
        left = [
            {"type": "http.request", "body": part, "more_body": at < len(parts) - 1}
            for at, part in enumerate(parts)
        ]
        length = str(size or sum(map(len, parts))).encode()
        headers = [(b"content-length", length), (b"authorization", b"Bearer tml-ann")]
        sent: list[Any] = []

        async def receive() -> Any:
            if left:
                return left.pop(0)
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "app": self._app}
        return asyncio.create_task(self._door(scope, receive, send)), sent


def body(model: str) -> bytes:
    return json.dumps({"model": model, "prompt": "x"}).encode()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_warm_requests_pass_whoever_waits_and_bodies_stay_whole() -> None:
    door = Door()
    warm, _ = door.ask(body("warm")[:9], body("warm")[9:])
    await settle()
    colds = [door.ask(body(f"cold-{number}"))[0] for number in range(4)]
    await settle()
    late, _ = door.ask(body("warm"))
    await settle()
    assert door.asked == [body("warm"), body("cold-0"), body("warm")], "one cold one has begun, three wait"
    assert set(door.lines) == {ANN}, "though the key was verified long ago"
    door.answers.set()  # with the last warm one nobody is left to wait for
    async with asyncio.timeout(5):
        await asyncio.gather(warm, late, *colds)
    assert door.asked[3:] == [body(f"cold-{number}") for number in (1, 2, 3)]


async def test_a_client_that_leaves_the_line_is_forgotten() -> None:
    door = Door()
    door.ask(body("warm"))
    await settle()
    gone = asyncio.Event()
    first, waiting = door.ask(body("cold-0"))[0], door.ask(body("cold-1"), gone=gone)[0]
    await settle()
    gone.set()
    async with asyncio.timeout(5):
        await waiting
    door.answers.set()
    async with asyncio.timeout(5):
        await first
    assert door.asked == [body("warm"), body("cold-0")]


async def test_a_full_line_is_refused_as_the_openai_api_does() -> None:
    door = Door(depth=1)
    door.ask(body("warm"))
    await settle()
    door.ask(body("cold-0"))
    await settle()
    waiting, (refused, sent) = door.ask(body("cold-1"))[0], door.ask(body("cold-2"))
    async with asyncio.timeout(5):
        await refused
    assert sent[0]["status"] == 429
    assert json.loads(sent[1]["body"])["error"]["type"] == "rate_limit_error"
    assert b"retry-after" in dict(sent[0]["headers"])
    waiting.cancel()


async def test_other_routes_large_bodies_and_nonsense_are_left_to_who_reads_them() -> None:
    door = Door()
    door.answers.set()
    for task, _ in (
        door.ask(body("cold"), path="/mint/v1/policies"),
        door.ask(body("cold"), size=LARGEST_BYTES + 1),
        door.ask(b"\xff{"),
        door.ask(b'{"model": 7}'),
        door.ask(b"[" * 10_000),
    ):
        async with asyncio.timeout(5):
            await task
    assert len(door.asked) == 5
