"""A moved name answers with its former revision until the new one is ready: moves, rollbacks, rules."""

import asyncio
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from mint_common.bus.nats import connect_nats
from mint_common.events import AdapterEvicted, AdapterLoaded, AdapterWanted
from mint_common.events.codec import decode
from mint_common.events.subjects import subjects_of
from mint_common.ids import Digest, EngineId
from mint_common.runtime.dispatch import publish_event
from tests.integration.gateway.scripted_loader import ready_status

pytestmark = pytest.mark.integration

SWITCH_SECONDS = 4.0
"""As in conftest.py."""
SECONDS = 60.0


@pytest.fixture
def engine(stack) -> Iterator["Engine"]:
    """Lend the scripted engine, empty; it is left so.

    Each test has a policy of its own: what others answered with, the gateway still believes to be loaded.
    """
    stack.loader.resident.clear()
    yield Engine(stack)
    stack.loader.resident.clear()


class Engine:
    """What the scripted engine holds, told to the gateway as a loader tells it."""

    def __init__(self, stack) -> None:
        self._stack = stack
        self._sequence = int(time.time() * 1000)

    def load(self, digest: str) -> None:
        """Hold an adapter from now on."""
        self._stack.loader.resident.append(ready_status(Digest(digest)))
        self._tell(AdapterLoaded, digest=Digest(digest), tier="host", size_bytes=10, load_seconds=0.1)

    def evict(self, digest: str) -> None:
        """Hold it no more."""
        self._stack.loader.resident[:] = [s for s in self._stack.loader.resident if s.digest != digest]
        self._tell(AdapterEvicted, digest=Digest(digest))

    def _tell(self, kind, **facts) -> None:
        self._sequence += 1
        event = kind(
            tenant_id=self._stack.tenant_id,
            base=self._stack.facts.name,
            engine_id=EngineId("scripted"),
            epoch="1",
            sequence=self._sequence,
            **facts,
        )

        async def publish() -> None:
            bus = await connect_nats(self._stack.nats_url, name="loader")
            await publish_event(bus, event, cause="test", now=time.time())
            await bus.close()

        asyncio.run(publish())


@pytest.fixture
def mint(stack, engine) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def answered_by(stack, mint: httpx.Client, name: str) -> int:
    """Return the number of the revision that answers; text and header must agree."""
    answer = mint.post(f"{stack.url}/v1/completions", json={"model": name, "prompt": "hi", "max_tokens": 40})
    assert answer.status_code == 200, answer.text
    number = int(answer.json()["choices"][0]["text"].partition("/")[0].removeprefix("r"))
    policy = name.partition("@")[0]
    assert answer.headers["x-mint-revision"] == digest_of(mint, policy, number)
    return number


def digest_of(mint: httpx.Client, policy: str, number: int) -> str:
    digest: str = mint.get(f"/policies/{policy}/revisions/{number}").json()["digest"]
    return digest


