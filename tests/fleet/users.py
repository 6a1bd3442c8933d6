"""Users of a fleet: they ask one gateway, and the other when it does not answer."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import httpx

from mint_common.bus.nats import connect_nats
from mint_common.events.subjects import STREAM
from tests.fleet.alias_history import Heard, Row, contradictions
from tests.fleet.stack import NATS, NATS_PORT, PORTS, FleetStack

T = TypeVar("T")
AWAY = {502, 503, 504}
GATEWAYS = ("gateway-1", "gateway-2")
PROMPT = "f abcd="
PAUSE_SECONDS = 0.15
TIMEOUT_SECONDS = 5.0
"""Time after which a user takes a gateway's host for lost."""


class Gateways:
    """A client of both gateways, or of those named. For threads of the users' host."""

    def __init__(self, stack: FleetStack, *, first: int = 0, names: Sequence[str] = ()) -> None:
        names = names or [name for name in GATEWAYS if name in stack.parts]
        self._https = [httpx.Client(**_options(stack, name)) for name in names]
        self._at = first % len(names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for http in self._https:
            http.close()

    def once(self, method: str, path: str, body: object = None) -> httpx.Response | None:
        """Ask one gateway; after no answer, or one that it is away, the next question goes to the other."""
        http = self._https[self._at]
        try:
            answer = http.request(method, path, json=body)
        except httpx.TransportError:
            answer = None
        if answer is None or answer.status_code in AWAY:
            self._at = (self._at + 1) % len(self._https)
        return answer

    def ask(self, method: str, path: str, body: object = None, *, seconds: float = 120.0) -> Any:
        """Ask until one answers, and return what. Raises AssertionError for a refusal."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.once(method, path, body)
            if answer is not None and answer.status_code not in AWAY:
                assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
                return answer.json()
            time.sleep(0.2)
        raise AssertionError(f"{method} {path}: no answer")

    def upload(self, policy: str, archive: bytes) -> None:
        """Upload an adapter to a policy."""
        answer = self._https[self._at].post(f"/mint/v1/policies/{policy}/revisions", content=archive)
        assert answer.is_success, f"{answer.status_code} {answer.text}"

    def complete(self, model: str) -> tuple[str, str] | None:
        """Return the digest and the text of an answer; None if there is none."""
        body = {"model": model, "prompt": PROMPT, "max_tokens": 6, "temperature": 0}
        answer = self.once("POST", "/v1/completions", body)
        if answer is None or answer.status_code in AWAY:
            return None
        assert answer.is_success, f"{answer.status_code} {answer.text}"
        return answer.headers["x-mint-revision"], answer.json()["choices"][0]["text"]


@dataclass(kw_only=True)
class Seen:
    """Observations of the users: times of answers, wrong answers, and answers about the alias."""

    answered: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    unanswered: int = 0

    def longest_gap(self) -> float:
        """Return the longest time between two answers, in seconds."""
        times = sorted(self.answered)
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)


@contextmanager
def users_at_work(
    stack: FleetStack,
    policy: str,
    alias: str,
    texts: Mapping[str, str],
    *,
    names: Sequence[str] = GATEWAYS,
) -> Iterator[Seen]:
    """Let users move and read a policy's alias, and ask its revisions, whose answers by digest are ``texts``.

    Without texts nothing is asked.
    """
    seen, ends = Seen(), threading.Event()
    path = f"/mint/v1/policies/{policy}/aliases/{alias}"
    mover = _Mover(path, alias, seen)
    work: Sequence[Callable[[Gateways], None]] = (lambda gateways: _read(gateways, path, seen), mover.move)
    askers = _Askers(stack, names, (f"{policy}@1", f"{policy}@2"), texts, seen)

    def keep_on(one: Callable[[Gateways], None], number: int) -> None:
        with Gateways(stack, first=number, names=names) as gateways:
            while not ends.wait(PAUSE_SECONDS):
                one(gateways)

    with stack.on_client() as threads:
        running: list[Future[None]] = [
            threads.submit(keep_on, one, number) for number, one in enumerate(work)
        ]
        if texts:
            running.append(threads.submit(lambda: asyncio.run(askers.ask_until(ends))))
        try:
            yield seen
        finally:
            ends.set()
    for one in running:
        one.result()


def on_client(stack: FleetStack, work: Callable[[Gateways], T]) -> T:
    """Return what some work returns on the users' host."""

    def run() -> T:
        with Gateways(stack) as gateways:
            return work(gateways)

    with stack.on_client() as threads:
        return threads.submit(run).result()


def stream_leader(stack: FleetStack) -> str:
    """Return the host of the NATS server that leads the stream."""

    async def ask() -> str:
        addresses = ",".join(f"nats://fleet@{stack.hosts.addresses[one]}:{NATS_PORT}" for one in NATS)
        bus = await connect_nats(addresses, name="test", replicas=len(NATS))
        try:
            jetstream = await bus._connection.jetstream()  # no service asks for it
            info = await jetstream.stream_info(STREAM)
            assert info.cluster is not None
            return info.cluster.leader or NATS[0]
        finally:
            await bus.close()

    return on_client(stack, lambda _: asyncio.run(ask()))


def check_history(gateways: Gateways, policy: str, alias: str, seen: Seen) -> None:
    """Check that one order of the alias's moves explains all that users were answered."""
    path, rows = f"/mint/v1/policies/{policy}/aliases/{alias}/history?limit=1000", list[Any]()
    while page := gateways.ask("GET", path + (f"&before={rows[-1]['sequence']}" if rows else "")):
        rows += page
    history = [Row(sequence=row["sequence"], number=row["number"], reason=row["reason"]) for row in rows]
    assert not list(contradictions(seen.heard, history))
    assert len(seen.heard) > 10


def submit_job(gateways: Gateways, policy: str, steps: int) -> str:
    """Make a policy and submit its job of GRPO; return the job's id."""
    gateways.ask("POST", "/mint/v1/policies", {"name": policy, "base": "tiny"})
    size = {"prompts_per_step": 4, "group_size": 8}
    spec = {"policy": policy, "task": "mode:copy", "algorithm": "grpo", "steps": steps, **size}
    return str(gateways.ask("POST", "/mint/v1/jobs", spec)["job_id"])


def wait_for_step(stack: FleetStack, gateways: Gateways, job_id: str, published: int) -> Any:
    """Return the job once that many of its steps have a revision, or it has ended."""
    found: dict[str, Any] = {}

    def is_far() -> bool:
        answer = gateways.once("GET", f"/mint/v1/jobs/{job_id}")
        if answer is None or answer.status_code != 200:
            return False
        found.update(answer.json())
        steps = sum(step["revision"] is not None for step in found["steps"])
        return found["state"] in {"succeeded", "failed", "cancelled"} or steps >= published

    stack.wait_for(is_far, what=f"step {published} of {job_id}", seconds=300)
    return found


def check_revisions(gateways: Gateways, policy: str, job: Any) -> None:
    """Check that a policy's revisions are those of its job's steps, each once and in order."""
    revisions = gateways.ask("GET", f"/mint/v1/policies/{policy}/revisions?limit=1000")
    trained = list(dict.fromkeys(step["revision"]["digest"] for step in job["steps"]))
    by_number = sorted(revisions, key=lambda revision: int(revision["number"]))
    assert [revision["number"] for revision in by_number] == list(range(1, len(trained) + 1))
    assert [revision["digest"] for revision in by_number] == trained


class _Askers:
    """Asks models in turn at a steady rate, however long answers take."""

    def __init__(
        self,
        stack: FleetStack,
        names: Sequence[str],
        models: Sequence[str],
        texts: Mapping[str, str],
        seen: Seen,
    ) -> None:
        self._clients = [
            httpx.AsyncClient(**_options(stack, name), limits=httpx.Limits(max_connections=None))
            for name in names
        ]
        self._at = 0
        self._models = itertools.cycle(models)
        self._texts = texts
        self._seen = seen

    async def ask_until(self, ends: threading.Event) -> None:
        """Ask until the end, and wait for what is open."""
        async with AsyncExitStack() as stack:
            for client in self._clients:
                await stack.enter_async_context(client)
            async with asyncio.TaskGroup() as asked:
                while not ends.is_set():
                    asked.create_task(self._ask(next(self._models), self._at))
                    await asyncio.sleep(PAUSE_SECONDS / 2)

    async def _ask(self, model: str, at: int) -> None:
        body = {"model": model, "prompt": PROMPT, "max_tokens": 6, "temperature": 0}
        try:
            answer = await self._clients[at].post("/v1/completions", json=body)
        except httpx.TransportError:
            answer = None
        if answer is None or answer.status_code in AWAY:
            self._seen.unanswered += 1
            if self._at == at:
                self._at = (at + 1) % len(self._clients)
            return
        assert answer.is_success, f"{answer.status_code} {answer.text}"
        self._seen.answered.append(time.monotonic())
        digest, text = answer.headers["x-mint-revision"], answer.json()["choices"][0]["text"]
        if self._texts.get(digest) != text:
            self._seen.wrong.append(f"{model}: {digest} {text}")


def _options(stack: FleetStack, name: str) -> dict[str, Any]:
    return {
        "base_url": f"http://{stack.hosts.addresses[name]}:{PORTS['gateway']}",
        "headers": {"authorization": f"Bearer {stack.key}"},
        "timeout": httpx.Timeout(TIMEOUT_SECONDS, connect=1.0),
        "trust_env": False,
    }


def _read(gateways: Gateways, path: str, seen: Seen) -> None:
    begun = time.monotonic()
    answer = gateways.once("GET", path)
    if answer is not None and answer.status_code == 200:
        record = answer.json()
        seen.heard.append(
            Heard(
                begun=begun,
                ended=time.monotonic(),
                sequence=record["sequence"],
                number=record["revision"]["number"],
            )
        )


class _Mover:
    """Moves an alias to and fro, each time from where it last saw it."""

    def __init__(self, path: str, alias: str, seen: Seen) -> None:
        self._path = path
        self._seen = seen
        self._reasons = (f"{alias} {number}" for number in itertools.count(1))
        self._at: Mapping[str, Any] | None = None

    def move(self, gateways: Gateways) -> None:
        """Move it once."""
        current = self._at
        if current is None:
            answer = gateways.once("GET", self._path)
            if answer is None or answer.status_code not in (200, 404):
                return
            current = answer.json()["revision"] if answer.status_code == 200 else {"digest": "", "number": 2}
        begun, target, reason = time.monotonic(), 3 - int(current["number"]), next(self._reasons)
        body = {"revision": target, "expected": current["digest"], "reason": reason}
        answer = gateways.once("PUT", self._path, body)
        if answer is not None and answer.status_code == 412:
            self._at = None
            return
        done = answer is not None and answer.status_code == 200
        record = answer.json() if answer is not None and done else None
        self._at = record["revision"] if record else None
        self._seen.heard.append(
            Heard(
                begun=begun,
                ended=time.monotonic(),
                sequence=record["sequence"] if record else None,
                number=target,
                reason=reason,
            )
        )
