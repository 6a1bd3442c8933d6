"""Name and address of this process as others know it."""

import re
import socket
from urllib.parse import urlsplit

from mint_common.errors import Unavailable

_EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104  # compared with, not listened on


def own_name() -> str:
    """Return this host's name as a member's: unique where each process has a host or a container."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:62]
    return name if name[:1].isalnum() else f"host{name}"[:62]


def member_name(url: str) -> str:
    """Return a name for the service at an address: hosts of equal names differ by their addresses."""
    return f"{own_name()}:{re.sub(r'[^A-Za-z0-9.:-]', '', urlsplit(url).netloc)}"


def own_url(host: str, port: int, *, towards: str) -> str:
    """Return the address at which others reach a service that listens on ``host`` and ``port``.

    One that listens on every address is reached at that from which it reaches ``towards``, a URL. Raises
    Unavailable when there is no way to that.
    """
    if host in _EVERY_ADDRESS:
        host = _address_towards(towards)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _address_towards(url: str) -> str:
    """Return this machine's address on the way to a URL. Nothing is sent. Raises Unavailable."""
    parts = urlsplit(url)
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(
            parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM
        )
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise Unavailable(what=f"the way to {parts.hostname}", problem=str(error)) from error
