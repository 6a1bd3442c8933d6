"""The connections of `InternalHttp` to one service: a bounded pool for short calls, another for long ones."""

import socket

import aiohttp

_SHORT_CONNECTIONS = 512
_NO_BOUND = 0
# Much shorter than a service's own (runtime.service), which must not close a connection that we begin to use.
_KEEP_ALIVE_SECONDS = 5
CONNECT_SECONDS = 4.0
"""Time limit of a TCP handshake; includes the kernel's second repetition of a lost packet, after 3 s.

A host that is cut off sends no refusal, and another host may answer the request.
"""


class Connections:
    """Sessions of aiohttp, which are made inside the loop that uses them."""

    def __init__(self, *, headers: dict[str, str], timeout_seconds: float) -> None:
        """``timeout_seconds`` hold for a place in the pool, and for any silence in a short call."""
        self._headers = headers
        self._limits = {
            False: _timeout(timeout_seconds, silence_seconds=timeout_seconds),
            True: _timeout(timeout_seconds, silence_seconds=None),
        }
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    def session(self, *, is_long: bool) -> aiohttp.ClientSession:
        """Return the session for short or for long calls."""
        if is_long not in self._sessions:
            self._sessions[is_long] = aiohttp.ClientSession(
                headers=self._headers,
                timeout=self._limits[is_long],
                connector=aiohttp.TCPConnector(
                    limit=_NO_BOUND if is_long else _SHORT_CONNECTIONS,
                    # A service that stops closes idle connections: a long call that met such a one would look
                    # as if it had begun. A new connection is refused, and the call may go elsewhere.
                    force_close=is_long,
                    keepalive_timeout=None if is_long else _KEEP_ALIVE_SECONDS,
                    socket_factory=_kept_alive,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._sessions[is_long]

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        for session in self._sessions.values():
            await session.close()


def _kept_alive(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket with TCP keep-alive, which breaks when the network path is gone."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _timeout(seconds: float, *, silence_seconds: float | None) -> aiohttp.ClientTimeout:
    handshake_seconds = min(seconds, CONNECT_SECONDS)
    return aiohttp.ClientTimeout(
        total=None, connect=seconds, sock_connect=handshake_seconds, sock_read=silence_seconds
    )
