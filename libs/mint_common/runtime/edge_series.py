"""Metrics of every service: its build, readiness, open requests and answers."""

import asyncio
import time
from collections.abc import Callable, Sized
from functools import partial
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, Histogram

_VERSION = version("mint-stack")
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

REST = 4
"""Pause after a rendering, in multiples of its duration, so that rendering takes at most a fifth of the
time."""


def request_seconds(service: str, registry: CollectorRegistry) -> Histogram:
    """Return what counts a service's HTTP requests."""
    return Histogram(
        f"mint_{service}_http_request_seconds",
        "Seconds from a request's first byte to the last byte of its answer",
        ("method", "route", "status"),
        buckets=_BUCKETS,
        registry=registry,
    )


def state_series(
    service: str, registry: CollectorRegistry, *, ready: Callable[[], bool], open_requests: Sized
) -> tuple[Gauge, ...]:
    """Add the gauges of a service's state to its registry, and return them."""
    build = Gauge(
        "mint_build_info", "1, with the version of MinT", ["component", "version"], registry=registry
    )
    build.labels(service, _VERSION).set(1)
    is_ready = Gauge(
        "mint_ready",
        "1 while a service is ready, 0 while it starts or drains",
        ["component"],
        registry=registry,
    )
    is_ready.labels(service).set_function(lambda: float(ready()))
    in_hand = Gauge(
        f"mint_{service}_http_requests_open",
        "HTTP requests without the last byte of their answer",
        registry=registry,
    )
    in_hand.set_function(lambda: float(len(open_requests)))
    return build, is_ready, in_hand


class MetricsText:
    """Makes texts in a thread: it reads files of /proc."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._next: asyncio.Task[bytes] | None = None
        self._lock = asyncio.Lock()
        self._rest_until = 0.0

    async def read(self) -> bytes:
        """Return a text that was begun after now."""
        if self._next is None:
            self._next = asyncio.create_task(self._made_in_turn())
        return await asyncio.shield(self._next)  # others wait for it too

    async def _made_in_turn(self) -> bytes:
        async with self._lock:
            await asyncio.sleep(max(0.0, self._rest_until - time.monotonic()))
            self._next = None
            text, seconds = await asyncio.to_thread(partial(_timed, self._make))
            self._rest_until = time.monotonic() + REST * seconds
            return text


def _timed(make: Callable[[], bytes]) -> tuple[bytes, float]:
    began = time.thread_time()
    return make(), time.thread_time() - began
