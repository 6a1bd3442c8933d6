"""The lifecycle of a service: serve and work until it is stopped, then drain in order.

Invariants: once told to stop, a service is no longer ready; it stops accepting before it cancels its
background work; a background task that crashes ends the process with an error, because its supervisor starts
it clean.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from mint_common import telemetry
from mint_common.errors import MintError, Unavailable
from mint_common.runtime.http_protocol import ConnectionBounds, most_connections, protocol_of
from mint_common.runtime.private_files import make_files_private
from mint_common.settings import HttpSettings

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Longer than the 5 s after which our own clients drop an idle connection: they must not race with us.
_KEEP_ALIVE_SECONDS = 30


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


async def run_service(
    http: FastAPI,
    settings: HttpSettings,
    background: Sequence[Callable[[], Awaitable[None]]],
    *,
    drain_seconds: float = 10,
) -> None:
    """Serve and run the background tasks until SIGTERM or SIGINT; a second signal does not wait.

    ``drain_seconds`` bounds open requests; background tasks end when they have given back their work. Raises
    the exception of a background task.
    """
    listener = _listen(settings)
    # Objects created so far are permanent: a full collection would scan them all and stall requests.
    gc.collect()
    gc.freeze()
    server = _Server(_server_config(http, drain_seconds))
    stop = asyncio.Event()
    try:
        with _signals(stop, server):
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(_serve(server, listener), name="http")
                work = [group.create_task(_as_coroutine(run), name=_name_of(run)) for run in background]
                group.create_task(_drain_on(stop, http, server, serving, work), name="drain")
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
        # The sockets are closed before the base class first waits, so before anybody sees the event.
        self.stopped_accepting.set()
        await super().shutdown(sockets)


async def _serve(server: _Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        server.force_exit = True
        await server.shutdown([listener])
        raise


async def _drain_on(
    stop: asyncio.Event,
    http: FastAPI,
    server: _Server,
    serving: asyncio.Task[None],
    work: Sequence[asyncio.Task[None]],
) -> None:
    await stop.wait()
    _log.info("draining")
    http.state.is_draining = True
    server.should_exit = True
    await server.stopped_accepting.wait()
    for task in work:
        task.cancel()
    await asyncio.wait([serving, *work])
    _log.info("drained")


@contextmanager
def _signals(stop: asyncio.Event, server: _Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        server.force_exit = stop.is_set()
        stop.set()

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
        http=protocol_of(ConnectionBounds(connections=most_connections())),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )


def _listen(settings: HttpSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        raise Unavailable(what=f"the listening address {address}", problem=str(error)) from error


async def _as_coroutine(run: Callable[[], Awaitable[None]]) -> None:
    await run()


def _name_of(run: Callable[[], Awaitable[None]]) -> str:
    return getattr(run, "__qualname__", type(run).__name__)