def await_that(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def be_served_by(stack, mint: httpx.Client, engine: Engine, name: str, number: int) -> None:
    """Load a revision, and let the gateway answer with it; from then on it knows that it is ready."""
    digest = digest_of(mint, name.partition("@")[0], number)
    engine.load(digest)
    with stack.client() as other:
        await_that(lambda: digest in [entry["digest"] for entry in other.get("/adapters").json()])
    assert answered_by(stack, mint, name) == number


def test_moves_and_rollbacks_answer_with_the_former_revision_until_the_new_one_is_ready(
    stack, mint, engine
) -> None:
    stack.make_policy("calm", revisions=2)
    url, name = "/policies/calm/aliases/live", "calm@live"
    assert mint.put(url, json={"revision": 1}).status_code == 200
    be_served_by(stack, mint, engine, name, 1)
    with wanted_digests(stack) as wanted:
        assert mint.put(url, json={"revision": 2}).json()["revision"]["number"] == 2
        assert [answered_by(stack, mint, name) for _ in range(5)] == [1] * 5
        assert mint.get(url).json()["revision"]["number"] == 2, "who asks where it points is told the truth"
        assert answered_by(stack, mint, "calm@2") == 2, "a pinned name waits for its own load"
    assert wanted == [digest_of(mint, "calm", 2)]
    engine.load(digest_of(mint, "calm", 2))
    await_that(lambda: answered_by(stack, mint, name) == 2)
    engine.evict(digest_of(mint, "calm", 2))
    engine.load(digest_of(mint, "calm", 2))
    assert mint.post(f"{url}/rollback").status_code == 200
    assert answered_by(stack, mint, name) == 1, "it is still there: the rollback is seen at once"


def test_after_a_bounded_time_the_new_revision_answers_cold(stack, mint, engine) -> None:
    stack.make_policy("bounded", revisions=3)
    url, name = "/policies/bounded/aliases/live", "bounded@live"
    assert mint.put(url, json={"revision": 1}).status_code == 200
    be_served_by(stack, mint, engine, name, 1)
    began = time.monotonic()
    assert mint.put(url, json={"revision": 3}).status_code == 200
    assert answered_by(stack, mint, name) == 1
    await_that(lambda: answered_by(stack, mint, name) == 3)
    assert time.monotonic() - began >= SWITCH_SECONDS - 0.5


def test_a_rule_moves_so_and_a_retired_revision_does_not_answer_on(stack, mint, engine) -> None:
    stack.make_policy("gentle", revisions=2)
    url, name = "/policies/gentle/aliases/prod", "gentle"
    assert mint.put(url, json={"revision": 1}).status_code == 200
    be_served_by(stack, mint, engine, name, 1)
    rule = {"suite": "s", "metric": "m", "at_least": 0.5}
    assert mint.post("/policies/gentle/rules", json=rule).status_code < 300
    score = {"revision": 2, "suite": "s", "metric": "m", "value": 0.9, "n": 3}
    assert mint.post("/policies/gentle/evaluations", json=score).status_code == 201
    await_that(lambda: mint.get(url).json()["revision"]["number"] == 2)
    assert answered_by(stack, mint, name) == 1
    assert mint.post(f"/policies/gentle/revisions/{digest_of(mint, 'gentle', 1)}/retire").status_code == 200
    assert answered_by(stack, mint, name) == 2


def test_what_waited_until_ready_is_seen_by_the_next_request(stack, mint, engine) -> None:
    stack.make_policy("sure", revisions=2)
    url, name = "/policies/sure/aliases/live", "sure@live"
    assert mint.put(url, json={"revision": 1}).status_code == 200
    be_served_by(stack, mint, engine, name, 1)
    assert mint.put(url, json={"revision": 2, "wait_ready": True}).status_code == 200
    assert answered_by(stack, mint, name) == 2


def test_an_engine_that_failed_is_believed_again_from_its_next_answer(stack, mint, engine) -> None:
    stack.make_policy("shaken", revisions=2)
    url, name = "/policies/shaken/aliases/live", "shaken@live"
    assert mint.put(url, json={"revision": 1}).status_code == 200
    engine.load(digest_of(mint, "shaken", 1))
    broken = {"model": stack.facts.name, "prompt": "BREAK", "max_tokens": 40}
    assert mint.post(f"{stack.url}/v1/completions", json=broken).status_code >= 500
    assert answered_by(stack, mint, name) == 1
    assert mint.put(url, json={"revision": 2}).status_code == 200
    assert answered_by(stack, mint, name) == 1


class wanted_digests:  # noqa: N801  # reads as a function
    """Collect which revisions somebody asks loaders for, in a thread of its own."""

    def __init__(self, stack) -> None:
        self._stack = stack
        self._found: list[str] = []

    def __enter__(self) -> list[str]:
        import threading

        self._opened, self._enough = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._collect()))
        self._thread.start()
        assert self._opened.wait(SECONDS)
        return self._found

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join(SECONDS)

    async def _collect(self) -> None:
        bus = await connect_nats(self._stack.nats_url, name="watch")
        async with bus.watch(subjects=[subjects_of(AdapterWanted)]) as messages:
            self._opened.set()
            async for message in messages:
                event = decode(message.data)[1]
                assert isinstance(event, AdapterWanted)
                self._found.append(event.revision.digest)
                break
        await bus.close()
