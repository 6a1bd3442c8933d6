"""Names and batches: what the store promises of them."""

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
from mint_common.errors import (
    AlreadyExists,
    InvalidField,
    NotFound,
)
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


async def test_many_policies_are_added_all_or_none(store: Store) -> None:
    await add_policy(store, "taken")
    for refused, names in (
        (AlreadyExists, ("one", "taken")),
        (InvalidField, ("one", BASE.name)),
        (NotFound, ("one", "two")),
    ):
        tenant_id = TenantId("nobody") if refused is NotFound else TENANT
        with pytest.raises(refused):
            await store.catalog.add_policies([new_policy(name, tenant_id) for name in names])
    assert [policy.name for policy in await store.catalog.policies(TENANT, limit=9, after=None)] == ["taken"]
    await store.catalog.add_policies([new_policy("one"), new_policy("two")])
    assert (await store.catalog.policy(TENANT, "two")).lora == new_policy("two").lora


async def test_many_revisions_are_numbered_like_single_ones(store: Store) -> None:
    one, two = await add_policy(store, "one"), await add_policy(store, "two")
    known = await publish(store, one, 1)
    batch = [export_of(one, 2), export_of(two, 1), export_of(one, 1, "again"), export_of(one, 3)]
    batch.append(export_of(one, 2, "twice"))
    refs = await store.catalog.publish_many(batch, now=NOW, announce=True)
    assert [ref.number for ref in refs] == [2, 1, 1, 3, 2]
    assert refs[2] == known[0]
    found = await store.catalog.revisions(one.policy_id, limit=9, after=0)
    assert [(revision.number, revision.step) for revision in found] == [(1, 1), (2, 2), (3, 3)]
    told = [event for event in await store.events() if isinstance(event, RevisionPublished)]
    assert [event.revision for event in told[1:]] == list(refs)
    # A later delivery of the same export gets the same answer.
    await store.catalog.settle_export(batch[0], None, now=NOW)
    assert (await store.catalog.policy(TENANT, "one")).latest == refs[3]


async def test_quiet_import_tells_nothing_and_unknown_policy_imports_nothing(store: Store) -> None:
    one = await add_policy(store, "one")
    told = await store.events()
    await store.catalog.publish_many([export_of(one, 1)], now=NOW, announce=False)
    assert await store.events() == told
    with pytest.raises(NotFound):
        await store.catalog.publish_many(
            [export_of(one, 2), export_of(new_policy("gone"), 1)], now=NOW, announce=False
        )
    assert len(await store.catalog.revisions(one.policy_id, limit=9, after=0)) == 1
