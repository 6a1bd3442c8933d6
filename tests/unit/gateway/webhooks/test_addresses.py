"""Where webhooks may point."""

import pytest

from mint_common.errors import InvalidField
from services.gateway.core.webhooks.addresses import AddressForbidden, check_url, is_public

INSIDE = (
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.3.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "not an address",
)


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_inside_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_the_internet_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "localhost"])
def test_an_address_inside_is_refused_as_written(host: str) -> None:
    with pytest.raises(AddressForbidden):
        check_url(f"https://{host}/x", allow_private=False)
    check_url(f"https://{host}/x", allow_private=True)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://example.com/x", "https://"),
        ("ftp://example.com", "https://"),
        ("file:///etc/passwd", "https://"),
        ("https://", "no host"),
        ("https://example.com:99999/", "out of range"),
        ("https://example.com:0/", "no host"),
        ("https://user:secret@example.com/", "user name"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com/ x", "printable"),
        ("https://exämple.com/", "ASCII"),
        ("https://example.com/" + "x" * 2000, "2000"),
        ("https://[::1", "IPv6"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(url: str, problem: str) -> None:
    with pytest.raises(InvalidField, match=r"Field 'url'") as refused:
        check_url(url, allow_private=False)
    assert problem in str(refused.value)


def test_an_ordinary_address_passes() -> None:
    check_url("https://hooks.example.com:8443/mint?team=a", allow_private=False)
    check_url("http://127.0.0.1:9/", allow_private=True)
