"""The promises of the registry's store."""

import asyncio
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

from mint_common.catalog import EvaluationRecord, PolicyFilter, TenantRecord
from mint_common.claims import RevisionRef
from mint_common.errors import (
    AlreadyExists,
    AlreadyHandled,
    InvalidField,
    MintError,
    NotFound,
    PreconditionFailed,
)
from mint_common.events import RevisionPublished, RevisionRejected
from mint_common.ids import EvaluationId, PolicyId, TenantId, derive_id, sha256_digest
from services.registry.adapters.aliases_postgres import HISTORY_ROWS
from services.registry.core.exports import Refusal
from services.registry.core.keys import hash_key, stored_key

pytestmark = pytest.mark.integration


async def test_tenant_of_a_name_is_made_once(store: Store) -> None:
    again = TenantRecord(tenant_id=TenantId("ten_new"), name=TENANT, created_at=NOW + 1)
    assert await store.accounts.add_tenant(again) == TenantRecord(
        tenant_id=TENANT, name=TENANT, created_at=NOW
    )


async def test_key_leads_to_its_owner(store: Store) -> None:
    key = stored_key("tml-one", key_id="key_1", tenant_id=TENANT, name="ci", now=NOW)
    await store.accounts.put_key(key)
    owner = await store.accounts.owner_of(hash_key("tml-one"), now=NOW)
    assert owner is not None
    assert (owner.tenant_id, owner.key_id, owner.name) == (TENANT, "key_1", "ci")
    assert await store.accounts.owner_of(hash_key("tml-two"), now=NOW) is None
    await store.accounts.put_key(replace(key, key_hash=hash_key("tml-two")))
    assert await store.accounts.owner_of(hash_key("tml-one"), now=NOW) is None
    assert await store.accounts.owner_of(hash_key("tml-two"), now=NOW) == owner
    with pytest.raises(AlreadyExists):
        await store.accounts.put_key(replace(key, key_id="key_2", key_hash=hash_key("tml-two")))
    with pytest.raises(NotFound, match="ten_none"):
        await store.accounts.put_key(replace(key, tenant_id=TenantId("ten_none")))


async def test_policy_is_found_by_id_and_by_name_within_its_tenant(store: Store) -> None:
    policy = await add_policy(store)
    assert await store.catalog.policy(TENANT, "p") == policy
    assert await store.catalog.policy(TENANT, policy.policy_id) == policy
    for key in ("p", policy.policy_id):
        with pytest.raises(NotFound, match=key):
            await store.catalog.policy(OTHER, key)
    theirs = await add_policy(store, tenant_id=OTHER)
    assert await store.catalog.policy(OTHER, "p") == theirs


async def test_policy_needs_a_free_name_a_base_and_a_tenant(store: Store) -> None:
    policy = await add_policy(store)
    another = PolicyId(derive_id("pol", "another"))
    with pytest.raises(AlreadyExists, match="'p'"):
        await store.catalog.add_policy(replace(policy, policy_id=another))
    fresh = replace(policy, policy_id=another, name="q")
    with pytest.raises(InvalidField, match="name of a base"):
        await store.catalog.add_policy(replace(fresh, name=BASE.name))
    with pytest.raises(NotFound, match="gravel"):
        await store.catalog.add_policy(replace(fresh, base="gravel"))  # type: ignore[arg-type]  # a name
    with pytest.raises(NotFound, match="ten_none"):
        await store.catalog.add_policy(replace(fresh, tenant_id=TenantId("ten_none")))
    assert await store.catalog.policies(TENANT, limit=10, after=None) == [policy]


async def test_policies_come_in_pages_by_name(store: Store) -> None:
    names = ["a", "a-b", "a.b", "a_b", "ab", "b", "z0"]
    for name in reversed(names):
        await add_policy(store, name)
    pages: list[str] = []
    while page := await store.catalog.policies(TENANT, limit=3, after=pages[-1] if pages else None):
        pages += [policy.name for policy in page]
    assert pages == sorted(names)


async def test_policies_are_listed_by_whether_a_revision_of_theirs_is_in_use(store: Store) -> None:
    for name in ("empty", "retired", "used"):
        policy = await add_policy(store, name)
        if name != "empty":
            await publish(store, policy, 1)
        if name == "retired":
            await store.catalog.set_state(policy, 1, "retired")

    async def names(has_revision: bool | None) -> list[str]:
        wanted = PolicyFilter(has_revision=has_revision)
        found = await store.catalog.policies(TENANT, wanted, limit=10, after=None)
        return [policy.name for policy in found]

    assert await names(True) == ["used"]
    assert await names(False) == ["empty", "retired"]
    assert await names(None) == ["empty", "retired", "used"]
    await store.catalog.set_state(policy, 1, "retired")
    retired = await store.catalog.policy(TENANT, "retired")
    await store.catalog.set_state(retired, 1, "published")
    assert (await names(True), await names(False)) == (["retired"], ["empty", "used"])
    await store.integrity.quarantine(export_of(retired, 1).digest, "non_finite_output", cause="evt_1")
    assert await names(True) == []


