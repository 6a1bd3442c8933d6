"""Sixteen clients move, roll back and read one alias at once: one order explains all that they heard."""

import asyncio
import random
import time
from dataclasses import replace

import httpx
import pytest

from tests.integration.registry.linearizability import Operation, linearize
from tests.integration.registry.rig import TENANT, RunningRegistry

pytestmark = pytest.mark.integration

CLIENTS, OPERATIONS, REVISIONS = 16, 15, 5


class Client:
    """One client: it remembers what it saw last, and expects it."""

    def __init__(self, registry: RunningRegistry, path: str, numbers: dict[str, int], name: int) -> None:
        self.registry = registry
        self.path = path
        self.numbers = numbers
        self.digests = {number: digest for digest, number in numbers.items()} | {0: ""}
        self.name = name
        self.random = random.Random(name)
        self.seen = 0

    async def work(self) -> list[Operation]:
        return [await self.one() for _ in range(OPERATIONS)]

    async def one(self) -> Operation:
        kind = self.random.choice(["move", "move", "rollback", "read"])
        expected = self.random.choice([None, self.seen, self.seen])
        target = self.random.randint(1, REVISIONS)
        said = {"reason": f"client {self.name}"}
        if expected is not None:
            said["expected"] = self.digests[expected]
        begun = time.perf_counter()
        if kind == "move":
            answer = await self.registry.http.put(self.path, json={**said, "revision": target})
        elif kind == "rollback":
            answer = await self.registry.http.post(f"{self.path}/rollback", json=said)
        else:
            answer, expected = await self.registry.http.get(self.path), None
        asked = Operation(
            client=self.name,
            kind=kind,
            begun=begun,
            ended=time.perf_counter(),
            target=target,
            expected=expected,
        )
        return self.answered(asked, answer)

    def answered(self, asked: Operation, answer: httpx.Response) -> Operation:
        body = answer.json()
        if answer.status_code == 200:
            self.seen = self.numbers[body["revision"]["digest"]]
            return replace(asked, sequence=body["sequence"], number=self.seen)
        error = body["error"]
        if error["code"] == "precondition_failed":
            self.seen = self.numbers.get(error["found"], 0)
            return replace(asked, found=self.seen)
        if error["code"] == "not_found":  # no alias yet
            return replace(asked, kind="read")
        assert error["code"] == "invalid_field", error
        return replace(asked, is_at_bottom=True)


async def test_concurrent_moves_rollbacks_and_reads_are_linearizable(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    published = await registry.publish(policy_id, REVISIONS)
    numbers = {event.revision.digest: event.revision.number for event in published}
    path = f"/internal/tenants/{TENANT}/policies/{policy_id}/aliases/prod"
    clients = [Client(registry, path, numbers, name) for name in range(CLIENTS)]

    histories = await asyncio.gather(*(client.work() for client in clients))

    operations = [operation for history in histories for operation in history]
    assert linearize(operations) is not None
    for history in histories:
        heard = [each.sequence for each in history if each.sequence]
        assert heard == sorted(heard), "a client saw an older state than before"
    moves = {each.sequence for each in operations if each.kind != "read" and each.sequence}
    newest_first = (await registry.http.get(f"{path}/history?limit=1000")).json()
    rows = newest_first[::-1]
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    assert moves == set(range(1, len(rows) + 1)), "a move was lost, or nobody made it"
    told = await registry.pool.fetchval(
        "SELECT count(DISTINCT event_id) FROM mint_outbox WHERE subject LIKE 'mint.alias.moved.%'"
    )
    assert told == len(rows)
