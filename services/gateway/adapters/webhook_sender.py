"""Posts to addresses that tenants chose, and to no address inside.

Invariants: a name is resolved once for a connection, in threads of its own, and each of its addresses is
checked; a tenant does not hear whether a name has addresses inside or none; the address of each
socket is checked again when it is made, right before it connects there; no redirect is followed, no proxy and
no cookie used; time and what is read of an answer are bounded.
"""

import asyncio
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType

from mint_common.errors import InvalidField
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from services.gateway.adapters.webhook_names import WebhookNames
from services.gateway.core.webhooks.addresses import AddressForbidden, check_url, is_public
from services.gateway.core.webhooks.records import Attempt

READ_BYTES = 4096
"""Bytes of an answer's body that are read, so that its connection can be used again."""


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses alone. An address that is written as such never comes here."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises AddressForbidden when one of them is not public."""
        found = await self._resolver.resolve(host, port, family)
        if not all(is_public(each["host"]) for each in found):
            raise AddressForbidden(host=host)
        return found

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()


def public_socket(info: AddrInfoType) -> socket.socket:
    """Return a socket for a connection to an address. Raises AddressForbidden when that is not public."""
    family, kind, protocol, _, address = info
    host = str(address[0])
    if not is_public(host):
        raise AddressForbidden(host=host)
    return socket.socket(family, kind, protocol)


class HttpWebhookSender:
    """See `services.gateway.ports.WebhookSender`. Made inside a running loop; close it."""

    def __init__(
        self,
        clock: Clock,
        *,
        timeout_seconds: float,
        allow_private: bool,
        names: WebhookNames | None = None,
    ) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._allow_private = allow_private
        self._names = names or WebhookNames()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the courier bounds them, of each tenant
                resolver=self._names if allow_private else PublicResolver(self._names),
                socket_factory=None if allow_private else public_socket,
                use_dns_cache=False,
                keepalive_timeout=5.0,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def send(self, tenant_id: TenantId, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Post a message and return how it went."""
        at, started = self._clock.now(), self._clock.monotonic()
        status, problem = None, None
        try:
            check_url(url, allow_private=self._allow_private)  # kept before the setting was what it is now
            with self._names.asked_by(tenant_id):
                async with asyncio.timeout(self._timeout_seconds):
                    status = await self._post(url, headers, body)
        except TimeoutError:
            problem = f"no answer in {self._timeout_seconds:g} s"
        except InvalidField as error:
            problem = str(error)
        except (AddressForbidden, aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError: names that have no IDNA form, and answers that are no HTTP.
            problem = _problem(error, urlsplit(url).hostname or "")
        return Attempt(at=at, seconds=self._clock.monotonic() - started, status=status, problem=problem)

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            await answer.content.read(READ_BYTES)
            return answer.status

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def _problem(error: Exception, host: str) -> str:
    if isinstance(error, AddressForbidden | aiohttp.ClientConnectorDNSError):
        return f"{host!r} has no address of the public internet"
    return (str(error) or type(error).__name__)[:300]
