"""Posts to addresses that tenants chose, never to an internal address.

Invariants: a name is resolved once per connection, in threads of its own, and each address is checked; a
tenant does not learn whether a name has internal addresses or none; the address of each socket is checked
again right before it connects; redirects, proxies and cookies are not used; the time and the bytes read of an
answer are bounded.
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
"""Maximum bytes read of an answer's body; reading it allows the connection to be reused."""


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only. Literal addresses never reach it."""

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
    """Return a socket for a connection to an address. Raises AddressForbidden if it is not public."""
    family, kind, protocol, _, address = info
    host = str(address[0])
    if not is_public(host):
        raise AddressForbidden(host=host)
    return socket.socket(family, kind, protocol)


class HttpWebhookSender:
    """Made inside a running loop; close it."""

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
                limit=0,  # the courier limits them per tenant
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
            check_url(url, allow_private=self._allow_private)  # stored before the setting was changed
            with self._names.asked_by(tenant_id):
                async with asyncio.timeout(self._timeout_seconds):
                    status = await self._post(url, headers, body)
        except TimeoutError:
            problem = f"no answer in {self._timeout_seconds:g} s"
        except InvalidField as error:
            problem = str(error)
        except (AddressForbidden, aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError: names without an IDNA form, and answers that are not HTTP.
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
