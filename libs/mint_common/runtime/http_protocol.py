"""HTTP/1.1 connections with limits on time and size, so that idle or slow clients cannot hold them.

uvicorn limits only the pause between two requests. Invariants here: a connection without an active request
always has a timer; a head is limited in time, bytes and lines; an unneeded request body is
read slowly and discarded for a while, so that its sender receives the answer, then the connection is closed.
A body in many tiny parts, or with more framing than content, is refused and not read on, because each part
costs a call; its connection stays open for a while, so that its sender cannot begin the next one at once.
Trailers are discarded, because the checks of the head did not see them. When there are too many connections,
those without an active request are closed, the oldest first. When a connection ends, every request on it is
notified: uvicorn notifies only the last one. When the server stops, a connection whose first request has not
come yet stays open for a short time: closed at once, its client could not know whether the request had begun.
"""

import asyncio
import logging
import resource
import socket
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.datastructures import Headers
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from mint_common.telemetry.tracing import REQUEST_HEADER, request_of

MAX_CONNECTIONS = 8192
_OTHER_FILES = 256
"""Descriptors that are left for everything but connections of clients."""

_log = logging.getLogger("uvicorn.error.connections")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """Limits of connections.

    ``head_seconds`` runs from the first byte of a request to the end of its head; ``head_bytes`` limits a
    head after its first read. ``parts`` are pairs of count and bytes: a body of more parts than the count
    must have that many bytes per part on average; short lines sent one by one are legal for long. Its framing
    (sizes and extensions of chunks, trailers) may have as many bytes as the body and ``head_bytes`` more. An
    unneeded body is read for at most ``linger_seconds``, and ``linger_pause_seconds`` without a byte, once
    every ``linger_read_seconds``. ``ahead_bytes`` limits pipelined requests after an active one; a client
    that reads nothing of an answer is disconnected after ``unread_seconds``. When the server stops, the first
    request of a connection is awaited for ``first_seconds``.
    """

    connections: int = MAX_CONNECTIONS
    head_seconds: float = 10
    head_bytes: int = 64 << 10
    head_lines: int = 200
    parts: tuple[tuple[int, int], ...] = ((1000, 16), (20_000, 64))
    linger_seconds: float = 30
    linger_pause_seconds: float = 5
    linger_read_seconds: float = 0.1
    ahead_bytes: int = 64 << 10
    unread_seconds: float = 60
    first_seconds: float = 1


