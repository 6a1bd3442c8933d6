"""Clients of the loaders: those of a fixed list of addresses, and those of the fleet's members."""

from collections.abc import Callable, Sequence

from mint_common.client.engine import EngineClient
from mint_common.ids import EngineId
from mint_common.members import Member


class EngineClients:
    """A client of each address. Not for several tasks that change it at once."""

    def __init__(self, seeds: Sequence[str], make: Callable[[str], EngineClient]) -> None:
        self.by_url = {url: make(url) for url in seeds}
        self._make = make
        self._seeds = frozenset(seeds)
        self._members: dict[str, Member] = {}
        self._names: frozenset[str] = frozenset()

    def follow(self, members: Sequence[Member]) -> tuple[set[str], dict[str, EngineClient]]:
        """Take the fleet's members as they are now; return the new addresses, and clients that have none."""
        self._members = {member.url: member for member in members}
        self._names = frozenset(member.member_id for member in members)
        wanted = self._seeds | self._members.keys()
        left = {url: self.by_url.pop(url) for url in self.by_url.keys() - wanted}
        added = set(wanted - self.by_url.keys())
        self.by_url |= {url: self._make(url) for url in added}
        return added, left

    def url_of(self, client: EngineClient) -> str | None:
        """Return a client's address."""
        return next((url for url, each in self.by_url.items() if each is client), None)

    def is_alias(self, url: str, engine_id: EngineId) -> bool:
        """Return whether an address is a second one of an engine that announces another.

        A name of several hosts, as that of a compose service, leads to any of them.
        """
        return url not in self._members and engine_id in self._names

    def is_last_choice(self, url: str) -> bool:
        """Return whether a member is silent, or says that it does not take requests."""
        member = self._members.get(url)
        return member is not None and not member.takes_requests
