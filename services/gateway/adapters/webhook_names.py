"""DNS look-ups of webhooks' addresses, in threads of their own.

Invariants: a service's own look-ups never wait for these; a tenant has few look-ups at a time, counting
abandoned ones, because a look-up cannot be cancelled.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from mint_common.ids import TenantId
from mint_common.runtime.fair_gate import FairGate

LOOKUPS, TENANT_LOOKUPS = 32, 4

_Found = list[tuple[Any, ...]]  # what `socket.getaddrinfo` returns
_Key = tuple[TenantId, str, int]

_asking = ContextVar[TenantId]("the tenant whose name is looked up")


class WebhookNames(AbstractResolver):
    """Resolves names for the tenant of `asked_by`. Equal look-ups of a tenant are one."""

    def __init__(self, getaddrinfo: Callable[..., _Found] = socket.getaddrinfo) -> None:
        self._getaddrinfo = partial(getaddrinfo, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        self._turns = FairGate(LOOKUPS, limit=TENANT_LOOKUPS)
        self._open: dict[_Key, asyncio.Task[_Found]] = {}

    @contextmanager
    def asked_by(self, tenant_id: TenantId) -> Iterator[None]:
        """Set the tenant for which names are resolved inside the block."""
        token = _asking.set(tenant_id)
        try:
            yield
        finally:
            _asking.reset(token)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises OSError."""
        key = (_asking.get(), host, family)
        task = self._open.get(key)
        if task is None:
            task = self._open[key] = asyncio.create_task(self._look_up(*key))
            task.add_done_callback(partial(self._ended, key))
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, address in await asyncio.shield(task)
        ]

    async def close(self) -> None:
        """Abandon all look-ups."""
        for task in self._open.values():
            task.cancel()

    async def _look_up(self, tenant_id: TenantId, host: str, family: int) -> _Found:
        async with self._turns.turn(tenant_id):
            return await _in_a_thread(partial(self._getaddrinfo, host, 0, family))

    def _ended(self, key: _Key, task: asyncio.Task[_Found]) -> None:
        del self._open[key]
        if not task.cancelled():
            task.exception()  # has been raised where somebody still waited for it


def _in_a_thread(look_up: Callable[[], _Found]) -> asyncio.Future[_Found]:
    """Look up in a daemon thread: a thread of an executor would delay the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_Found] = loop.create_future()

    def tell(found: _Found | OSError | UnicodeError) -> None:
        if answer.done():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def run() -> None:
        found: _Found | OSError | UnicodeError
        try:
            found = look_up()
        except (OSError, UnicodeError) as error:
            found = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=run, name="webhook-name", daemon=True).start()
    return answer
