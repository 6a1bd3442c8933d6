"""Events load ahead of need; what can be repaired is tried again, what can't is not."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import Overloaded
from mint_common.events import AdapterWanted, AliasMoved, RevisionPublished
from mint_common.ids import PolicyId, TenantId
from mint_common.testing.adapters import make_base_facts
from services.loader.handlers.events import Handlers

Make = Callable[..., Awaitable[Any]]  # Any: Bench of conftest.py, which cannot be imported
BASE = make_base_facts().name
TENANT = TenantId("t")


def published(revision: RevisionRef) -> RevisionPublished:
    return RevisionPublished(
        tenant_id=TENANT,
        base=BASE,
        export_id="e",
        policy_id=PolicyId("p"),
        job_id=None,
        wave_id=None,
        revision=revision,
        parent=None,
        step=1,
        metrics={},
    )


def moved(revision: RevisionRef) -> AliasMoved:
    return AliasMoved(
        tenant_id=TENANT,
        base=BASE,
        policy_id=PolicyId("p"),
        alias="prod",
        sequence=1,
        previous=None,
        revision=revision,
        actor="a",
        reason="",
    )


def wanted(revision: RevisionRef) -> AdapterWanted:
    return AdapterWanted(tenant_id=TENANT, base=BASE, request_id="r", revision=revision, priority="prefetch")


async def test_each_event_ends_when_its_adapter_is_ready(make_bench: Make) -> None:
    bench = await make_bench()
    handlers = Handlers(bench.tiers, bench.quarantined)
    first, second, third = [await bench.revision(seed) for seed in range(3)]
    assert await handlers.on_revision_published(published(first)) == ()
    assert await handlers.on_alias_moved(moved(second)) == ()
    assert await handlers.on_adapter_wanted(wanted(third)) == ()
    assert bench.engine.loads == [first.digest, second.digest, third.digest]
    assert await handlers.on_alias_moved(moved(first)) == ()
    assert bench.kinds() == ["adapter.loaded"] * 3


async def test_an_adapter_that_can_never_load_ends_its_event(make_bench: Make) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    gone = Claim(uri="revisions/p/none/mint_manifest.json", sha256="0" * 64, size_bytes=1)
    lost = RevisionRef(digest=revision.digest, number=1, manifest=gone)
    assert await Handlers(bench.tiers, bench.quarantined).on_revision_published(published(lost)) == ()
    assert bench.kinds() == ["adapter.failed"]


async def test_a_full_engine_leaves_its_event_to_be_tried_again(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1)
    first, second = await bench.revision(0), await bench.revision(1)
    async with bench.tiers.hold(first, tenant_id=TENANT, cause="req"):
        with pytest.raises(Overloaded):
            await Handlers(bench.tiers, bench.quarantined).on_revision_published(published(second))
    await Handlers(bench.tiers, bench.quarantined).on_revision_published(published(second))
