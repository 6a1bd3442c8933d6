"""Who waits for a turn: requests of known keys for cold adapters, in a line that no tenant fills."""

import asyncio
import json

import httpx

from tests.security.two_tenants import MIB, Rig

ANN, BEN = "tml-ann", "tml-ben"


def body(model: str, *, prompt: str = "x") -> bytes:
    return json.dumps({"model": model, "prompt": prompt}).encode()


class Asking:
    """Requests that are under way."""

    def __init__(self, rig: Rig) -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=rig.http), base_url="http://gateway", timeout=None
        )

    def ask(
        self, content: bytes, *, key: str | None = ANN, path: str = "/v1/completions"
    ) -> "asyncio.Task[httpx.Response]":
        headers = {"content-type": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        return asyncio.create_task(self._client.post(path, content=content, headers=headers))


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0.001)


async def end(tasks: "list[asyncio.Task[httpx.Response]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_warm_requests_pass_whoever_waits() -> None:
    rig = Rig()
    asking = Asking(rig)
    tasks = [asking.ask(body("warm"))]
    await settle()
    tasks += [asking.ask(body(f"cold-{number}")) for number in range(4)]
    await settle()
    tasks += [asking.ask(body("warm"))]
    await settle()
    assert rig.asked == ["warm", "cold-0", "warm"], "one cold one has begun, three wait"
    rig.resolves.set()  # with the last warm one nobody is left to wait for
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*tasks)
    assert rig.asked[3:] == ["cold-1", "cold-2", "cold-3"]
    assert {answer.status_code for answer in answers} == {404}


async def test_requests_without_a_good_key_never_stand_in_it() -> None:
    rig = Rig(cold_requests=4)
    asking = Asking(rig)
    warm = asking.ask(body("warm"))
    await settle()
    refused = [asking.ask(body("cold"), key=key) for key in (None, "tml-nobody") for _ in range(20)]
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*refused)
    assert {answer.status_code for answer in answers} == {401}
    assert rig.cold.held == 0
    await end([warm])


async def test_a_tenant_that_fills_its_part_is_sent_away_for_a_moment_and_others_wait_as_before() -> None:
    rig = Rig(cold_requests=8)
    asking = Asking(rig)
    tasks = [asking.ask(body("warm"))]
    await settle()
    tasks += [asking.ask(body("cold")) for _ in range(20)]
    await settle()
    refused = [task.result() for task in tasks if task.done()]
    assert len(refused) == 15, "one has begun, four wait"
    assert {answer.status_code for answer in refused} == {429}
    assert all(1 <= int(answer.headers["retry-after"]) <= 30 for answer in refused)
    assert refused[0].json()["error"]["type"] == "rate_limit_error"
    tasks.append(asking.ask(body("cold"), key=BEN))
    await settle()
    assert not tasks[-1].done()
    assert rig.cold.held == 5
    await end(tasks)
    assert rig.cold.held == 0, "who leaves is forgotten"


async def test_large_bodies_are_decoded_one_at_a_time_beside_warm_requests() -> None:
    rig = Rig(body_bytes=64 * MIB)
    asking = Asking(rig)
    tasks = [asking.ask(body("warm"))]
    await settle()
    tasks += [asking.ask(body("warm", prompt="x" * MIB)) for _ in range(3)]
    await settle()
    assert rig.large.held >= 1
    assert len(rig.asked) < 4
    rig.resolves.set()
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*tasks)
    assert {answer.status_code for answer in answers} == {404}
    assert rig.bodies.held == 0


async def test_nonsense_goes_through_the_line_to_its_error() -> None:
    asking = Asking(Rig())
    for nonsense in (b"\xff{", b'{"model": 7}', b"[" * 10_000, b""):
        async with asyncio.timeout(30):
            answer = await asking.ask(nonsense)
        assert answer.status_code in {400, 422}