async def test_exports_get_gapless_numbers_and_the_newest_is_the_latest(store: Store) -> None:
    policy = await add_policy(store)
    refs = await publish(store, policy, 3)
    assert [ref.number for ref in refs] == [1, 2, 3]
    assert (await store.catalog.policy(TENANT, "p")).latest == refs[2]
    found = await store.catalog.revision(policy.policy_id, 2)
    assert found == await store.catalog.revision(policy.policy_id, refs[1].digest)
    assert (found.step, found.metrics, found.state, found.job_id) == (2, {"loss": 0.5}, "published", "job_1")
    assert found.created_at == NOW + 2
    assert len(await store.catalog.revisions(policy.policy_id, limit=2, after=0)) == 2
    assert [r.number for r in await store.catalog.revisions(policy.policy_id, limit=9, after=2)] == [3]
    for key in (4, sha256_digest(b"none")):
        with pytest.raises(NotFound):
            await store.catalog.revision(policy.policy_id, key)


async def test_equal_bytes_are_one_revision_with_one_answer_per_export(store: Store) -> None:
    policy = await add_policy(store)
    first, again = export_of(policy, 1, "wave_1"), export_of(policy, 1, "wave_2")
    await store.catalog.settle_export(first, None, now=NOW)
    await store.catalog.settle_export(again, None, now=NOW)
    events = (await store.events())[1:]
    assert [type(event) for event in events] == [RevisionPublished, RevisionPublished]
    assert [getattr(event, "export_id", "") for event in events] == ["wave_1", "wave_2"]
    revisions = await store.catalog.revisions(policy.policy_id, limit=9, after=0)
    assert [getattr(event, "revision", None) for event in events] == [revisions[0].ref] * 2
    assert revisions[0].manifest == first.manifest


async def test_same_export_is_settled_once(store: Store) -> None:
    policy = await add_policy(store)
    export = export_of(policy, 1)
    await store.catalog.settle_export(export, None, now=NOW)
    with pytest.raises(AlreadyHandled):
        await store.catalog.settle_export(export, Refusal(code="x", reason="later"), now=NOW)
    assert len(await store.events()) == 2


async def test_refused_export_is_told_and_takes_no_number(store: Store) -> None:
    policy = await add_policy(store)
    await store.catalog.settle_export(export_of(policy, 1), Refusal(code="c", reason="why"), now=NOW)
    await store.catalog.settle_export(export_of(policy, 2), None, now=NOW)
    _, rejected, published = await store.events()
    assert isinstance(rejected, RevisionRejected)
    assert (rejected.code, rejected.reason) == ("c", "why")
    assert isinstance(published, RevisionPublished)
    assert published.revision.number == 1
    stranger = export_of(new_policy("nowhere"), 1)
    await store.catalog.settle_export(stranger, Refusal(code="not_found", reason="none"), now=NOW)
    assert len(await store.events()) == 4


async def test_concurrent_exports_get_gapless_numbers(store: Store) -> None:
    policy = await add_policy(store)
    exports = [export_of(policy, seed) for seed in range(1, 9)]
    await asyncio.gather(*(store.catalog.settle_export(export, None, now=NOW) for export in exports))
    revisions = await store.catalog.revisions(policy.policy_id, limit=99, after=0)
    assert [revision.number for revision in revisions] == list(range(1, 9))
    assert {revision.digest for revision in revisions} == {export.digest for export in exports}


async def test_periods_of_aliases_are_those_of_their_moves(store: Store) -> None:
    policy = await add_policy(store)
    one, two = await publish(store, policy, 2)
    moves = [("prod", one), ("prod", two), ("prod", one), ("gone", one)]
    for at, (name, target) in enumerate(moves):
        await store.aliases.move(policy, name, target, replace(by("ann"), at=NOW + at), expected=None)
    await store.aliases.remove(policy, "gone", replace(by("ann"), at=NOW + len(moves)))

    async def periods(number: int, *, limit: int = 9) -> list[tuple[str, bool]]:
        found = await store.aliases.periods(policy.policy_id, number, limit=limit)
        assert all(each.until is None or each.since < each.until for each in found)
        assert [each.since for each in found] == sorted((each.since for each in found), reverse=True)
        return [(each.alias, each.until is None) for each in found]

    assert await periods(1) == [("gone", False), ("prod", True), ("prod", False)]
    assert await periods(2) == [("prod", False)]
    assert await periods(1, limit=1) == [("gone", False)]
    assert await periods(3) == []
    history = await store.aliases.history(policy.policy_id, "prod", limit=9, before=None)
    (second,) = await store.aliases.periods(policy.policy_id, 2, limit=9)
    assert (second.until, second.since) == (history[0].at, history[1].at)


