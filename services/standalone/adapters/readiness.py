"""Probes of a started process: an HTTP answer, or a session of a database or a bus."""

import asyncio
import json
from urllib.parse import urlsplit

import asyncpg
import httpx

from services.standalone.adapters.launch import Launch

PROBE_TIMEOUT_SECONDS = 2.0


async def probe(launch: Launch, http: httpx.AsyncClient) -> bool:
    """Say whether a process is ready now."""
    if launch.ready_url:
        return await _answers(launch.ready_url, http)
    if launch.ready_dsn:
        return await accepts_sessions(launch.ready_dsn)
    return await _has_jetstream(launch.ready_bus)


async def is_alive(launch: Launch, http: httpx.AsyncClient, *, limit_seconds: float) -> bool:
    """Say whether a process that was ready answers, or has no way to be asked.

    Postgres is not asked: it refuses sessions when it has enough, and does not hang. NATS whose disk was full
    runs on without JetStream, and has it back when it is started again.
    """
    if launch.alive_url:
        return await _answers(launch.alive_url, http, timeout_seconds=limit_seconds)
    return not launch.ready_bus or await _has_jetstream(launch.ready_bus)


async def _answers(
    url: str, http: httpx.AsyncClient, *, timeout_seconds: float = PROBE_TIMEOUT_SECONDS
) -> bool:
    try:
        answer = await http.get(url, timeout=timeout_seconds)
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK


async def accepts_sessions(dsn: str) -> bool:
    """Say whether a database is there and lets us in."""
    try:
        session = await asyncpg.connect(dsn, timeout=PROBE_TIMEOUT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await session.close(timeout=PROBE_TIMEOUT_SECONDS)
    return True


async def _has_jetstream(url: str) -> bool:
    """Say whether NATS stores messages and lets us in.

    In its own protocol: the client leaves the socket of a login open that was refused.
    """
    parts = urlsplit(url)
    token = {"auth_token": parts.username}
    login = {"user": parts.username, "pass": parts.password} if parts.password else token
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                greeting = await reader.readline()
                writer.write(f"CONNECT {json.dumps({**login, 'verbose': False})}\r\nPING\r\n".encode())
                while (line := await reader.readline()).startswith(b"INFO"):
                    continue
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return b'"jetstream":true' in greeting and line.startswith(b"PONG")
