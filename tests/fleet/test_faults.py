"""Each part of a fleet is killed, frozen and cut off, while a job trains and users ask and move an alias.

No revision is lost or doubled, no answer comes from another revision than it names, the alias's history is
one order true to time, and once the part is back every request is answered. `out/fleet/faults.json` has the
times.
"""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from benches.machine import ROOT
from tests.fleet.hosts import why_not
from tests.fleet.stack import (
    RESTART_SECONDS,
    SERVICES,
    STANDBY,
    TWINS,
    FleetStack,
    open_fleet,
)
from tests.fleet.users import (
    GATEWAYS,
    Gateways,
    Seen,
    check_history,
    check_revisions,
    on_client,
    stream_leader,
    submit_job,
    users_at_work,
    wait_for_step,
)

_REASON = why_not(("nft", "nftables"), ("haproxy", "haproxy"))
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
]
REPORT = ROOT / "out/fleet/faults.json"
SEED = 32
STEPS, STEPS_BEFORE = 12, 2
FAULT_SECONDS = 30.0
GAP_SECONDS, TAKEN_OVER_SECONDS = 60.0, 15.0
REQUESTS = 2000
CELLS = [
    *((part, fault) for part in (*SERVICES, "nats", "postgres") for fault in ("kill", "freeze", "cut")),
    *((part, "cut-nats") for part in SERVICES),
    *((part, "cut-postgres") for part in SERVICES),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet with a policy of two revisions, and the answer of each by digest."""

    stack: FleetStack
    texts: dict[str, str]


@pytest.fixture(scope="module")
def fleet(server_folder: Path) -> Iterator[Fleet]:
    server_folder.chmod(0o711)  # Postgres and NATS have users of their own
    folder = server_folder / "fleet"
    folder.mkdir(mode=0o711)
    with open_fleet(folder) as stack:
        texts = on_client(stack, lambda gateways: _make_revisions(stack, gateways))
        yield Fleet(stack=stack, texts=texts)


@pytest.mark.parametrize(("part", "fault"), CELLS)
def test_what_befalls_a_part_loses_doubles_and_mixes_nothing(fleet: Fleet, part: str, fault: str) -> None:
    stack, policy = fleet.stack, f"{part}-{fault}"
    _wait_for_both_engines(stack)  # a victim of the cell before may still be starting
    stack.restarted.clear()
    with users_at_work(stack, "asked", policy, fleet.texts) as seen:
        job_id = on_client(stack, lambda gateways: submit_job(gateways, policy, STEPS))
        job = on_client(stack, lambda gateways: wait_for_step(stack, gateways, job_id, STEPS_BEFORE))
        assert job["state"] == "running", job["reason"]
        victim = _victim(stack, part, policy)
        began = time.monotonic()
        stack.inflict(victim, fault, FAULT_SECONDS)
        healed = time.monotonic()
        job = on_client(stack, lambda gateways: wait_for_step(stack, gateways, job_id, STEPS + 1))
        ended = time.monotonic()
        back = on_client(stack, lambda gateways: _answers_again(stack, gateways))
    found = {
        "part": part,
        "fault": fault,
        "victim": victim,
        "fault_seconds": round(healed - began, 1),
        "gap_seconds": round(seen.longest_gap(), 2),
        "answers": len(seen.answered),
        "unanswered": seen.unanswered,
        "moves_and_reads": len(seen.heard),
        "job_seconds_after_fault": round(ended - began, 1),
        "all_answer_after_seconds": round(back, 1),
        "ended_by_themselves": [name for name in stack.restarted if name != victim or fault != "kill"],
    }
    _report(found)
    assert job["state"] == "succeeded", job["reason"]
    assert len(job["steps"]) == STEPS
    on_client(stack, lambda gateways: _check(gateways, seen, policy, job))
    assert seen.longest_gap() < GAP_SECONDS, found


def test_a_rolling_restart_of_all_services_loses_no_request(fleet: Fleet) -> None:
    """Users ask through the balancer, and ask nothing twice."""
    stack, policy, steps = fleet.stack, "rolled", 200
    with users_at_work(stack, "asked", policy, fleet.texts, names=["balancer"]) as seen:
        job_id = on_client(stack, lambda gateways: submit_job(gateways, policy, steps))
        began = time.monotonic()
        for name in TWINS:
            stack.restart(name)
        seconds = time.monotonic() - began
        job = on_client(stack, lambda gateways: wait_for_step(stack, gateways, job_id, 1))
        trained = sum(step["revision"] is not None for step in job["steps"])
        stack.wait_for(lambda: len(seen.answered) >= REQUESTS, what="2,000 requests", seconds=300)
        job = on_client(stack, lambda gateways: wait_for_step(stack, gateways, job_id, steps + 1))
    _report(
        {
            "part": "all",
            "fault": "rolling restart",
            "restarts_seconds": round(seconds, 1),
            "gap_seconds": round(seen.longest_gap(), 2),
            "answers": len(seen.answered),
            "unanswered": seen.unanswered,
            "steps_during_restarts": trained,
        }
    )
    assert job["state"] == "succeeded", job["reason"]
    assert seen.unanswered == 0
    on_client(stack, lambda gateways: _check(gateways, seen, policy, job))


def test_a_standby_takes_over_from_a_killed_primary(fleet: Fleet) -> None:
    """The last test of the fleet, which has no standby afterwards."""
    stack, policy = fleet.stack, "taken-over"
    stack.standby.start()
    on_client(stack, lambda _: asyncio.run(_in_step(stack)))
    with users_at_work(stack, "asked", policy, fleet.texts) as seen:
        job_id = on_client(stack, lambda gateways: submit_job(gateways, policy, STEPS))
        job = on_client(stack, lambda gateways: wait_for_step(stack, gateways, job_id, STEPS_BEFORE))
        assert job["state"] == "running", job["reason"]
        stack.parts.pop("postgres").kill()
        began = time.monotonic()
        time.sleep(RESTART_SECONDS)
        on_client(stack, lambda _: asyncio.run(_promote(stack)))
        job = on_client(stack, lambda gateways: wait_for_step(stack, gateways, job_id, STEPS + 1))
        ended = time.monotonic()
    found = {
        "part": "postgres",
        "fault": "kill the primary, promote the standby after 2 s",
        "gap_seconds": round(seen.longest_gap(), 2),
        "answers": len(seen.answered),
        "unanswered": seen.unanswered,
        "moves_and_reads": len(seen.heard),
        "job_seconds_after_fault": round(ended - began, 1),
    }
    _report(found)
    assert job["state"] == "succeeded", job["reason"]
    on_client(stack, lambda gateways: _check(gateways, seen, policy, job))
    assert seen.longest_gap() < TAKEN_OVER_SECONDS, found


async def _in_step(stack: FleetStack) -> None:
    """Wait until the standby follows, then let commits wait for it; its copy must not have that setting."""
    session = await _session(stack, "postgres")
    await _until(session, "application_name = 'walreceiver' AND state = 'streaming'")
    await session.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await session.execute("SELECT pg_reload_conf()")
    await _until(session, "sync_state = 'sync'")
    await session.close()


async def _until(session: asyncpg.Connection, condition: str) -> None:
    async with asyncio.timeout(60):
        while not await session.fetchval(f"SELECT count(*) FROM pg_stat_replication WHERE {condition}"):
            await asyncio.sleep(0.05)


async def _promote(stack: FleetStack) -> None:
    session = await _session(stack, STANDBY)
    assert await session.fetchval("SELECT pg_promote()")
    await session.close()


async def _session(stack: FleetStack, host: str) -> asyncpg.Connection:
    start, _, hosts = stack.parts["registry-1"].env["MINT_POSTGRES_DSN"].rpartition("@")
    port, _, database = hosts.rpartition(":")[2].partition("/")
    return await asyncpg.connect(f"{start}@{stack.hosts.addresses[host]}:{port}/{database}")


def _check(gateways: Gateways, seen: Seen, policy: str, job: Any) -> None:
    assert not seen.wrong
    check_history(gateways, "asked", policy, seen)
    check_revisions(gateways, policy, job)


def _victim(stack: FleetStack, part: str, policy: str) -> str:
    """Return the host to suffer: the policy's trainer, the stream's leader, else one of two."""
    if part == "postgres":
        return part
    if part == "nats":
        return stream_leader(stack)
    if part == "trainer":
        pool = on_client(stack, lambda gateways: gateways.ask("GET", "/mint/v1/trainers"))
        holders = [one["trainer_id"] for one in pool if len(one["policies"])]
        for name in ("trainer-1", "trainer-2"):
            if any(stack.hosts.addresses[name] in holder for holder in holders):
                return name
    return f"{part}-{random.Random(f'{SEED} {policy}').choice((1, 2))}"


def _make_revisions(stack: FleetStack, gateways: Gateways) -> dict[str, str]:
    job = wait_for_step(stack, gateways, submit_job(gateways, "asked", 3), 4)
    assert job["state"] == "succeeded", job["reason"]
    answers = [gateways.complete(f"asked@{number}") for number in (1, 2)]
    texts = dict(answer for answer in answers if answer)
    assert len(texts) == 2
    return texts


def _wait_for_both_engines(stack: FleetStack) -> None:
    """Wait until each gateway gets an answer from every engine."""

    def serve(gateways: Gateways) -> bool:
        answer = gateways.once("GET", "/mint/v1/engines")
        states = [entry["state"] for entry in answer.json()] if answer and answer.is_success else []
        return states == ["serving", "serving"]

    def both_serve() -> bool:
        with ExitStack() as opened:
            each = [opened.enter_context(Gateways(stack, names=[name])) for name in GATEWAYS]
            return all(map(serve, each))

    with stack.on_client() as threads:
        stack.wait_for(lambda: threads.submit(both_serve).result(), what="both engines", seconds=120)


def _answers_again(stack: FleetStack, gateways: Gateways) -> float:
    """Wait until twenty requests in a row are answered; return the seconds until the first of them."""
    began, row, since = time.monotonic(), 0, 0.0
    while row < 20:
        since = time.monotonic() if row == 0 else since
        row = row + 1 if gateways.complete("asked@1") else 0
        assert time.monotonic() - began < 120, "requests fail long after the fault"
    return since - began


def _report(found: dict[str, Any]) -> None:
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(REPORT.read_text()) if REPORT.exists() else []
    same = ("part", "fault")
    kept = [one for one in known if [one[key] for key in same] != [found[key] for key in same]]
    REPORT.write_text(json.dumps([*kept, found], indent=1) + "\n")