async def test_alias_is_moved_and_rolled_back_with_its_history(store: Store) -> None:
    policy = await add_policy(store)
    one, two, three = await publish(store, policy, 3)
    for target in (one, two, three):
        await store.aliases.move(policy, "prod", target, by("ann"), expected=None)
    await store.aliases.roll_back(policy, "prod", by("bob"), expected=three.digest)
    await store.aliases.roll_back(policy, "prod", by("bob"), expected=None)
    alias = await store.aliases.alias(policy.policy_id, "prod")
    assert (alias.revision, alias.sequence) == (one, 5)
    assert [move.number for move in alias.history] == [1, 2, 3, 2, 1]
    assert [move.previous for move in alias.history[1:]] == [move.digest for move in alias.history[:-1]]
    assert [(move.actor, move.reason, move.at) for move in alias.history[3:]] == [("bob", "because", NOW)] * 2
    with pytest.raises(InvalidField, match="no earlier revision"):
        await store.aliases.roll_back(policy, "prod", by("bob"), expected=None)
    moves = [event for event in await store.events() if event.type == "alias.moved"]
    assert [event.revision for event in moves] == [one, two, three, two, one]  # type: ignore[attr-defined]
    assert [event.sequence for event in moves] == [1, 2, 3, 4, 5]  # type: ignore[attr-defined]


async def test_alias_move_is_compare_and_set(store: Store) -> None:
    policy = await add_policy(store)
    one, two = await publish(store, policy, 2)
    await store.aliases.move(policy, "prod", one, by("ann"), expected="")
    before = len(await store.events())
    for expected in ("", two.digest):
        with pytest.raises(PreconditionFailed):
            await store.aliases.move(policy, "prod", two, by("ann"), expected=expected)
    await store.aliases.move(policy, "prod", one, by("ann"), expected=one.digest)
    assert len(await store.events()) == before
    assert len((await store.aliases.alias(policy.policy_id, "prod")).history) == 1


