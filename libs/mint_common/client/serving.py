"""The engines that answer now, by the base that they serve."""

from collections.abc import Callable, Mapping

from mint_common.generation import EngineInfo
from mint_common.homes import Rendezvous
from mint_common.ids import BaseName, EngineId


class ServingEngines:
    """The engines of one base by their addresses, at one moment."""

    def __init__(self, infos: Mapping[str, EngineInfo]) -> None:
        self.infos = infos
        self.urls = tuple(infos)
        self.homes = Rendezvous(info.engine_id for info in infos.values())
        self._urls = {info.engine_id: url for url, info in infos.items()}

    def url_of(self, engine_id: EngineId) -> str | None:
        """Return an engine's address; None if it does not serve the base now."""
        return self._urls.get(engine_id)


class KnownEngines:
    """The latest description of each engine, by address. Requests go to no address that ``is_alias``."""

    def __init__(self, is_alias: Callable[[str, EngineId], bool]) -> None:
        self.by_url: dict[str, EngineInfo] = {}
        self._is_alias = is_alias
        self._serving: dict[BaseName, ServingEngines] = {}

    def learn(self, url: str, info: EngineInfo) -> None:
        """Record an engine's description."""
        if self.by_url.get(url) != info:
            self.by_url[url] = info
            self._serving.clear()

    def forget(self, url: str) -> EngineInfo | None:
        """Drop an engine; return its latest description."""
        self._serving.clear()
        return self.by_url.pop(url, None)

    def members_changed(self) -> None:
        """Decide again which addresses are aliases."""
        self._serving.clear()

    def serving(self, base: BaseName) -> ServingEngines:
        """Return the engines of a base, in the order in which they were first known."""
        found = self._serving.get(base)
        if found is None:
            infos = {url: info for url, info in self.by_url.items() if info.base == base}
            infos = {url: info for url, info in infos.items() if self.is_served_at(url)}
            found = self._serving[base] = ServingEngines(infos)
        return found

    def is_served_at(self, url: str) -> bool:
        """Return whether an address is known, and the one at which to ask its engine."""
        info = self.by_url.get(url)
        return info is not None and not self._is_alias(url, info.engine_id)
