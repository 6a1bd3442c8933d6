"""Where a webhook may point: nowhere inside.

Whoever may make a webhook has the gateway send requests. So what is private, loopback or link-local (such as
a cloud's metadata service) is refused twice: as it is written, and as its name resolves when it is sent to.
"""

import ipaddress
from urllib.parse import urlsplit

from mint_common.errors import InvalidField, MintError

MAX_URL = 2000
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressForbidden(MintError):
    """{host!r} is a private, loopback or link-local address: webhooks go to public ones."""

    code = "address_forbidden"
    http_status = 422


def check_url(url: str, *, allow_private: bool) -> None:
    """Refuse an address that is none, or not a public one. Raises InvalidField, AddressForbidden."""
    problem = _problem(url, allow_private=allow_private)
    if problem:
        raise InvalidField(field="url", problem=problem)
    host = urlsplit(url).hostname or ""
    if not allow_private and (host == "localhost" or host.endswith(".localhost") or _is_inside(host)):
        raise AddressForbidden(host=host)


def is_public(address: str) -> bool:
    """Return whether an IP address is of the public internet; one that carries another counts as that."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return _is_public(found)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if carried is not None:
            return _is_public(carried)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def _problem(url: str, *, allow_private: bool) -> str | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return str(error)
    schemes = ("https", "http") if allow_private else ("https",)
    is_printable = url.isascii() and all(" " < character < "\x7f" for character in url)
    promises = {
        f"must be at most {MAX_URL} printable ASCII characters": len(url) <= MAX_URL and is_printable,
        f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}": parts.scheme in schemes,
        "names no host": bool(parts.hostname) and port != 0,
        "must not hold a user name or a password: requests are signed instead": "@" not in parts.netloc,
        "must not have a fragment": not parts.fragment,
    }
    return next((problem for problem, kept in promises.items() if not kept), None)


def _is_inside(host: str) -> bool:
    """Return whether a host is written as an IP address that is not public."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return not is_public(host)
