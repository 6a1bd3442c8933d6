"""Addresses that a webhook may point at: those of the public internet.

The creator of a webhook makes the gateway send requests, so private, loopback and link-local addresses (such
as a cloud's metadata service) are refused: as written in the URL, and again for each connection. An address
is public if it is global unicast and in no block of IANA's special-purpose registries. The blocks are listed
here, because `ipaddress` defines global differently between versions of Python.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from mint_common.errors import InvalidField, MintError

MAX_URL = 2000

SPECIAL_IPV4: tuple[IPv4Network, ...] = (
    IPv4Network("0.0.0.0/8"),  # this network
    IPv4Network("10.0.0.0/8"),  # private
    IPv4Network("100.64.0.0/10"),  # shared, behind carriers' NAT
    IPv4Network("127.0.0.0/8"),  # loopback
    IPv4Network("168.63.129.16/32"),  # Azure's services to a virtual machine; in no registry
    IPv4Network("169.254.0.0/16"),  # link-local
    IPv4Network("172.16.0.0/12"),  # private
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments
    IPv4Network("192.0.2.0/24"),  # documentation
    IPv4Network("192.31.196.0/24"),  # AS112
    IPv4Network("192.52.193.0/24"),  # AMT
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("192.168.0.0/16"),  # private
    IPv4Network("192.175.48.0/24"),  # AS112
    IPv4Network("198.18.0.0/15"),  # benchmarking
    IPv4Network("198.51.100.0/24"),  # documentation
    IPv4Network("203.0.113.0/24"),  # documentation
    IPv4Network("224.0.0.0/4"),  # multicast
    IPv4Network("240.0.0.0/4"),  # reserved, broadcast
)
GLOBAL_IPV6 = IPv6Network("2000::/3")
"""The addresses that IANA assigns as global unicast. Outside are loopback, IPv4-compatible and
IPv4-translated addresses, local NAT64 (64:ff9b:1::/48), unique local, link-local, site-local and
multicast.
"""
SPECIAL_IPV6: tuple[IPv6Network, ...] = (
    IPv6Network("2001::/23"),  # IETF protocol assignments: Teredo, benchmarking, ORCHID
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4
    IPv6Network("2620:4f:8000::/48"),  # AS112
    IPv6Network("3fff::/20"),  # documentation
)
EMBEDDING_IPV6: tuple[IPv6Network, ...] = (
    IPv6Network("::ffff:0:0/96"),  # IPv4-mapped: the kernel connects over IPv4
    IPv6Network("64:ff9b::/96"),  # NAT64: how a host without IPv4 reaches hosts with IPv4 only
)
"""Networks whose addresses contain an IPv4 address in the last 32 bits, which decides whether they are
public.
"""
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""The upper half of an interface identifier whose lower half is an IPv4 address to tunnel to."""

_INTERNAL_NAMES = ("localhost", "local", "internal", "home.arpa")
_BRACKETED = re.compile(r"\[[^]]*\](:[0-9]*)?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAX_NAME = 253


class AddressForbidden(MintError):
    """{host!r} is not an address of the public internet; MINT_GATEWAY_WEBHOOK_ALLOW_PRIVATE allows it."""

    code = "address_forbidden"
    http_status = 422


def check_url(url: str, *, allow_private: bool) -> None:
    """Refuse an invalid or non-public URL. Raises InvalidField, AddressForbidden."""
    problem = _problem(url, allow_private=allow_private)
    if problem:
        raise InvalidField(field="url", problem=problem)
    host = urlsplit(url).hostname or ""
    if not allow_private and not _may_be_public(host):
        raise AddressForbidden(host=host)


def is_public(address: str) -> bool:
    """Return whether an IP address is public; one that contains another address counts as that one."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return _is_public(found)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in block for block in SPECIAL_IPV4)
    if address.scope_id is not None:
        return False
    if any(address in block for block in EMBEDDING_IPV6):
        return _is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
        return False
    return address in GLOBAL_IPV6 and not any(address in block for block in SPECIAL_IPV6)


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
        _scheme_rule(schemes): parts.scheme in schemes,
        "names no host": bool(parts.hostname) and port != 0,
        "must not have a user name or a password; requests are signed instead": "@" not in parts.netloc,
        "must name its host by a DNS name or by an IP address in its usual form": _is_host(parts),
        "must not have a fragment": not parts.fragment,
    }
    return next((problem for problem, kept in promises.items() if not kept), None)


def _scheme_rule(schemes: Sequence[str]) -> str:
    rule = f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    return rule if "http" in schemes else f"{rule}; MINT_GATEWAY_WEBHOOK_ALLOW_PRIVATE allows http://"


def _is_host(parts: SplitResult) -> bool:
    """Return whether a host is unambiguous: some parsers read ``127.1`` as an address."""
    host = parts.hostname or ""
    if "[" in parts.netloc:
        return _BRACKETED.fullmatch(parts.netloc) is not None and _is_ip(host) and "%" not in host
    labels = _labels(host)
    if _NUMBER.fullmatch(labels[-1]):
        return _is_ip(host)
    return len(host) <= _MAX_NAME and all(map(_LABEL.fullmatch, labels))


def _may_be_public(host: str) -> bool:
    """Return whether a host is a public IP address, or a name that can resolve to one."""
    if _is_ip(host):
        return is_public(host)
    labels = _labels(host)
    name = ".".join(labels)
    is_internal = any(name == end or name.endswith(f".{end}") for end in _INTERNAL_NAMES)
    return len(labels) > 1 and not is_internal


def _labels(host: str) -> Sequence[str]:
    return host.removesuffix(".").split(".")


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
