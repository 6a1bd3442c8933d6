"""The other trainers of the pool: what belongs to a policy that one of them holds is sent on to it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from mint_common.client.http import InternalHttp
from mint_common.client.trainer import TrainerClient
from mint_common.waiting import cancel_all
from services.trainer.core.pool import HolderAway, PoolMember

T = TypeVar("T")


class PoolPeers:
    """Clients of the pool's other trainers; end it with ``aclose``."""

    def __init__(self, *, token: str) -> None:
        self._token = token
        self._clients: dict[str, TrainerClient] = {}
        self._gone: dict[int, asyncio.Event] = {}

    def follow(self, tokens: Collection[int]) -> None:
        """End what is asked of trainers that are not among these, which live."""
        for token in self._gone.keys() - set(tokens):
            self._gone.pop(token).set()
        for token in tokens:
            self._gone.setdefault(token, asyncio.Event())

    async def ask(self, member: PoolMember, call: Callable[[TrainerClient], Awaitable[T]]) -> T:
        """Return a trainer's answer. Raises its error, or HolderAway when there is none, or it is gone."""
        asking = asyncio.ensure_future(call(self._client(member.url)))
        left = asyncio.ensure_future(self._gone.setdefault(member.token, asyncio.Event()).wait())
        try:
            await asyncio.wait((asking, left), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise HolderAway
            return asking.result()
        finally:
            await cancel_all(asking, left)

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()

    def _client(self, url: str) -> TrainerClient:
        if url not in self._clients:
            peer = "a trainer of the pool"
            http = InternalHttp(url, token=self._token, peer=peer, lost=lambda _: HolderAway())
            self._clients[url] = TrainerClient(http)
        return self._clients[url]
