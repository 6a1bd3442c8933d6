"""A webhook goes to the public internet alone, however an address inside is written or resolved."""

import ipaddress
import socket

import pytest
from aiohttp.abc import ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from services.gateway.adapters.webhook_names import WebhookNames
from services.gateway.adapters.webhook_sender import HttpWebhookSender, public_socket
from services.gateway.core.webhooks.addresses import (
    SPECIAL_IPV4,
    AddressForbidden,
    check_url,
    is_public,
)
from tests.integration.gateway.receiver import Receiver

TENANT = TenantId("ten_a")

# https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast.
IPV4_REGISTRY = [
    "0.0.0.0/8",
    "0.0.0.0/32",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.0.0/29",
    "192.0.0.8/32",
    "192.0.0.9/32",
    "192.0.0.10/32",
    "192.0.0.170/32",
    "192.0.0.171/32",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.88.99.2/32",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "224.0.0.0/4",
]
# https://www.iana.org/assignments/iana-ipv6-special-registry, what was deprecated, and multicast.
IPV6_REGISTRY = [
    "::1/128",
    "::/128",
    "::/96",
    "::ffff:0:0:0/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:1::3/128",
    "2001:2::/48",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "4000::/3",
    "8000::/1",
]

INSIDE_LITERALS = [
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[64:ff9b::1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[2001:0:1::80ff:fffe]",
    "[fec0::1]",
    "[fd00:ec2::254]",
    "[fc00::1]",
    "[fe80::1]",
    "[ff02::1]",
    "[ff0e::1]",
    "[2001:db8::1]",
    "[2606:4700::5efe:7f00:1]",
    "[2606:4700::200:5efe:10.0.0.1]",
    "[::]",
    "[::1]",
    "127.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "192.0.0.192",
    "198.18.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "224.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "intranet",
    "intranet.",
    "metadata.google.internal",
    "printer.local",
    "router.home.arpa",
]

ODD_HOSTS = [
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0x7f000001",
    "0x7f.0.0.1",
    "0X7F.1",
    "0177.0.0.1",
    "017700000001",
    "2130706433",
    "127.0.0.1.",
    "127.0.0.01",
    "0",
    "1.1",
    "1.1.1",
    "1.1.1.1.1",
    "256.0.0.1",
    "1.1.1.0x",
    "example.1",
    "example.0x7f",
    ".",
    "..",
    "a..example.com",
    ".example.com",
    "example.com..",
    "127.0.0.1%2f",
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    "-a.example.com",
    "example.com%00",
    "exa(mple.com",
    "example.com\\@a",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[2606:4700::1111%25lo]",
    "[::1]x",
    "[v1.x]",
]


@pytest.mark.parametrize("block", [*IPV4_REGISTRY, *IPV6_REGISTRY])
def test_nothing_in_a_special_purpose_block_is_public(block: str) -> None:
    network = ipaddress.ip_network(block)
    middle = network[network.num_addresses // 2]
    assert not any(is_public(str(address)) for address in (network[0], middle, network[-1]))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "223.255.255.255",
        "192.0.1.0",
        "198.20.0.0",
        "2606:4700:4700::1111",
        "2a00:1450:4001::1",
        "2400:cb00::1",
        "64:ff9b::1.1.1.1",
        "::ffff:1.1.1.1",
    ],
)
def test_the_internet_beside_them_is(address: str) -> None:
    assert is_public(address)


FORMS = {
    "IPv4": str,
    "compatible": lambda ip: f"::{ip}",
    "mapped": lambda ip: f"::ffff:{ip}",
    "translated": lambda ip: f"::ffff:0:{ip}",
    "NAT64": lambda ip: f"64:ff9b::{ip}",
    "local NAT64": lambda ip: f"64:ff9b:1::{ip}",
    "6to4": lambda ip: str(ipaddress.IPv6Address((0x2002 << 112) | (int(ip) << 80) | 1)),
    "Teredo server": lambda ip: str(ipaddress.IPv6Address((0x20010000 << 96) | (int(ip) << 64) | 1)),
    "Teredo client": lambda ip: str(ipaddress.IPv6Address((0x20010000 << 96) | (int(ip) ^ 0xFFFFFFFF))),
    "ISATAP": lambda ip: f"2606:4700::5efe:{ip}",
    "ISATAP, unique": lambda ip: f"2606:4700::200:5efe:{ip}",
}


