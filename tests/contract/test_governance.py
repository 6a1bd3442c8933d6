"""Keys, protection, retirement: the rest of the store's promises."""

import asyncio
from dataclasses import replace

import pytest
from contract.catalog_rig import (
    NOW,
    OTHER,
    TENANT,
    Store,
    add_authority,
    add_policy,
    by,
    publish,
)

from mint_common.catalog import RuleRecord
from mint_common.claims import RevisionRef
from mint_common.errors import (
    AliasProtected,
    AlreadyHandled,
    Forbidden,
    InUse,
    InvalidField,
    NoRevision,
    NotFound,
    PreconditionFailed,
    RevisionInUse,
    RevisionRetiredError,
    Unauthorized,
)
from mint_common.events import AliasRemoved, RevisionRestored, RevisionRetired
from services.registry.core.keys import hash_key, stored_key
from services.registry.core.names import parse_model

pytestmark = pytest.mark.integration

RULE = RuleRecord(
    rule_id="rule_1",
    alias="prod",
    suite="s",
    metric="m",
    at_least=0.5,
    max_drop=None,
    roll_back_below=None,
    actor="a",
    created_at=NOW,
)


async def test_key_is_rotated_revoked_and_remembers_its_last_use(store: Store) -> None:
    key = stored_key("tml-one", key_id="key_1", tenant_id=TENANT, name="ci", now=NOW, scopes=("read",))
    await store.accounts.put_key(key)
    (record,) = await store.accounts.keys(TENANT)
    assert (record.scopes, record.last_used_at, record.revoked_at) == (("read",), None, None)
    for now in (NOW + 1, NOW + 30, NOW + 90):
        owner = await store.accounts.owner_of(hash_key("tml-one"), now=now)
        assert owner is not None
        assert owner.scopes == ("read",)
    (record,) = await store.accounts.keys(TENANT)
    assert record.last_used_at == NOW + 90

    by = await add_authority(store, TENANT, "admin")
    changed = replace(key, key_hash=hash_key("tml-two"), shown="tml-two")
    rotated = await store.accounts.replace_key(changed, by)
    assert (rotated.name, rotated.shown) == ("ci", "tml-two")
    assert await store.accounts.owner_of(hash_key("tml-one"), now=NOW) is None
    with pytest.raises(NotFound):
        await store.accounts.revoke_key(OTHER, "key_1", await add_authority(store, OTHER, "admin"), now=NOW)
    for _ in range(2):
        await store.accounts.revoke_key(TENANT, "key_1", by, now=NOW)
    assert await store.accounts.owner_of(hash_key("tml-two"), now=NOW) is None
    with pytest.raises(NotFound):
        await store.accounts.replace_key(key, by)
    assert [tenant.name for tenant in await store.accounts.tenants(limit=9, after=None)] == [TENANT, OTHER]
    assert [tenant.name for tenant in await store.accounts.tenants(limit=9, after=TENANT)] == [OTHER]


async def test_another_key_under_a_revoked_id_opens_again_and_the_revoked_one_does_not(store: Store) -> None:
    key = stored_key("tml-one", key_id="key_1", tenant_id=TENANT, name="bootstrap", now=NOW)
    await store.accounts.put_key(key)
    await store.accounts.revoke_key(TENANT, "key_1", await add_authority(store, TENANT, "admin"), now=NOW)
    await store.accounts.put_key(key)
    assert await store.accounts.owner_of(hash_key("tml-one"), now=NOW) is None
    await store.accounts.put_key(replace(key, key_hash=hash_key("tml-two")))
    assert await store.accounts.owner_of(hash_key("tml-two"), now=NOW) is not None
    assert await store.accounts.owner_of(hash_key("tml-one"), now=NOW) is None
    record = next(each for each in await store.accounts.keys(TENANT) if each.key_id == "key_1")
    assert record.revoked_at is None


