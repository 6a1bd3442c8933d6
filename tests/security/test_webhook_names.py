"""Webhooks to names whose DNS server does not answer: the service's own names and others' webhooks go on."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import uvloop

from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from services.gateway.adapters.webhook_names import LOOKUPS, TENANT_LOOKUPS, WebhookNames
from services.gateway.adapters.webhook_sender import HttpWebhookSender

SLOW, OTHER = TenantId("ten_slow"), TenantId("ten_other")
WEBHOOKS = 128
ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))


class Dns:
    """Answers for names that begin with ``fast``; others wait until the test ends."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ends = threading.Event()

    def getaddrinfo(self, host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if not host.startswith("fast"):
            self.ends.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [ADDRESS]


@pytest.fixture
def dns() -> Iterator[Dns]:
    made = Dns()
    yield made
    made.ends.set()


def test_a_service_looks_its_names_up_while_webhooks_wait_for_theirs(dns: Dns) -> None:
    """On uvloop, as services run: its own look-ups have four threads, which webhooks leave alone."""

    async def look_up() -> None:
        sender = HttpWebhookSender(
            SystemClock(), timeout_seconds=20, allow_private=False, names=WebhookNames(dns.getaddrinfo)
        )
        urls = [f"https://h{number}.example.com/" for number in range(WEBHOOKS)]
        waiting = [asyncio.create_task(sender.send(SLOW, url, {}, b"{}")) for url in urls]
        while len(dns.asked) < TENANT_LOOKUPS:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().getaddrinfo("localhost", 80)
            attempt = await sender.send(OTHER, "https://fast.example.com/", {}, b"{}")
        assert attempt.problem is not None, "it was found, and is inside"
        assert not any(each.done() for each in waiting)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await sender.close()

    uvloop.run(look_up())
    assert len(dns.asked) == TENANT_LOOKUPS + 1


async def test_look_ups_that_nobody_waits_for_any_more_count(dns: Dns) -> None:
    names = WebhookNames(dns.getaddrinfo)
    sender = HttpWebhookSender(SystemClock(), timeout_seconds=0.05, allow_private=False, names=names)
    for number in range(3 * TENANT_LOOKUPS):
        attempt = await sender.send(SLOW, f"https://h{number}.example.com/", {}, b"{}")
        assert attempt.problem == "no answer in 0.05 s"
    assert len(dns.asked) == TENANT_LOOKUPS
    await sender.close()


async def test_equal_look_ups_of_a_tenant_are_one_and_all_are_bounded(dns: Dns) -> None:
    names = WebhookNames(dns.getaddrinfo)

    async def ask(tenant: str, host: str) -> None:
        with names.asked_by(TenantId(tenant)):
            await names.resolve(host, 443)

    tasks = [
        asyncio.create_task(ask(f"t{n}", f"h{k % 2}.example.com")) for n in range(LOOKUPS) for k in range(4)
    ]
    while len(dns.asked) < LOOKUPS:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert len(dns.asked) == LOOKUPS
    dns.ends.set()
    assert {type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)} == {socket.gaierror}
    assert len(dns.asked) == 2 * LOOKUPS
