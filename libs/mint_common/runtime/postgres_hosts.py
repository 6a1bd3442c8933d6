"""Connect to one of several Postgres servers: a primary and its hot standbys.

asyncpg knows lists of hosts, but tries all of them within one time limit: a primary behind a cut link, which
does not refuse but is silent, would use it up before the standby's turn.
"""

import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg

LOST_SERVER_MILLISECONDS = 8000
"""Maximum time that sent bytes stay unacknowledged before the connection is given up."""
KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))
"""Seconds of silence before the first probe, seconds between probes, and how many may be lost."""

_ANOTHER = "target_session_attrs"
_ELSEWHERE = (
    OSError,  # TimeoutError too
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)
"""Errors of one server after which the next one is tried."""


class HostChoice:
    """Connects to the first server of a DSN that answers and takes writes, the last that did so first."""

    def __init__(self, dsn: str) -> None:
        self._dsns = one_host_each(dsn)

    async def connect(
        self, *_: object, **options: Any
    ) -> "asyncpg.Connection[Any]":  # Any: asyncpg's options
        """Connect; ``options`` are `asyncpg.connect`'s. Raises what it raises for the last server."""
        tried = tuple(self._dsns)  # another connection may change the order meanwhile
        for dsn in tried:
            try:
                connection: asyncpg.Connection[Any] = await asyncpg.connect(dsn, **options)
            except _ELSEWHERE:
                if dsn == tried[-1]:
                    raise
            else:
                self._dsns.sort(key=lambda each: each != dsn)
                _notice_a_cut_link(connection)
                return connection
        raise AssertionError


def one_host_each(dsn: str) -> list[str]:
    """Return a DSN for each host of one, which then has to take writes unless ``dsn`` says otherwise."""
    parts = urlsplit(dsn)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [dsn]
    wanted = "" if _ANOTHER in parse_qs(parts.query) else f"{_ANOTHER}=read-write"
    query = "&".join(filter(None, (parts.query, wanted)))
    return [
        urlunsplit(parts._replace(netloc=f"{user}{at}{host.strip()}", query=query))
        for host in hosts.split(",")
    ]


def _notice_a_cut_link(connection: "asyncpg.Connection[Any]") -> None:
    """End a connection whose server has vanished before the time limit of its statement."""
    # asyncpg has no other way to its socket.
    link = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # noqa: SLF001
    if link is None or link.family == socket.AF_UNIX:
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        link.setsockopt(socket.IPPROTO_TCP, option, value)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_SERVER_MILLISECONDS)