def max_connections() -> int:
    """Raise the process's descriptor limit to its maximum; return how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(MAX_CONNECTIONS, soft - _OTHER_FILES))


def protocol_of(connection_bounds: ConnectionBounds) -> type["BoundedProtocol"]:
    """Return the protocol of one server."""
    # A malformed request is answered 400; uvicorn's line for each would let callers fill a disk.
    _log.setLevel(logging.ERROR)

    class Protocol(BoundedProtocol):
        bounds: ClassVar = connection_bounds
        idle: ClassVar = OrderedDict()

    return Protocol


class BoundedProtocol(HttpToolsProtocol):
    """One connection; `protocol_of` makes the class of a server."""

    bounds: ClassVar[ConnectionBounds]
    idle: ClassVar["OrderedDict[BoundedProtocol, None]"]
    """Those without a request in hand, the longest without one first."""

    def __init__(self, *args: Any, **options: Any) -> None:  # uvicorn's own
        super().__init__(*args, **options)
        self.logger = _log
        self._timer: asyncio.TimerHandle | None = None
        self._is_in_head = False
        self._is_in_body = False
        self._head_bytes = 0
        self._body_parts = self._body_bytes = self._body_wire_bytes = self._trailer_lines = 0
        self._is_refused = False
        self._is_last = False
        self._why = ""
        self._lingers_until: float | None = None
        self._at_work: RequestResponseCycle | None = None
        self._ahead_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin, in the place of another connection if there are too many."""
        super().connection_made(transport)
        # Linux ends a connection whose peer reads nothing; asyncio would wait for it, closing or not.
        peer = transport.get_extra_info("socket")
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * self.bounds.unread_seconds)
            )
        self.idle[self] = None
        self._close_after(self.timeout_keep_alive)
        if len(self.connections) > self.bounds.connections:
            self.idle.popitem(last=False)[0].transport.close()

    def shutdown(self) -> None:
        """Close after the current answer, if any; await the first request of a new connection."""
        if self._at_work is None:
            self._is_last = True
            if not self._is_in_head:
                self._close_after(self.bounds.first_seconds)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; uvicorn leaves its timer when it was reset."""
        super().connection_lost(exc)
        if self._at_work is not None and not self._at_work.response_complete:
            self._at_work.disconnected = True
            self._at_work.message_event.set()
        self._unset_keepalive_if_required()
        self._stay()
        self.idle.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Read on, within the bounds of a head."""
        if self._is_refused:
            return
        if self._is_in_head:
            self._head_bytes += len(data)
        if self._is_in_body:
            self._body_wire_bytes += len(data)
        super().data_received(data)
        if self._is_refused or self.transport.is_closing():
            return
        if self._is_in_body and self._body_wire_bytes > 2 * self._body_bytes + self.bounds.head_bytes:
            self.send_400_response("A chunked body may not have more framing than content.")
            return
        if self.pipeline and not self._read_ahead(len(data)):
            return
        if self._is_in_head and self._head_bytes > self.bounds.head_bytes:
            self._refuse(431, f"A request's head may have {self.bounds.head_bytes} bytes at most.")
        elif self._lingers_until is not None:
            self._linger()
        elif self._timer is None and self.timeout_keep_alive_task is None and self._is_without_request():
            self._close_after(self.bounds.head_seconds)  # what came is no request yet: line ends before one

    def on_message_begin(self) -> None:
        """Give the head its time."""
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0
        self._close_after(self.bounds.head_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Process a header line, but no trailer; exceptions here are answered with 400."""
        if self._is_in_body:
            self._trailer_lines += 1
            if self._trailer_lines > self.bounds.head_lines:
                raise self._problem(f"A body may have {self.bounds.head_lines} trailers at most.")
            return
        super().on_header(name, value)
        if len(self.headers) > self.bounds.head_lines:
            raise self._problem(f"A request may have {self.bounds.head_lines} headers at most.")

    def on_headers_complete(self) -> None:
        """Hand the request on."""
        self._is_in_head, self._is_in_body = False, True
        self._body_parts = self._body_bytes = self._body_wire_bytes = self._trailer_lines = 0
        self._stay()
        self.idle.pop(self, None)
        super().on_headers_complete()
        if self._is_last:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Process a part of a body; exceptions here are answered with 400."""
        self._body_parts += 1
        self._body_bytes += len(body)
        for count, min_bytes in self.bounds.parts:
            if self._body_parts > count and self._body_bytes < min_bytes * self._body_parts:
                raise self._problem(
                    f"A body in more than {count} parts needs {min_bytes} bytes in each on average: "
                    "send larger ones."
                )
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what came. Of a body nothing more is read; an answer that has begun gets no second one."""
        msg = self._why or msg
        if not self._is_in_body:
            self._refuse(400, msg)
            return
        if not self.cycle.response_started:
            self.transport.write(self._plain_answer(400, msg))
        self._is_refused = True
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self.flow.pause_reading()
        self._close_after(self.bounds.linger_pause_seconds)

    def _problem(self, problem: str) -> ValueError:
        """Return the exception of a parser callback; uvicorn's own answer would be only "invalid"."""
        self._why = problem
        return ValueError(problem)

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore a wish for another protocol, as HTTP asks for."""

    def on_message_complete(self) -> None:
        """Note that the body is whole; one that was thrown away leaves its connection to the next request."""
        super().on_message_complete()
        self._is_in_body = False
        if self._lingers_until is not None:
            self._lingers_until = None
            self._close_after(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that its answer did not wait for."""
        super().on_response_complete()
        if self.transport.is_closing() or not self._is_without_request():
            return
        self.idle[self] = None
        if self._is_in_body:
            self._unset_keepalive_if_required()
            self._lingers_until = self.loop.time() + self.bounds.linger_seconds
            self._linger()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # Any: uvicorn's own
        self._at_work = cycle
        if not self.pipeline:
            self._ahead_bytes = 0
        super()._start_asgi_task(cycle, app)

    def _read_ahead(self, size_bytes: int) -> bool:
        """Read on after an active request, to detect a client that leaves; return whether it may go on."""
        self._ahead_bytes += size_bytes
        if self._ahead_bytes > self.bounds.ahead_bytes:
            self.transport.abort()
            return False
        self.flow.resume_reading()
        return True

    def _is_without_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _linger(self) -> None:
        assert self._lingers_until is not None
        left_seconds = self._lingers_until - self.loop.time()
        self._close_after(min(self.bounds.linger_pause_seconds, left_seconds))
        # At full speed some dozen senders would keep the loop from everything else.
        self.flow.pause_reading()
        self.loop.call_later(self.bounds.linger_read_seconds, self._read_unneeded)

    def _read_unneeded(self) -> None:
        if self._lingers_until is not None and not (self._is_refused or self.transport.is_closing()):
            self.flow.resume_reading()

    def _close_after(self, seconds: float) -> None:
        self._stay()
        self._timer = self.loop.call_later(seconds, self._on_time)

    def _stay(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        self._timer = None
        if self._is_refused:
            self.transport.close()
        elif self._is_in_head and self._is_without_request():
            self._refuse(400, f"A request's head must be whole in {self.bounds.head_seconds:g} s.")
        else:
            super().shutdown()  # at once, or after the current answer

    def _refuse(self, status: int, problem: str) -> None:
        self.transport.write(self._plain_answer(status, problem))
        self.transport.close()

    def _plain_answer(self, status: int, problem: str) -> bytes:
        text = problem.encode()
        request = request_of(Headers(raw=self.headers or []))
        head = (
            "content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            f"{REQUEST_HEADER}: {request}\r\ncontent-length: {len(text)}\r\n\r\n"
        )
        return STATUS_LINE[status] + head.encode() + text
