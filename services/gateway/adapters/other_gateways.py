"""The other gateways of a stack, which hold samples in their memory: polls of these are passed on.

Invariant: a poll is passed on once at most, because its id names the gateway that has the sample; it carries
the client's own key, which that gateway checks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from mint_common.errors import Unavailable, plain_problem
from mint_common.members import Member
from services.gateway.core.tinker.futures import FutureGone
from services.gateway.core.tinker.ids import gateway_tag, tag_of_request

POLL_PATH = "/api/v1/retrieve_future"
CONNECT_SECONDS, POLL_SECONDS = 2.0, 40.0
PASSED_ON = ("authorization", "x-api-key", "accept", "content-type", "x-stainless-package-version")
"""Headers of a poll that decide its answer."""
ANSWERED = ("content-type", "x-should-retry", "retry-after")
"""Headers of an answer that its client reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOn:
    """The other gateway's answer, as it sent it."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class OtherGateways:
    """The gateways that announce themselves, by the tags of their samples; ``tag`` is this one's."""

    def __init__(self, *, tag: str) -> None:
        self.tag = tag
        self._urls: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None

    def follow_members(self, members: Sequence[Member]) -> None:
        """Take the fleet's members as they are now."""
        alive = (each for each in members if each.kind == "gateway" and each.is_alive)
        self._urls = {gateway_tag(each.epoch): each.url for each in alive}

    def is_elsewhere(self, request_id: str) -> bool:
        """Return whether another gateway took a sample in."""
        return tag_of_request(request_id) not in ("", self.tag)

    async def poll(self, request_id: str, body: bytes, headers: Mapping[str, str]) -> PassedOn:
        """Return the answer of the gateway that has a sample.

        Raises FutureGone when it has ended, with its samples, and Unavailable when it does not answer.
        """
        url = self._urls.get(tag_of_request(request_id))
        if url is None:
            raise FutureGone(request_id=request_id[:100])
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=POLL_SECONDS, sock_connect=CONNECT_SECONDS)
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=5)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        sent = {name: headers[name] for name in PASSED_ON if name in headers}
        try:
            async with self._session.post(url + POLL_PATH, data=body, headers=sent) as found:
                told = {name: found.headers[name] for name in ANSWERED if name in found.headers}
                return PassedOn(status=found.status, body=await found.read(), headers=told)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            what = "the gateway that has this sample"
            raise Unavailable(what=what, problem=plain_problem(error)) from error

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        if self._session is not None:
            await self._session.close()
