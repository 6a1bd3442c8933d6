"""What the registry decided about an export: heard on the bus, or asked for when nothing was heard."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from mint_common.catalog import RevisionRecord
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import NotFound
from mint_common.events import LoraSpec, RevisionPublished, RevisionRejected
from mint_common.ids import BaseName, Digest, PolicyId, TenantId
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import publish_event
from mint_common.training import Exported
from services.gateway.adapters import tinker_exports
from services.gateway.adapters.tinker_exports import ExportDecisions, ExportLost
from services.gateway.core.tinker.records import TrainingRun
from tests.testing.bus_memory import MemoryBus

DIGEST = Digest("sha256:" + 64 * "0")
CLAIM = Claim(uri="u", sha256=64 * "0", size_bytes=1)
REF = RevisionRef(digest=DIGEST, number=1, manifest=CLAIM)
EXPORT = Exported(export_id="exp_1", digest=DIGEST, step=1, checkpoint=None)
RUN = TrainingRun(
    model_id="m",
    session_id="s",
    tenant_id=TenantId("ten"),
    policy_id=PolicyId("pol"),
    base=BaseName("tiny"),
    base_model="tiny",
    lora=LoraSpec(rank=1, alpha=1.0, targets=("q_proj",), seed=0),
    train_attn=True,
    train_mlp=True,
    is_trained=True,
    metadata={},
    created_at=0.0,
)
COMMON = {
    "tenant_id": RUN.tenant_id,
    "base": RUN.base,
    "policy_id": RUN.policy_id,
    "job_id": None,
    "wave_id": None,
}
PUBLISHED = RevisionPublished(**COMMON, export_id="exp_1", revision=REF, parent=None, step=1, metrics={})
REJECTED = RevisionRejected(**COMMON, export_id="exp_1", digest=DIGEST, code="c", reason="too odd")


class Registry:
    """Knows the revision, or not."""

    def __init__(self, known: RevisionRecord | None = None) -> None:
        self.known = known

    async def get_revision(self, *_: object) -> RevisionRecord:
        if self.known is None:
            raise NotFound(kind="revision", name="x")
        return self.known


async def silent() -> None:
    """Nobody hears it."""


@asynccontextmanager
async def following(registry: Registry):
    clock = SystemClock()
    bus = MemoryBus(clock)
    decisions = ExportDecisions(registry, clock)  # type: ignore[arg-type]  # the one method that it calls
    task = asyncio.create_task(decisions.follow(bus))
    await asyncio.sleep(0)
    try:
        yield decisions, bus
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(("event", "decision"), [(PUBLISHED, REF), (REJECTED, REJECTED)])
@pytest.mark.parametrize("is_early", [True, False])
async def test_the_bus_tells(event, decision, is_early):
    async with following(Registry()) as (decisions, bus):
        if is_early:
            await publish_event(bus, event, cause="c", now=0.0)
        waiting = [
            asyncio.create_task(decisions.of(RUN, EXPORT, wait_seconds=5, remind=silent)) for _ in range(2)
        ]
        await asyncio.sleep(0)
        if not is_early:
            await publish_event(bus, event, cause="c", now=0.0)
        assert await asyncio.gather(*waiting) == [decision, decision]


async def test_the_registry_is_asked_when_the_bus_is_silent():
    record = RevisionRecord(
        digest=DIGEST,
        number=1,
        manifest=CLAIM,
        parent=None,
        step=1,
        metrics={},
        state="published",
        job_id=None,
        wave_id=None,
        created_at=0.0,
    )
    async with following(Registry(record)) as (decisions, _):
        assert await decisions.of(RUN, EXPORT, wait_seconds=5, remind=silent) == REF


async def test_a_refusal_that_was_missed_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(tinker_exports, "FIRST_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(tinker_exports, "LOOK_SECONDS", 0.002)
    reminded = []

    async with following(Registry()) as (decisions, bus):

        async def remind() -> None:
            reminded.append(1)
            await publish_event(bus, REJECTED, cause="c", now=0.0)

        assert await decisions.of(RUN, EXPORT, wait_seconds=5, remind=remind) == REJECTED
    assert reminded == [1]


async def test_nobody_waits_for_ever(monkeypatch):
    async with following(Registry()) as (decisions, _):
        assert await decisions.of(RUN, EXPORT, wait_seconds=0.01, remind=silent) is None
        monkeypatch.setattr(tinker_exports, "LOST_SECONDS", 0.0)
        with pytest.raises(ExportLost):
            await decisions.of(RUN, EXPORT, wait_seconds=0.01, remind=silent)
