"""What describes policies, and lists of them."""

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

from mint_common.catalog import PolicyFilter, PolicyRecord, RevisionFilter
from mint_common.errors import AlreadyExists, InUse, InvalidField, NotFound, PreconditionFailed
from mint_common.events import PolicyChanged, PolicyCreated, PolicyRemoved, Retention, RevisionRejected
from mint_common.ids import PolicyId, TenantId
from services.registry.core.names import parse_model
from services.registry.core.policies import PolicyChange
from tests.testing.adapters import make_base_facts

pytestmark = pytest.mark.integration


async def told(store: Store) -> list[PolicyCreated | PolicyChanged]:
    return [event for event in await store.events() if isinstance(event, PolicyCreated | PolicyChanged)]


async def test_policy_is_described_when_made_and_later(store: Store) -> None:
    policy = replace(
        new_policy("p"), description="first", labels={"team": "search"}, retention=Retention(keep_last=3)
    )
    await store.catalog.add_policy(policy)
    assert await store.catalog.policy(TENANT, "p") == policy
    (latest,) = await publish(store, policy, 1)

    change = PolicyChange(description="second", labels={"team": None, "stage": "prod"})
    changed = await store.catalog.change_policy(policy.policy_id, change, expected=0)
    assert (changed.description, changed.labels, changed.changed) == ("second", {"stage": "prod"}, 1)
    assert (changed.retention, changed.latest) == (Retention(keep_last=3), latest)
    assert await store.catalog.policy(TENANT, "p") == changed
    assert await store.catalog.change_policy(policy.policy_id, change, expected=None) == changed
    with pytest.raises(PreconditionFailed):
        await store.catalog.change_policy(policy.policy_id, PolicyChange(description="x"), expected=0)
    with pytest.raises(InvalidField, match="labels"):
        await store.catalog.change_policy(policy.policy_id, PolicyChange(labels={"A": "b"}), expected=None)
    with pytest.raises(NotFound):
        await store.catalog.change_policy(PolicyId("pol_none"), change, expected=None)
    made, again = await told(store)
    assert isinstance(made, PolicyCreated)
    assert (made.labels, made.retention) == ({"team": "search"}, Retention(keep_last=3))
    assert isinstance(again, PolicyChanged)
    assert (again.changed, again.labels) == (1, {"stage": "prod"})


async def test_policy_that_could_not_be_made_is_not_told(store: Store) -> None:
    await add_policy(store)
    with pytest.raises(AlreadyExists):
        await add_policy(store)
    with pytest.raises(NotFound, match="ten_none"):
        await add_policy(store, tenant_id=TenantId("ten_none"))
    await store.catalog.add_policy(replace(new_policy("r"), labels={"a": "1"}))
    assert [event.name for event in await told(store) if isinstance(event, PolicyCreated)] == ["p", "r"]
    found = await store.catalog.policies(TENANT, PolicyFilter(labels=(("a", "1"),)), limit=9, after=None)
    assert [policy.name for policy in found] == ["r"]


async def _listed(
    store: Store, wanted: PolicyFilter, *, limit: int = 9, after: str | None = None
) -> list[str]:
    return [p.name for p in await store.catalog.policies(TENANT, wanted, limit=limit, after=after)]


async def test_policies_are_selected_by_base_labels_and_time(store: Store) -> None:
    await store.catalog.put_base(make_base_facts(name="boulder"), now=NOW)
    rows: list[PolicyRecord] = [
        replace(new_policy("a"), labels={"team": "x", "stage": "prod"}, created_at=NOW + 3),
        replace(new_policy("b"), labels={"team": "x"}, created_at=NOW + 2),
        replace(new_policy("c"), labels={"team": "y", "stage": "prod"}, created_at=NOW + 2),
        replace(new_policy("d"), base=make_base_facts(name="boulder").name, created_at=NOW + 1),
        replace(new_policy("e", OTHER), labels={"team": "x"}),
    ]
    for row in rows:
        await store.catalog.add_policy(row)
    await publish(store, rows[0], 1)

    assert await _listed(store, PolicyFilter()) == ["a", "b", "c", "d"]
    assert await _listed(store, PolicyFilter(base="boulder")) == ["d"]
    assert await _listed(store, PolicyFilter(base=BASE.name), limit=2, after="a") == ["b", "c"]
    team = PolicyFilter(labels=(("team", "x"),))
    assert await _listed(store, team) == ["a", "b"]
    assert await _listed(store, team, after="a") == ["b"]
    assert await _listed(store, PolicyFilter(labels=(("stage", "prod"), ("team", "x")))) == ["a"]
    assert await _listed(store, replace(team, base="boulder")) == []

    since = PolicyFilter(created_after=NOW + 2)
    assert await _listed(store, since) == ["b", "c", "a"]
    assert await _listed(store, since, limit=1, after="b") == ["c"]
    assert await _listed(store, since, after="c") == ["a"]
    assert await _listed(store, PolicyFilter(created_before=NOW + 3)) == ["d", "b", "c"]
    assert await _listed(store, replace(team, created_after=NOW, created_before=NOW + 3)) == ["b"]
    with pytest.raises(InvalidField, match="after"):
        await _listed(store, since, after="nobody")
    (first,) = await store.catalog.policies(TENANT, team, limit=1, after=None)
    assert first.latest is not None


