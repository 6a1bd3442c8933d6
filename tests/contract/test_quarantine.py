"""Revisions out of use for what they did on an engine: everywhere at once, and back by their owner's word."""

from dataclasses import replace

import pytest
from contract.catalog_rig import NOW, OTHER, TENANT, Store, add_policy, by, export_of, publish

from mint_common.catalog import RevisionFilter
from mint_common.errors import AlreadyHandled, RevisionQuarantinedError
from mint_common.events import RevisionQuarantined, RevisionRestored
from services.registry.core.names import parse_model

pytestmark = pytest.mark.integration


async def test_quarantine_takes_equal_bytes_out_of_use_in_every_tenant_until_their_owners_restore_them(
    store: Store,
) -> None:
    mine, theirs = await add_policy(store), await add_policy(store, "q", OTHER)
    good, bad = await publish(store, mine, 2)
    copy = replace(export_of(theirs, 9), digest=bad.digest)
    await store.catalog.settle_export(copy, None, now=NOW)
    await store.aliases.move(mine, "prod", bad, by("a"), expected=None)

    found = await store.integrity.quarantine(bad.digest, "non_finite_output", cause="evt_1")
    assert {(held.tenant_id, held.number) for held in found} == {(TENANT, 2), (OTHER, 1)}
    for tenant, name in ((TENANT, "p@2"), (TENANT, "p@prod"), (OTHER, "q"), (OTHER, "q@1")):
        with pytest.raises(RevisionQuarantinedError, match="roll back or restore it"):
            await store.catalog.resolve(tenant, parse_model(name))
    assert (await store.catalog.resolve(TENANT, parse_model("p@1"))).revision == good
    assert (await store.aliases.alias(mine.policy_id, "prod")).revision == bad, "aliases go on pointing"
    with pytest.raises(RevisionQuarantinedError):
        await store.aliases.move(mine, "canary", bad, by("a"), expected=None)
    assert (await store.catalog.policy(TENANT, "p")).latest == good
    listed = await store.catalog.revisions(
        mine.policy_id, RevisionFilter(state="quarantined"), limit=9, after=0
    )
    assert [revision.number for revision in listed] == [2]

    with pytest.raises(AlreadyHandled):
        await store.integrity.quarantine(bad.digest, "non_finite_output", cause="evt_1")
    assert await store.integrity.quarantine(bad.digest, "non_finite_output", cause="evt_2") == []
    assert (await store.catalog.set_state(mine, 2, "published")).state == "published"
    assert (await store.catalog.resolve(TENANT, parse_model("p@prod"))).revision == bad
    with pytest.raises(AlreadyHandled):
        await store.integrity.quarantine(bad.digest, "non_finite_output", cause="evt_1")
    assert (await store.catalog.revision(mine.policy_id, 2)).state == "published", "a restoration stands"
    with pytest.raises(RevisionQuarantinedError):
        await store.catalog.resolve(OTHER, parse_model("q"))
    await store.integrity.quarantine(bad.digest, "non_finite_output", cause="evt_3")

    told = [
        event for event in await store.events() if isinstance(event, RevisionQuarantined | RevisionRestored)
    ]
    assert sorted((event.tenant_id, event.sequence, event.type) for event in told) == [
        (TENANT, 1, "revision.quarantined"),
        (TENANT, 2, "revision.restored"),
        (TENANT, 3, "revision.quarantined"),
        (OTHER, 1, "revision.quarantined"),
    ]


async def test_a_quarantined_revision_can_be_retired_and_one_that_is_retired_stays_so(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)
    await store.integrity.quarantine(first.digest, "non_finite_output", cause="evt_1")
    assert (await store.catalog.set_state(policy, 1, "retired")).state == "retired"
    await store.catalog.set_state(policy, 2, "retired")
    assert await store.integrity.quarantine(second.digest, "non_finite_output", cause="evt_2") == []
    assert (await store.catalog.revision(policy.policy_id, 2)).state == "retired"
