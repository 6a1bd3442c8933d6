"""Which trainer has a base."""

import asyncio
import time
from collections.abc import Sequence

from mint_common.client.http import InternalHttp
from mint_common.client.trainer import TrainerClient
from mint_common.errors import MintError, Unavailable
from mint_common.ids import BaseName, Digest
from mint_common.members import Member
from mint_common.waiting import cancel_all

_REASK_SECONDS = 2.0
_ANSWER_SECONDS = 5.0  # a trainer that stays silent longer is left out


class TrainerDirectory:
    """The trainers of a list of addresses and of the fleet, by base: one that trains it now.

    Any trainer of a pool sends on what is of a policy that another one holds.

    A trainer's base never changes. While there are more addresses than bases, all are queried again: at
    most once in two seconds, and after a quiet time before the next answer is used.
    """

    def __init__(self, urls: Sequence[str], *, token: str) -> None:
        self._token = token
        self._seeds = frozenset(urls)
        self._clients = {url: self._client_of(url) for url in urls}
        self._by_base: dict[BaseName, TrainerClient] = {}
        self._answered: set[TrainerClient] = set()
        self._asking: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._confirmed: set[BaseName] = set()  # by who trains it now, since all were asked last
        self._told_at = float("-inf")

    def follow_members(self, members: Sequence[Member]) -> None:
        """Ask the trainers of the fleet as well, and those no more that have left it."""
        urls = self._seeds | {member.url for member in members}
        for url in self._clients.keys() - urls:
            client = self._clients.pop(url)
            self._answered.discard(client)
            self._by_base = {base: held for base, held in self._by_base.items() if held is not client}
            self._closing.add(task := asyncio.create_task(client.aclose()))
            task.add_done_callback(self._closing.discard)
        for url in urls - self._clients.keys():
            self._clients[url] = self._client_of(url)
            self._told_at = float("-inf")

    async def find(self, base: BaseName) -> TrainerClient:
        """Return the trainer of a base. Raises Unavailable when none that answers has it."""
        age = time.monotonic() - self._told_at
        if age >= (2 * _REASK_SECONDS if base in self._by_base else _REASK_SECONDS):
            await self._hear_of(base)
        elif age >= _REASK_SECONDS:
            self._ask_all()
        if base not in self._by_base:
            raise Unavailable(what=f"a trainer of {base}", problem="none of the trainers has this base")
        return self._by_base[base]

    async def other_bases(self, base: BaseName) -> list[BaseName]:
        """Return the bases of all trainers if each has answered once and none has this base, else none."""
        if base not in self._by_base:
            await self._hear_of(base)
        may_have_it = base in self._by_base or len(self._answered) < len(self._clients)
        return [] if may_have_it else sorted(self._by_base)

    async def bases(self) -> list[BaseName]:
        """Return the bases that can be trained now."""
        await self._hear_of(None)
        return sorted(self._by_base)

    def known_bases(self) -> list[BaseName]:
        """Return the bases whose trainers have answered, without asking."""
        return sorted(self._by_base)

    async def digests(self) -> set[Digest]:
        """Return the exports that sessions go on from. Raises Unavailable unless every trainer answers."""
        found = await asyncio.gather(*(client.digests() for client in self._clients.values()))
        return set[Digest]().union(*found)

    async def aclose(self) -> None:
        """Close all connections."""
        await cancel_all(*self._asking)
        await asyncio.gather(*self._closing)
        for client in self._clients.values():
            await client.aclose()

    def _client_of(self, url: str) -> TrainerClient:
        return TrainerClient(InternalHttp(url, token=self._token, peer="a trainer"))

    async def _hear_of(self, base: BaseName | None) -> None:
        """Return when a trainer that trains the base has answered, or every trainer has or timed out."""
        self._ask_all()
        while self._asking and base not in self._confirmed:
            await asyncio.wait(self._asking, return_when=asyncio.FIRST_COMPLETED)

    def _ask_all(self) -> None:
        """Query all trainers, unless a query is running or each address has its own base."""
        if self._asking or len(self._by_base) == len(self._clients):
            return
        self._confirmed.clear()
        self._asking = {asyncio.create_task(self._ask(client)) for client in self._clients.values()}
        for task in self._asking:
            task.add_done_callback(self._on_told)

    def _on_told(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not self._asking:
            self._told_at = time.monotonic()

    async def _ask(self, client: TrainerClient) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                info = await client.describe()
        except (MintError, TimeoutError):
            return
        if client not in self._clients.values():
            return  # it has left meanwhile
        self._answered.add(client)
        # Of a pool's trainers the first to answer, while that is so.
        if info.base not in self._by_base or (info.has_lease and info.base not in self._confirmed):
            self._by_base[info.base] = client
        if info.has_lease:
            self._confirmed.add(info.base)
