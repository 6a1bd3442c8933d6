"""The lifecycle of a service: serve and work until it is stopped, then drain in order.

Invariants: after a stop signal, a service is not ready; it stops accepting before it cancels its
background work, answers each request of a connection that it has accepted (with Stopping, if it came after
that), and ends its open requests before it cancels the tasks that answer them; a background task
that crashes ends the process with an error, so that its supervisor restarts it clean.
"""

import asyncio
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp

from mint_common import telemetry
from mint_common.errors import MintError, SettingInvalid, Unavailable
from mint_common.private_files import make_files_private
from mint_common.runtime.http_protocol import ConnectionBounds, max_connections, protocol_of
from mint_common.runtime.listener import drop_new_connections
from mint_common.settings import ServiceSettings, read_settings

S = TypeVar("S", bound=ServiceSettings)

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# For clients to be told that their request is cut off; whoever reads nothing is left after that.
_CUT_SECONDS = 2
# Longer than the 5 s after which our own clients drop an idle connection: they must not race with us.
_KEEP_ALIVE_SECONDS = 30
_SOCKET_CONNECTIONS = 2048
_ACCEPT_QUEUE_SECONDS = 0.05


def run_main(shape: type[S], run: Callable[[S], Coroutine[Any, Any, None]], *, service: str) -> int:
    """Run a service with the settings of its environment; return the exit code, 2 for a wrong setting."""
    try:
        settings = read_settings(shape, os.environ, service=service)
    except SettingInvalid as error:
        sys.stderr.write(f"{error}\n")  # logging is not set up yet
        return 2
    telemetry.setup(settings.telemetry, service=service)
    return run_process(lambda: run(settings))


def run_process(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a service's main coroutine on uvloop and return the exit code; what ended it is logged."""
    make_files_private()
    try:
        uvloop.run(main())
    except MintError as error:
        if logging.getLogger().handlers:
            problem = {"code": error.code, "problem": str(error)}
            _log.error("service stopped", extra=problem)  # not a bug of ours
        else:  # it stopped before logging was set up
            sys.stderr.write(f"{error}\n")
        return 1
    except Exception:  # noqa: BLE001  # the edge of the process
        _log.exception("service crashed")
        return 1
    return 0


def settle_memory() -> None:
    """Set garbage collection for serving: a full collection scans all objects and stalls requests.

    The objects created so far are permanent and left out of collections.
    """
    gc.collect()
    gc.freeze()
    # The objects of large answers take 0.5 s a million: collect a tenth as often as Python's default.
    gc.set_threshold(700, 10, 100)


async def run_service(
    http: FastAPI,
    settings: ServiceSettings,
    background: Sequence[Callable[[], Awaitable[None]]],
    *,
    answering: Sequence[Callable[[], Awaitable[None]]] = (),
) -> None:
    """Serve and run the background tasks until SIGTERM or SIGINT; a second signal does not wait.

    Requests that clients can resume are cut off at once with Stopping. New connections are accepted for
    another ``accept_seconds`` of the settings; open requests then have ``drain_seconds`` and are cut off too.
    Background tasks are cancelled when connections are no longer accepted, and end when they have released
    their work; those of ``answering`` are cancelled when no request is open. ``http`` is of `create_http`.
    Raises the exception of a background task.
    """
    listener = _listen(settings)
    settle_memory()
    server = _Server(_server_config(http, settings.http.drain_seconds))
    signals = _Signals()
    try:
        with _received(signals, server):
            async with asyncio.TaskGroup() as group:
                running = _Running(
                    serving=group.create_task(_serve(server, listener), name="http"),
                    background=[_started(group, run) for run in background],
                    answering=[_started(group, run) for run in answering],
                )
                group.create_task(_drain_on(signals, http, server, running, settings), name="drain")
    finally:
        listener.close()
        await asyncio.to_thread(telemetry.flush)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which knows nothing of the background work."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopped_accepting = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or ():
            drop_new_connections(listener)
        await asyncio.sleep(_ACCEPT_QUEUE_SECONDS)  # the loop accepts the connections that are made
        # The sockets are closed before the base class first waits, so before anybody sees the event.
        self.stopped_accepting.set()
        await super().shutdown(sockets)


async def serve_socket(app: ASGIApp, path: Path) -> None:
    """Serve an application at a unix socket until cancelled; processes of every user can connect to it."""
    config = uvicorn.Config(
        app,
        uds=str(path),
        http=protocol_of(ConnectionBounds(connections=_SOCKET_CONNECTIONS)),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    server = _Server(config)
    try:
        await server.serve()
    except asyncio.CancelledError:
        server.force_exit = True
        await server.shutdown()
        raise


async def _serve(server: _Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        server.force_exit = True
        await server.shutdown([listener])
        raise


@dataclass(frozen=True, slots=True)
class _Signals:
    """Set by the first signal, and by the second."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    stop_now: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """The server, tasks that end when connections are no longer accepted, and those that end after the
    requests.
    """

    serving: asyncio.Task[None]
    background: Sequence[asyncio.Task[None]]
    answering: Sequence[asyncio.Task[None]]


async def _drain_on(
    signals: _Signals, http: FastAPI, server: _Server, running: _Running, settings: ServiceSettings
) -> None:
    await signals.stop.wait()
    _log.info("draining")
    http.state.in_hand.drain()
    stop_now = asyncio.ensure_future(signals.stop_now.wait())
    try:
        await asyncio.wait([stop_now], timeout=settings.http.accept_seconds)
        server.should_exit = True
        await server.stopped_accepting.wait()
        http.state.in_hand.close()
        for task in running.background:
            task.cancel()
        waited = (running.serving, stop_now)
        await asyncio.wait(waited, timeout=settings.http.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop_now.cancel()
    http.state.in_hand.cut_off()
    await asyncio.wait([running.serving])
    for task in running.answering:
        task.cancel()
    if tasks := (*running.background, *running.answering):
        await asyncio.wait(tasks)
    _log.info("drained")


@contextmanager
def _received(signals: _Signals, server: _Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if signals.stop.is_set():
            server.force_exit = True
            signals.stop_now.set()
        signals.stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _server_config(http: FastAPI, drain_seconds: float) -> uvicorn.Config:
    return uvicorn.Config(
        http,
        http=protocol_of(ConnectionBounds(connections=max_connections())),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # what it believes would depend on where a proxy runs
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(drain_seconds) + _CUT_SECONDS,
    )


def _listen(settings: ServiceSettings) -> socket.socket:
    address = settings.http_host, settings.http_port
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise Unavailable(
            what=f"the listening address {address[0]}:{address[1]}", problem=str(error)
        ) from error


def _started(group: asyncio.TaskGroup, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    async def running() -> None:
        await run()

    named = getattr(run, "func", run)  # of a partial, what it calls
    return group.create_task(running(), name=getattr(named, "__qualname__", type(named).__name__))