async def test_relabelled_policy_is_found_by_its_new_labels_alone(store: Store) -> None:
    policy = await add_policy(store)
    for labels in ({"team": "x"}, {"team": "y"}):
        await store.catalog.change_policy(policy.policy_id, PolicyChange(labels=labels), expected=None)
    assert await _listed(store, PolicyFilter(labels=(("team", "x"),))) == []
    assert await _listed(store, PolicyFilter(labels=(("team", "y"),))) == ["p"]


async def test_revisions_are_selected_by_state_and_time(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, 4)
    await store.catalog.set_state(policy, 2, "retired")

    async def numbers(wanted: RevisionFilter, after: int = 0) -> list[int]:
        found = await store.catalog.revisions(policy.policy_id, wanted, limit=9, after=after)
        return [revision.number for revision in found]

    assert await numbers(RevisionFilter(state="published")) == [1, 3, 4]
    assert await numbers(RevisionFilter(state="retired")) == [2]
    assert await numbers(RevisionFilter(created_after=NOW + 2, created_before=NOW + 4)) == [2, 3]
    assert await numbers(RevisionFilter(state="published", created_after=NOW + 2), after=3) == [4]


async def test_a_removed_policy_is_not_there_and_its_name_is_free(store: Store) -> None:
    policy = replace(new_policy("p"), labels={"team": "search"})
    await store.catalog.add_policy(policy)
    first, second = await publish(store, policy, 2)
    await store.catalog.remove_policy(policy, actor="ada")
    assert await store.catalog.policies(TENANT, limit=9, after=None) == []
    by_time = PolicyFilter(created_after=0.0)
    assert await store.catalog.policies(TENANT, by_time, limit=9, after=None) == []
    labelled = PolicyFilter(labels=(("team", "search"),))
    assert await store.catalog.policies(TENANT, labelled, limit=9, after=None) == []
    assert await store.aliases.names(TENANT, limit=9) == []
    assert await store.owners.of_digests(TENANT, [first.digest, second.digest]) == []
    for name in ("p", policy.policy_id):
        with pytest.raises(NotFound):
            await store.catalog.policy(TENANT, name)
        with pytest.raises(NotFound):
            await store.catalog.resolve(TENANT, parse_model(name))
    with pytest.raises(NotFound):
        await store.catalog.remove_policy(policy, actor="ada")
    removed = [event for event in await store.events() if isinstance(event, PolicyRemoved)]
    assert [(event.policy_id, event.name, event.actor) for event in removed] == [
        (policy.policy_id, "p", "ada")
    ]
    again = replace(new_policy("p"), policy_id=PolicyId(f"pol_{'a' * 26}"))
    await store.catalog.add_policy(again)
    await publish(store, again, 1)
    found = await store.catalog.resolve(TENANT, parse_model("p"))
    assert found.policy_id == again.policy_id


async def test_an_export_of_a_removed_policy_is_refused(store: Store) -> None:
    policy = await add_policy(store)
    await store.catalog.remove_policy(policy, actor="ada")
    await store.catalog.settle_export(export_of(policy, 1), None, now=NOW)
    (rejected,) = [event for event in await store.events() if isinstance(event, RevisionRejected)]
    assert rejected.code == "not_found"
    with pytest.raises(NotFound):
        await store.catalog.publish(export_of(policy, 2), now=NOW)


async def test_what_holds_a_policy_is_named(store: Store) -> None:
    policy = await add_policy(store)
    (first,) = await publish(store, policy, 1)
    for alias in ("prod", "old"):
        await store.aliases.move(policy, alias, first, by("a"), expected=None)
    await store.aliases.remove(policy, "old", by("a"))
    with pytest.raises(InUse, match="Policy 'p' cannot be removed: remove first what holds it: alias prod"):
        await store.catalog.remove_policy(policy, actor="ada")
    assert (await store.catalog.policy(TENANT, "p")).latest == first


async def test_bytes_of_a_removed_policy_are_collected(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, 2)
    await store.catalog.remove_policy(policy, actor="ada")
    assert await store.integrity.candidates(after="", limit=9) == [policy.policy_id]
    known, revisions = await store.integrity.revisions_of(policy.policy_id)
    assert revisions.is_removed
    assert [revision.retired_at is not None for revision in revisions.revisions] == [True, True]
    assert await store.integrity.release_bytes(known, 2)
