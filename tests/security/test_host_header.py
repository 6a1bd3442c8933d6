"""No address that a client is given comes from the Host header once the gateway knows its own."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from mint_common.claims import Claim
from mint_common.errors import SettingInvalid
from mint_common.settings import read_settings
from services.gateway.core.tinker.downloads import Ticket, TicketSigner
from services.gateway.http.tinker.downloads import _address
from services.gateway.settings import GatewaySettings
from tests.testing.factories import TENANT

TICKET = Ticket(
    manifest=Claim(uri="mem://m", sha256="0" * 64, size_bytes=1), tenant_id=TENANT, expires_at=9.0
)
REQUEST = Request(
    {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "query_string": b"",
        "headers": [(b"host", b"evil.example")],
        "server": ("127.0.0.1", 8321),
    }
)


@pytest.mark.parametrize("public_url", ["https://mint.example", "https://mint.example/"])
def test_an_address_of_a_download_begins_with_the_public_url(public_url: str) -> None:
    tinker = SimpleNamespace(public_url=public_url, signer=TicketSigner(secret=b"secret"))
    address = _address(REQUEST, tinker, TICKET)
    assert address.startswith("https://mint.example/")
    assert "evil" not in address


@pytest.mark.parametrize(
    ("public_url", "is_taken"),
    [
        ("", True),
        ("https://mint.example:8443", True),
        ("http://127.0.0.1:8321/", True),
        ("mint.example", False),
        ("https://mint.example/path", False),
        ("https://user@mint.example", False),
        ("https://mint.example?x", False),
        ("https://mint.example\n", False),
    ],
)
def test_a_public_url_is_a_scheme_and_a_host(public_url: str, is_taken: bool) -> None:
    environ = {
        "MINT_NATS_URL": "nats://127.0.0.1:1",
        "MINT_POSTGRES_DSN": "postgresql://127.0.0.1:1/x",
        "MINT_BLOBS_URL": "file:///tmp/blobs",
        "MINT_INTERNAL_TOKEN": "token",
        "MINT_PEERS_REGISTRY_URL": "http://127.0.0.1:1",
        "MINT_GATEWAY_HTTP_PORT": "0",
        "MINT_GATEWAY_PUBLIC_URL": public_url,
    }
    refusal = nullcontext() if is_taken else pytest.raises(SettingInvalid, match="PUBLIC_URL")
    with refusal:
        assert read_settings(GatewaySettings, environ, service="gateway").public_url == public_url