async def test_a_key_with_more_scopes_is_neither_made_nor_rotated_nor_revoked(store: Store) -> None:
    operator = stored_key("tml-o", key_id="key_o", tenant_id=TENANT, name="o", now=NOW, scopes=("operator",))
    await store.accounts.put_key(operator)
    admin = await add_authority(store, TENANT, "admin")
    attempts = (
        lambda: store.accounts.add_key(replace(operator, key_id="key_n", key_hash=hash_key("n")), admin),
        lambda: store.accounts.replace_key(replace(operator, key_hash=hash_key("n")), admin),
        lambda: store.accounts.revoke_key(TENANT, "key_o", admin, now=NOW),
    )
    for attempt in attempts:
        with pytest.raises(Forbidden, match="this one lacks operator"):
            await attempt()
    assert await store.accounts.owner_of(operator.key_hash, now=NOW) is not None


async def test_an_admin_changes_keys_of_its_own_tenant_only(store: Store) -> None:
    admin = await add_authority(store, TENANT, "admin")
    reader = stored_key("tml-r", key_id="key_r", tenant_id=OTHER, name="r", now=NOW, scopes=("read",))
    with pytest.raises(Forbidden, match="operator"):
        await store.accounts.add_key(reader, admin)
    await store.accounts.put_key(reader)
    with pytest.raises(Forbidden, match="operator"):
        await store.accounts.replace_key(replace(reader, key_hash=hash_key("n")), admin)
    await store.accounts.add_key(
        replace(reader, key_id="key_own", tenant_id=TENANT, key_hash=hash_key("o")), admin
    )


async def test_a_revoked_key_changes_no_key(store: Store) -> None:
    admin = await add_authority(store, TENANT, "admin")
    key = stored_key("tml-k", key_id="key_k", tenant_id=TENANT, name="k", now=NOW, scopes=("read",))
    await store.accounts.add_key(key, admin)
    await store.accounts.revoke_key(TENANT, admin.key_id, admin, now=NOW)
    attempts = (
        lambda: store.accounts.add_key(replace(key, key_id="key_n", key_hash=hash_key("n")), admin),
        lambda: store.accounts.replace_key(replace(key, key_hash=hash_key("n")), admin),
        lambda: store.accounts.revoke_key(TENANT, "key_k", admin, now=NOW),
    )
    for attempt in attempts:
        with pytest.raises(Unauthorized):
            await attempt()
    assert await store.accounts.owner_of(hash_key("tml-k"), now=NOW) is not None


async def test_protected_alias_is_moved_by_admins_alone(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)
    await store.aliases.move(policy, "prod", first, by("a"), expected=None)
    await store.aliases.set_flags(policy.policy_id, "prod", protected=True)
    plain = replace(by("a"), is_admin=False)
    with pytest.raises(AliasProtected):
        await store.aliases.move(policy, "prod", second, plain, expected=None)
    with pytest.raises(AliasProtected):
        await store.aliases.roll_back(policy, "prod", plain, expected=None)
    await store.aliases.move(policy, "prod", second, by("admin"), expected=None)
    assert (await store.aliases.alias(policy.policy_id, "prod")).protected
    await store.aliases.set_flags(policy.policy_id, "prod", protected=False)
    await store.aliases.move(policy, "prod", first, plain, expected=None)
    (listed,) = await store.aliases.aliases(policy.policy_id)
    assert not listed.protected
    with pytest.raises(NotFound):
        await store.aliases.set_flags(policy.policy_id, "none", protected=True)


async def test_history_comes_in_pages_newest_first(store: Store) -> None:
    policy = await add_policy(store)
    refs = await publish(store, policy, 2)
    for number in range(5):
        await store.aliases.move(policy, "prod", refs[number % 2], by("a"), expected=None)
    page = await store.aliases.history(policy.policy_id, "prod", limit=2, before=None)
    assert [move.sequence for move in page] == [5, 4]
    rest = await store.aliases.history(policy.policy_id, "prod", limit=9, before=4)
    assert [move.sequence for move in rest] == [3, 2, 1]
    for first in (1, 0):
        assert await store.aliases.history(policy.policy_id, "prod", limit=9, before=first) == []
    with pytest.raises(NotFound):
        await store.aliases.history(policy.policy_id, "none", limit=9, before=None)