@given(
    block=st.sampled_from(SPECIAL_IPV4),
    offset=st.integers(min_value=0, max_value=2**32),
    form=st.sampled_from(sorted(FORMS)),
)
def test_no_form_carries_an_ipv4_address_inside_past_the_check(
    block: ipaddress.IPv4Network, offset: int, form: str
) -> None:
    address = FORMS[form](block[offset % block.num_addresses])
    assert not is_public(address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(AddressForbidden):
        check_url(f"https://{host}/", allow_private=False)


@given(st.ip_addresses())
def test_what_is_public_is_global_to_python_too(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if is_public(str(address)):
        assert address.is_global or str(address).startswith(("64:ff9b:", "::ffff:"))


@pytest.mark.parametrize("host", INSIDE_LITERALS)
def test_what_is_inside_is_refused_as_written(host: str) -> None:
    with pytest.raises(AddressForbidden):
        check_url(f"https://{host}:8443/x", allow_private=False)


@pytest.mark.parametrize("host", ODD_HOSTS)
@pytest.mark.parametrize("allow_private", [True, False])
def test_a_host_of_two_meanings_is_no_host(host: str, allow_private: bool) -> None:
    with pytest.raises(InvalidField, match="url"):
        check_url(f"https://{host}/x", allow_private=allow_private)


# Dots, digits and letters that IDNA maps to ordinary ones.
@pytest.mark.parametrize(
    "host",
    [
        "127\u30020\u30020\u30021",
        "127\uff0e0\uff0e0\uff0e1",
        "\uff11\uff12\uff17.0.0.1",
        "\uff4cocalhost",
        "ex\u00e4mple.com",
    ],
)
def test_a_host_is_ascii(host: str) -> None:
    with pytest.raises(InvalidField, match=r"ASCII|netloc"):
        check_url(f"https://{host}/", allow_private=False)


@pytest.mark.parametrize(
    "host", ["hooks.example.com", "example.com.", "my_app.example.com", "xn--bcher-kva.ch", "1.1.1.1"]
)
def test_ordinary_hosts_pass(host: str) -> None:
    check_url(f"https://{host}:8443/mint?team=a", allow_private=False)


class _Resolver(WebhookNames):
    """Gives the same addresses for every name, and counts who asks."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self._addresses = addresses
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        return [
            ResolveResult(hostname=host, host=each, port=port, family=socket.AF_INET, proto=0, flags=0)
            for each in self._addresses
        ]


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("192.0.2.1", "127.0.0.1"), ("1.1.1.1", "10.0.0.1")])
async def test_a_name_with_one_address_inside_is_sent_nothing(addresses: tuple[str, ...]) -> None:
    resolver = _Resolver(*addresses)
    sender = HttpWebhookSender(SystemClock(), timeout_seconds=2.0, allow_private=False, names=resolver)
    attempt = await sender.send(TENANT, "https://hooks.example.com/hook", {}, b"{}")
    await sender.close()
    assert (attempt.status, resolver.asked) == (None, 1)
    assert attempt.problem == "'hooks.example.com' has no address of the public internet"


async def test_a_name_with_an_address_inside_is_told_like_one_without_any() -> None:
    """Or a tenant could ask which names the gateway's network has."""

    def nothing(*_: object, **__: object) -> list[tuple[object, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    problems = []
    for names in (WebhookNames(nothing), _Resolver("10.0.0.1")):
        sender = HttpWebhookSender(SystemClock(), timeout_seconds=2.0, allow_private=False, names=names)
        problems.append((await sender.send(TENANT, "https://hooks.example.com/hook", {}, b"{}")).problem)
        await sender.close()
    assert problems[0] == problems[1] is not None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::127.0.0.1", "64:ff9b::7f00:1", "fe80::1%lo"])
def test_no_socket_is_made_for_an_address_inside(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(AddressForbidden):
        public_socket((family, socket.SOCK_STREAM, 0, "", (address, 443)))
    with public_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("1.1.1.1", 443))) as made:
        assert made.family is socket.AF_INET


async def test_a_name_is_resolved_once_and_connected_to_what_it_resolved_to() -> None:
    receiver, resolver = Receiver(), _Resolver("127.0.0.1")
    sender = HttpWebhookSender(SystemClock(), timeout_seconds=5.0, allow_private=True, names=resolver)
    url = receiver.url.replace("127.0.0.1", "hooks.example.com")
    attempt = await sender.send(TENANT, url, {}, b"{}")
    await sender.close()
    receiver.stop()
    assert (attempt.status, resolver.asked, len(receiver.received)) == (200, 1, 1)


async def test_a_redirect_is_not_followed() -> None:
    target = Receiver()
    receiver = Receiver(status=307, headers={"location": target.url})
    sender = HttpWebhookSender(SystemClock(), timeout_seconds=5.0, allow_private=True)
    attempt = await sender.send(TENANT, receiver.url, {}, b"{}")
    await sender.close()
    receiver.stop()
    target.stop()
    assert (attempt.status, target.received) == (307, [])
