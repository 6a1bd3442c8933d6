"""What an engine computed that is not finite is told once and asked for no more, until it is in use again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.claims import RevisionRef
from mint_common.errors import NonFiniteOutput, Unavailable
from mint_common.events import AdapterNonFinite, RevisionPublished, RevisionRestored
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import Digest, PolicyId, TenantId
from services.loader.handlers.events import Handlers
from services.loader.handlers.prewarms import Prewarms
from services.loader.handlers.quarantining import Quarantined
from services.loader.ports import LoadedAdapter, WholeSample
from tests.testing.adapters import make_base_facts

Make = Callable[..., Awaitable[Any]]  # Any: Bench of conftest.py, which cannot be imported
BASE = make_base_facts().name
TENANT = TenantId("t")
GREEDY = Sampling(max_new_tokens=2, temperature=0.0)


@dataclass
class Poisoned:
    """The half of an engine that generates: what it is told is poison has no finite output."""

    poison: set[Digest] = field(default_factory=set)
    asked: list[Digest | None] = field(default_factory=list)
    error: Exception | None = None

    async def sample(
        self, request: SampleRequest, *, adapter: LoadedAdapter | None, **_: object
    ) -> WholeSample:
        """Answer nothing, or fail."""
        digest = adapter.digest if adapter else None
        self.asked.append(digest)
        await asyncio.sleep(0)
        error = self._error(digest)
        if error is not None:
            raise error
        return WholeSample(served=digest, sequences=(), prompt_logprobs=None, prompt_likeliest=None)

    def _error(self, digest: Digest | None) -> Exception | None:
        if self.error is not None:
            return self.error
        return NonFiniteOutput(digest=digest) if digest in self.poison and digest else None


def sampling(revision: RevisionRef | None, tenant: str = "t") -> SampleRequest:
    return SampleRequest(
        request_id="r", tenant_id=TenantId(tenant), revision=revision, tokens=(1, 2), sampling=GREEDY
    )


def told(bench: Any) -> list[tuple[str, Digest, int]]:
    return [
        (event.tenant_id, event.digest, event.sequence)
        for event in bench.announced.events
        if isinstance(event, AdapterNonFinite)
    ]


async def test_output_that_is_not_finite_is_told_once_and_its_revision_is_asked_no_more(
    make_bench: Make,
) -> None:
    bench = await make_bench()
    bad, good = await bench.revision(0), await bench.revision(1)
    engine = Poisoned(poison={bad.digest})
    serving = bench.serving(engine)
    with pytest.raises(NonFiniteOutput):
        await serving.sample(sampling(bad))
    for _ in range(3):
        with pytest.raises(NonFiniteOutput, match=bad.digest):
            await serving.sample(sampling(bad, "u"))
    assert engine.asked == [bad.digest]
    assert [(tenant, digest) for tenant, digest, _ in told(bench)] == [("t", bad.digest)]
    await serving.sample(sampling(good))
    await serving.sample(sampling(None))
    assert engine.asked == [bad.digest, good.digest, None]


async def test_many_at_once_are_told_once_and_all_end(make_bench: Make) -> None:
    bench = await make_bench(slots=1)
    bad, other = await bench.revision(0), await bench.revision(1)
    engine = Poisoned(poison={bad.digest})
    serving = bench.serving(engine)
    asked = [serving.sample(sampling(bad if i % 3 else other)) for i in range(12)]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(each, NonFiniteOutput) for each in ended] == [bool(i % 3) for i in range(12)]
    assert len(told(bench)) == 1
    assert serving.open_requests == 0


async def test_whoever_waits_for_the_load_meanwhile_does_not_run_it(make_bench: Make) -> None:
    bench = await make_bench()
    bad = await bench.revision(0)
    engine = Poisoned()
    serving = bench.serving(engine)
    bench.engine.gate.clear()
    waiting = asyncio.create_task(serving.sample(sampling(bad)))
    while not bench.engine.loads:
        await asyncio.sleep(0.001)
    bench.quarantined.note(bad.digest, tenant_id=TENANT, cause="r")
    bench.engine.gate.set()
    with pytest.raises(NonFiniteOutput):
        await waiting
    assert engine.asked == []
    status = bench.tiers.status(bad.digest)
    assert status.in_flight == 0


@pytest.mark.parametrize("how", ["restored", "published"])
async def test_a_revision_in_use_again_runs_again_and_is_told_again(make_bench: Make, how: str) -> None:
    bench = await make_bench()
    bad = await bench.revision(0)
    engine = Poisoned(poison={bad.digest})
    serving, handlers = (
        bench.serving(engine),
        Handlers(Prewarms(bench.tiers, bench.clock, at_once=1), bench.quarantined, bench.homes()),
    )
    with pytest.raises(NonFiniteOutput):
        await serving.sample(sampling(bad))
    if how == "restored":
        await handlers.on_revision_restored(
            RevisionRestored(
                tenant_id=TENANT,
                base=BASE,
                policy_id=PolicyId("p"),
                digest=bad.digest,
                revision=bad,
                sequence=2,
            )
        )
    else:
        await handlers.on_revision_published(
            RevisionPublished(
                tenant_id=TENANT,
                base=BASE,
                export_id="e",
                policy_id=PolicyId("p"),
                job_id=None,
                wave_id=None,
                revision=bad,
                parent=None,
                step=1,
                metrics={},
            )
        )
    for _ in range(2):
        with pytest.raises(NonFiniteOutput):
            await serving.sample(sampling(bad))
    assert engine.asked == [bad.digest] * 2
    first, second = told(bench)
    assert first[2] < second[2], "two facts, so that the second is no repetition"


async def test_nothing_else_quarantines(make_bench: Make) -> None:
    bench = await make_bench()
    mine, theirs = await bench.revision(0), await bench.revision(1)
    engine = Poisoned(error=Unavailable(what="the engine", problem="it died"))
    serving = bench.serving(engine)
    with pytest.raises(Unavailable):
        await serving.sample(sampling(mine))
    engine.error = NonFiniteOutput(digest=theirs.digest)
    for revision in (mine, None):
        with pytest.raises(NonFiniteOutput):
            await serving.sample(sampling(revision))
    engine.error = None
    await serving.sample(sampling(mine))
    await serving.sample(sampling(theirs))
    assert told(bench) == []


@dataclass
class Told:
    """What is told of revisions."""

    digests: list[Digest] = field(default_factory=list)

    def non_finite(self, digest: Digest, *, tenant_id: TenantId, cause: str) -> None:
        """Keep a digest."""
        self.digests.append(digest)


@given(
    most=st.integers(1, 5),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=40),
)
def test_a_quarantine_is_bounded_keeps_what_came_last_and_tells_of_each_once(
    most: int, steps: list[tuple[bool, int]]
) -> None:
    log, held, entered = Told(), list[Digest](), list[Digest]()
    quarantined = Quarantined(log, most=most)  # type: ignore[arg-type]  # the part of a log that is used here
    digests = [Digest(f"sha256:{number}") for number in range(9)]
    for enters, number in steps:
        digest = digests[number]
        if not enters:
            quarantined.lift(digest)
            held = [each for each in held if each != digest]
        else:
            quarantined.note(digest, tenant_id=TenantId("t"), cause="c")
            if digest not in held:
                entered.append(digest)
                held = [*held, digest][-most:]
        for each in digests:
            with pytest.raises(NonFiniteOutput) if each in held else nullcontext():
                quarantined.check(each)
    assert log.digests == entered
