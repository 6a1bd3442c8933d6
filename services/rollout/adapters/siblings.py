"""The other processes of this service, which have episodes of their own in memory."""

from mint_common.client.http import InternalHttp


class Siblings:
    """Connections to processes of this service, by their addresses."""

    def __init__(self, *, token: str) -> None:
        self._token = token
        self._known: dict[str, InternalHttp] = {}

    def at(self, url: str) -> InternalHttp:
        """Return the process at an address."""
        if url not in self._known:
            self._known[url] = InternalHttp(url, token=self._token, peer="the process with this episode")
        return self._known[url]

    async def close(self) -> None:
        """Close all connections."""
        for http in self._known.values():
            await http.close()
