"""Names, and adapters that no job exported: what the store promises of them."""

from dataclasses import replace

import pytest
from contract.catalog_rig import (
    BASE,
    NOW,
    OTHER,
    TENANT,
    Store,
    add_policy,
    by,
    export_of,
    new_policy,
    publish,
)

from mint_common.catalog import PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.errors import NotFound
from mint_common.events import RevisionPublished
from mint_common.ids import TenantId, sha256_digest
from services.registry.core.names import parse_model

pytestmark = pytest.mark.integration


async def _move(store: Store, policy: PolicyRecord, alias: str, target: RevisionRef) -> None:
    await store.aliases.move(policy, alias, target, by("a"), expected=None)


async def test_name_resolves_by_alias_number_digest_and_default(store: Store) -> None:
    policy = await add_policy(store)
    first, second, third = await publish(store, policy, 3)

    async def meaning(model: str) -> RevisionRef | None:
        found = await store.catalog.resolve(TENANT, parse_model(model))
        assert (found.base, found.policy_id, found.policy_name) == (BASE.name, policy.policy_id, "p")
        return found.revision

    assert await meaning("p") == third
    await _move(store, policy, "canary", second)
    assert await meaning("p") == third
    await _move(store, policy, "prod", first)
    assert await meaning("p") == first
    assert await meaning(policy.policy_id) == first
    assert await meaning("p@canary") == second
    assert await meaning("p@2") == second
    assert await meaning(f"p@{third.digest}") == third
    assert await meaning("p@latest") == third
    await _move(store, policy, "latest", first)
    assert await meaning("p@latest") == first


async def test_best_is_the_revision_whose_samples_had_the_highest_reward(store: Store) -> None:
    policy = await add_policy(store)
    with pytest.raises(NotFound, match="No revision named 'p@best'"):
        await store.catalog.resolve(TENANT, parse_model("p@best"))
    parent = None
    for step, reward in enumerate((0.2, 0.9, 0.5), 1):
        metrics = {"reward_mean": reward, "ratio_max_error": 0.0}
        export = replace(export_of(policy, step), parent=parent, metrics=metrics)
        await store.catalog.settle_export(export, None, now=NOW)
        parent = export.digest
    found = await store.catalog.resolve(TENANT, parse_model("p@best"))
    assert found.revision == (await store.catalog.best(policy.policy_id)).ref
    assert found.revision is not None
    assert found.revision.number == 1


async def test_a_wrong_name_is_answered_with_the_near_ones_of_its_own_tenant(store: Store) -> None:
    policy = await add_policy(store, "copier")
    await add_policy(store, "counter")
    (only,) = await publish(store, policy, 1)
    await _move(store, policy, "prod", only)

    async def near(model: str, tenant_id: TenantId = TENANT) -> str:
        with pytest.raises(NotFound) as refused:
            await store.catalog.resolve(tenant_id, parse_model(model))
        return str(refused.value)

    assert await near("copierr") == "No model named 'copierr'. There is: copier."
    assert await near("copierr@prod") == "No policy named 'copierr'. There is: copier."
    assert await near("copier@prdo") == (
        "No alias named 'copier@prdo'. There is: copier@prod, copier@1 (the latest)."
    )
    assert await near("copier@99") == "No revision named 'copier@99'. There is: copier@1 (the latest)."
    assert await near("copierr", OTHER) == "No model named 'copierr'."
    assert await near("copier@prod", OTHER) == "No policy named 'copier'."


async def test_name_that_means_nothing_is_not_found_by_what_is_missing(store: Store) -> None:
    policy = await add_policy(store)

    async def missing(model: str, tenant_id: TenantId = TENANT) -> str:
        with pytest.raises(NotFound) as refused:
            await store.catalog.resolve(tenant_id, parse_model(model))
        return str(refused.value.fields.get("kind", refused.value.code))

    assert await missing("p") == "no_revision"
    await publish(store, policy, 1)
    assert await missing("p@2") == "revision"
    assert await missing(f"p@{sha256_digest(b'other')}") == "revision"
    assert await missing("p@canary") == "alias"
    assert await missing("q@prod") == "policy"
    assert await missing("q") == "model"
    assert await missing("p", OTHER) == "model"
    assert await missing(f"{BASE.name}@prod") == "policy"


async def test_name_of_a_base_resolves_to_the_base(store: Store) -> None:
    found = await store.catalog.resolve(TENANT, parse_model(BASE.name))
    assert (found.base, found.policy_id, found.revision) == (BASE.name, None, None)


async def test_an_adapter_of_an_unknown_policy_is_not_published(store: Store) -> None:
    with pytest.raises(NotFound) as refused:
        await store.catalog.publish(export_of(new_policy("nowhere"), 1), now=NOW)
    assert refused.value.fields["kind"] == "policy"


async def test_adapters_of_no_job_are_numbered_like_exports(store: Store) -> None:
    policy = await add_policy(store)
    (known,) = await publish(store, policy, 1)
    batch = [export_of(policy, 2), export_of(policy, 1, "again"), export_of(policy, 3)]
    for export in [*batch, batch[0]]:
        await store.catalog.publish(export, now=NOW)
    found = await store.catalog.revisions(policy.policy_id, limit=9, after=0)
    assert [(revision.number, revision.step) for revision in found] == [(1, 1), (2, 2), (3, 3)]
    told = [event for event in await store.events() if isinstance(event, RevisionPublished)]
    second, third = found[1].ref, found[2].ref
    assert [event.revision for event in told] == [known, second, known, third, second]
    # A later delivery of the same export gets the same answer.
    await store.catalog.settle_export(batch[0], None, now=NOW)
    assert (await store.catalog.policy(TENANT, "p")).latest == third