async def test_repeated_cause_moves_once(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)
    mover = replace(by("a"), cause="rule_x")
    await store.aliases.move(policy, "prod", first, mover, expected=None)
    with pytest.raises(AlreadyHandled):
        await store.aliases.move(policy, "prod", second, mover, expected=None)
    assert (await store.aliases.alias(policy.policy_id, "prod")).revision == first


async def test_retired_revision_is_named_by_nothing_until_it_is_restored(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)
    await store.aliases.move(policy, "prod", second, by("a"), expected=None)
    with pytest.raises(RevisionInUse):
        await store.catalog.set_state(policy, 2, "retired")
    for _ in range(2):
        assert (await store.catalog.set_state(policy, 1, "retired")).state == "retired"
    with pytest.raises(RevisionRetiredError):
        await store.catalog.resolve(TENANT, parse_model("p@1"))
    with pytest.raises(RevisionRetiredError):
        await store.aliases.move(policy, "canary", first, by("a"), expected=None)
    assert (await store.catalog.set_state(policy, 1, "published")).state == "published"
    assert (await store.catalog.resolve(TENANT, parse_model("p@1"))).revision == first
    await store.catalog.set_state(policy, 1, "retired")
    changes = (RevisionRetired, RevisionRestored)
    told = [event for event in await store.events() if isinstance(event, changes)]
    assert [(event.type, event.digest, event.sequence) for event in told] == [
        ("revision.retired", first.digest, 1),
        ("revision.restored", first.digest, 2),
        ("revision.retired", first.digest, 3),
    ]
    with pytest.raises(NotFound):
        await store.catalog.set_state(policy, 9, "retired")


async def test_many_retirements_at_once_do_not_wait_for_each_other(store: Store) -> None:
    policies = [await add_policy(store, f"many-{number}") for number in range(40)]
    for policy in policies:
        await publish(store, policy, 2)
    async with asyncio.timeout(20):
        changed = await asyncio.gather(
            *(store.catalog.set_state(policy, 1, "retired") for policy in policies)
        )
    assert {revision.state for revision in changed} == {"retired"}


async def test_newest_published_revision_is_what_a_bare_name_means(store: Store) -> None:
    policy = await add_policy(store)
    first, _ = await publish(store, policy, 2)
    await store.catalog.set_state(policy, 2, "retired")
    assert (await store.catalog.resolve(TENANT, parse_model("p"))).revision == first
    assert (await store.catalog.policy(TENANT, "p")).latest == first
    await store.catalog.set_state(policy, 1, "retired")
    with pytest.raises(NoRevision):
        await store.catalog.resolve(TENANT, parse_model("p"))


async def test_roll_back_does_not_return_to_a_retired_revision(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)
    for target in (first, second):
        await store.aliases.move(policy, "prod", target, by("a"), expected=None)
    await store.catalog.set_state(policy, 1, "retired")
    with pytest.raises(RevisionRetiredError):
        await store.aliases.roll_back(policy, "prod", by("a"), expected=None)
    assert (await store.aliases.alias(policy.policy_id, "prod")).revision == second


async def test_aliases_and_keys_come_in_pages(store: Store) -> None:
    policy = await add_policy(store)
    (one,) = await publish(store, policy, 1)
    for name in "abc":
        await store.aliases.move(policy, name, one, by("ann"), expected=None)
        await store.accounts.put_key(
            stored_key(f"tml-{name}", key_id=f"key_{name}", tenant_id=TENANT, name="ci", now=NOW)
        )
    first = await store.aliases.aliases(policy.policy_id, limit=2)
    rest = await store.aliases.aliases(policy.policy_id, limit=2, after=first[-1].alias)
    assert [[alias.alias for alias in page] for page in (first, rest)] == [["a", "b"], ["c"]]
    keys = await store.accounts.keys(TENANT, limit=2)
    others = await store.accounts.keys(TENANT, limit=2, after=keys[-1].key_id)
    assert [[key.key_id for key in page] for page in (keys, others)] == [["key_a", "key_b"], ["key_c"]]


