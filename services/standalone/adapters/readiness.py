"""Probes of a started process: an HTTP answer, or a session of a database or a bus."""

import asyncio
import json
from urllib.parse import urlsplit

import asyncpg
import httpx

from services.standalone.adapters.launch import Launch

PROBE_TIMEOUT_SECONDS = 2.0


async def probe(launch: Launch, http: httpx.AsyncClient) -> bool:
    """Return whether a process is ready now."""
    if launch.ready_url:
        return await _answers(launch.ready_url, http)
    if launch.ready_dsn:
        return await accepts_sessions(launch.ready_dsn)
    return not launch.ready_bus or await _has_jetstream(launch.ready_bus)


async def is_alive(launch: Launch, http: httpx.AsyncClient, *, limit_seconds: float) -> bool:
    """Return whether a process that was ready answers; true for one that cannot be probed.

    Postgres is not probed: it refuses sessions at its limit, and does not hang. NATS continues without
    JetStream after a full disk, until it is restarted.
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
    """Return whether a database exists and accepts our login."""
    try:
        session = await asyncpg.connect(dsn, timeout=PROBE_TIMEOUT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await session.close(timeout=PROBE_TIMEOUT_SECONDS)
    return True


async def _has_jetstream(url: str) -> bool:
    """Return whether NATS stores messages and accepts our login.

    Uses the plain protocol: the client library leaves the socket of a refused login open.
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