async def test_an_alias_carries_its_newest_moves_alone(store: Store) -> None:
    policy = await add_policy(store)
    one, two = await publish(store, policy, 2)
    for _ in range(HISTORY_ROWS // 2 + 1):
        for target in (one, two):
            await store.aliases.move(policy, "prod", target, by("ann"), expected=None)
    alias = await store.aliases.alias(policy.policy_id, "prod")
    assert alias.sequence == HISTORY_ROWS + 2
    assert [move.sequence for move in alias.history] == list(range(3, HISTORY_ROWS + 3))
    oldest = await store.aliases.history(policy.policy_id, "prod", limit=9, before=3)
    assert [move.sequence for move in oldest] == [2, 1]


async def test_unknown_alias_is_not_found(store: Store) -> None:
    policy = await add_policy(store)
    with pytest.raises(NotFound, match="canary"):
        await store.aliases.alias(policy.policy_id, "canary")
    with pytest.raises(NotFound, match="canary"):
        await store.aliases.roll_back(policy, "canary", by("ann"), expected=None)
    assert await store.aliases.aliases(policy.policy_id) == []


async def test_names_of_all_policies_are_listed_with_their_aliases(store: Store) -> None:
    for name in ("c", "b", "a"):
        policy = await add_policy(store, name)
        for number, ref in enumerate(await publish(store, policy, 0 if name == "b" else 2)):
            await store.aliases.move(policy, f"of-{number}", ref, by("ann"), expected=None)
    plain = await add_policy(store, "plain")
    await publish(store, plain, 1)
    await publish(store, await add_policy(store, "theirs", OTHER), 1)

    a, c, bare = await store.aliases.names(TENANT, limit=9)
    assert (a.name, a.base, a.latest, a.aliases) == ("a", BASE.name, 2, {"of-0": 1, "of-1": 2})
    assert (c.name, c.created_at, c.numbers) == ("c", NOW, {1, 2})
    assert (bare.name, bare.aliases, bare.numbers) == ("plain", {}, {1})
    assert await store.aliases.names(TENANT, limit=1, after="a") == [c]


async def test_aliases_are_listed_by_name_without_history(store: Store) -> None:
    policy = await add_policy(store)
    (one,) = await publish(store, policy, 1)
    for name in ("prod", "canary"):
        await store.aliases.move(policy, name, one, by("ann"), expected=None)
    listed = await store.aliases.aliases(policy.policy_id)
    assert [(alias.alias, alias.revision, alias.history) for alias in listed] == [
        ("canary", one, ()),
        ("prod", one, ()),
    ]


async def test_racing_compare_and_sets_give_a_linear_history(store: Store) -> None:
    policy = await add_policy(store)
    refs = await publish(store, policy, 4)

    async def walk(worker: int) -> int:
        wins = 0
        for turn in range(6):
            try:
                current = (await store.aliases.alias(policy.policy_id, "prod")).revision.digest
            except NotFound:
                current = ""  # type: ignore[assignment]  # it must not exist
            target = refs[(worker + turn) % len(refs)]
            if target.digest == current:
                continue
            try:
                await store.aliases.move(policy, "prod", target, by(f"w{worker}"), expected=current)
                wins += 1
            except PreconditionFailed:
                pass
        return wins

    wins = await asyncio.gather(*(walk(worker) for worker in range(8)))
    alias = await store.aliases.alias(policy.policy_id, "prod")
    assert len(alias.history) == alias.sequence == sum(wins)
    assert [move.sequence for move in alias.history] == list(range(1, sum(wins) + 1))
    assert alias.history[0].previous is None
    for before, after in zip(alias.history, alias.history[1:], strict=False):
        assert after.previous == before.digest
        assert after.digest != before.digest


def score(revision: RevisionRef, name: str) -> EvaluationRecord:
    return EvaluationRecord(
        evaluation_id=EvaluationId(name),
        digest=revision.digest,
        number=revision.number,
        suite="heldout",
        metric="accuracy",
        value=0.75,
        n=100,
        actor="ann",
        created_at=NOW,
    )


async def test_evaluations_are_kept_in_order_and_once(store: Store) -> None:
    policy = await add_policy(store)
    one, two = await publish(store, policy, 2)
    scores = [score(two, "eval_z"), score(one, "eval_a"), replace(score(two, "eval_m"), metric="other")]
    for item in scores:
        assert await store.evaluations.add(policy, item) == item
    assert await store.evaluations.add(policy, replace(scores[0], created_at=NOW + 9)) == scores[0]
    assert await store.evaluations.list(policy.policy_id, limit=2, after=None) == scores[:2]
    assert await store.evaluations.list(policy.policy_id, limit=2, after="eval_a") == scores[2:]
    recorded = [event for event in await store.events() if event.type == "evaluation.recorded"]
    assert [event.evaluation_id for event in recorded] == ["eval_z", "eval_a", "eval_m"]  # type: ignore[attr-defined]
    with pytest.raises(MintError, match="eval_q"):
        await store.evaluations.list(policy.policy_id, limit=2, after="eval_q")


async def test_score_that_is_said_anew_after_another_one_is_recorded(store: Store) -> None:
    policy = await add_policy(store)
    (one,) = await publish(store, policy, 1)
    good, bad = replace(score(one, "eval_good"), value=0.9), replace(score(one, "eval_bad"), value=0.3)
    elsewhere = replace(score(one, "eval_other"), value=0.5, actor="somebody else")
    for said in (good, bad, bad, good, elsewhere, good):
        found = await store.evaluations.add(policy, said)
        assert replace(found, evaluation_id=said.evaluation_id) == said
    listed = await store.evaluations.list(policy.policy_id, limit=9, after=None)
    assert [row.value for row in listed] == [0.9, 0.3, 0.9, 0.5]
    assert len({row.evaluation_id for row in listed}) == 4
    told = [event for event in await store.events() if event.type == "evaluation.recorded"]
    assert [event.evaluation_id for event in told] == [row.evaluation_id for row in listed]  # type: ignore[attr-defined]


async def test_evaluation_has_the_standard_error_that_it_came_with(store: Store) -> None:
    policy = await add_policy(store)
    (one,) = await publish(store, policy, 1)
    scored = replace(score(one, "eval_e"), stderr=0.02)
    assert await store.evaluations.add(policy, scored) == scored
    assert await store.evaluations.list(policy.policy_id, limit=9, after=None) == [scored]
    (event,) = [event for event in await store.events() if event.type == "evaluation.recorded"]
    assert event.stderr == 0.02  # type: ignore[attr-defined]