async def test_a_removed_alias_resolves_to_nothing_and_its_history_goes_on(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)

    async def move(alias: str, target: RevisionRef, *, expected: str | None = None) -> int:
        return (await store.aliases.move(policy, alias, target, by("a"), expected=expected)).sequence

    await move("prdo", first)
    await move("prdo", second)
    await store.aliases.set_flags(policy.policy_id, "prdo", frozen=True)
    await store.aliases.remove(policy, "prdo", replace(by("a"), reason="misspelt"))
    assert await store.aliases.aliases(policy.policy_id) == []
    with pytest.raises(NotFound):
        await store.catalog.resolve(TENANT, parse_model("p@prdo"))
    for gone in (
        store.aliases.alias(policy.policy_id, "prdo"),
        store.aliases.roll_back(policy, "prdo", by("a"), expected=None),
        store.aliases.set_flags(policy.policy_id, "prdo", frozen=True),
        store.aliases.remove(policy, "prdo", by("a")),
    ):
        with pytest.raises(NotFound):
            await gone
    (names,) = await store.aliases.names(TENANT, limit=9)
    assert names.aliases == {}
    history = await store.aliases.history(policy.policy_id, "prdo", limit=9, before=None)
    assert [(row.sequence, row.number, row.removed, row.reason) for row in history] == [
        (3, 2, True, "misspelt"),
        (2, 2, False, "because"),
        (1, 1, False, "because"),
    ]
    removed = [event for event in await store.events() if isinstance(event, AliasRemoved)]
    assert [(event.alias, event.sequence, event.digest) for event in removed] == [("prdo", 3, second.digest)]
    await store.catalog.set_state(policy, 2, "retired")  # nothing points there any more
    with pytest.raises(PreconditionFailed):
        await move("prdo", first, expected=second.digest)
    assert await move("prdo", first, expected="") == 4
    again = await store.aliases.alias(policy.policy_id, "prdo")
    assert (again.revision.number, again.frozen, again.history[-1].previous) == (1, False, None)
    with pytest.raises(InvalidField, match="no earlier revision"):
        await store.aliases.roll_back(policy, "prdo", by("a"), expected=None)


async def test_an_alias_without_its_name_prod_leaves_the_newest_revision(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)
    await store.aliases.move(policy, "prod", first, by("a"), expected=None)
    assert (await store.catalog.resolve(TENANT, parse_model("p"))).revision == first
    await store.aliases.remove(policy, "prod", by("a"))
    assert (await store.catalog.resolve(TENANT, parse_model("p"))).revision == second


async def test_what_holds_an_alias_is_named(store: Store) -> None:
    policy = await add_policy(store)
    (first,) = await publish(store, policy, 1)
    await store.aliases.move(policy, "prod", first, by("a"), expected=None)
    await store.aliases.set_flags(policy.policy_id, "prod", protected=True)
    with pytest.raises(AliasProtected):
        await store.aliases.remove(policy, "prod", replace(by("a"), is_admin=False))
    await store.rules.add(policy.policy_id, RULE)
    with pytest.raises(InUse, match="Alias 'prod' cannot be removed: rules move it"):
        await store.aliases.remove(policy, "prod", by("a"))
    await store.rules.remove(policy.policy_id, "rule_1")
    await store.aliases.remove(policy, "prod", by("a"))


async def test_a_process_of_the_version_before_makes_a_removed_alias_again(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)
    await store.aliases.move(policy, "prod", first, by("a"), expected=None)
    await store.aliases.remove(policy, "prod", by("a"))
    pool = store.aliases._pool
    await pool.execute("UPDATE aliases SET sequence = 3, number = 2 WHERE policy_id = $1", policy.policy_id)
    await pool.execute(
        """INSERT INTO alias_history
        (policy_id, alias, sequence, previous, digest, number, below, actor, reason, moved_at)
        VALUES ($1, 'prod', 3, $2, $3, 2, 2, 'a', 'old', now())""",
        policy.policy_id,
        first.digest,
        second.digest,
    )
    alias = await store.aliases.alias(policy.policy_id, "prod")
    assert (alias.sequence, alias.revision) == (3, second)
