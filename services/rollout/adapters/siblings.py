"""The other processes of this service, which have episodes of their own in memory."""

import socket
from urllib.parse import urlsplit

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


def own_url(host: str, port: int, *, towards: str) -> str:
    """Return the address at which the other services reach a process that listens on ``host`` and ``port``.

    Where it listens on all addresses, that is the one from which it reaches ``towards``, a peer's address.
    """
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # compared, not bound
        host = _towards(urlsplit(towards).hostname or "localhost")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _towards(peer: str) -> str:
    """Return this machine's own address on the way to a peer; nothing is sent."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostbyname(socket.gethostname())
