"""Promotion rules, and what people do to the aliases that they move."""

from dataclasses import replace

import pytest
from contract.catalog_rig import (
    NOW,
    Store,
    add_policy,
    by,
    publish,
)

from mint_common.catalog import EvaluationRecord, PolicyRecord, RuleRecord
from mint_common.errors import (
    InvalidField,
    NotFound,
)
from mint_common.events import AliasMoved, EvaluationRecorded
from mint_common.ids import EvaluationId
from services.registry.core.rules import MAX_RULES, RuleRefused, ScoreRange
from services.registry.handlers.rules import RuleHandler
from tests.testing.clock import ManualClock

pytestmark = pytest.mark.integration

RULE = RuleRecord(
    rule_id="rule_1",
    alias="prod",
    suite="s",
    metric="m",
    at_least=0.8,
    max_drop=None,
    roll_back_below=0.5,
    actor="ci",
    created_at=NOW,
)


async def _score(store: Store, policy: PolicyRecord, number: int, value: float) -> EvaluationRecorded:
    revision = await store.catalog.revision(policy.policy_id, number)
    record = EvaluationRecord(
        evaluation_id=EvaluationId(f"eval_{number}_{value}"),
        digest=revision.digest,
        number=number,
        suite="s",
        metric="m",
        value=value,
        n=1,
        actor="hook",
        created_at=NOW,
    )
    await store.evaluations.add(policy, record)
    assert await store.evaluations.newest(policy.policy_id, number, suite="s", metric="m") == value
    return [event for event in await store.events() if isinstance(event, EvaluationRecorded)][-1]


def _handler(store: Store, clock: ManualClock | None = None) -> RuleHandler:
    return RuleHandler(
        catalog=store.catalog,
        aliases=store.aliases,
        evaluations=store.evaluations,
        rules=store.rules,
        clock=clock or ManualClock(NOW),
    )


async def _live(store: Store, policy: PolicyRecord) -> int:
    return (await store.aliases.alias(policy.policy_id, "prod")).revision.number


async def test_frozen_alias_is_moved_by_people_alone(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)
    moved = await store.aliases.move(policy, "prod", first, by("ann"), expected=None)
    assert (moved.frozen, moved.moved_by) == (False, ("train", "admin", "rule"))
    for _ in range(2):
        await store.aliases.set_flags(policy.policy_id, "prod", frozen=True)
    with pytest.raises(RuleRefused, match="frozen"):
        await store.aliases.move(policy, "prod", second, by("rule:rule_1"), expected=None)
    moved = await store.aliases.move(policy, "prod", second, by("ann"), expected=None)
    assert (moved.frozen, moved.moved_by) == (True, ("train", "admin"))
    with pytest.raises(RuleRefused, match="frozen"):
        await store.aliases.roll_back(policy, "prod", by("rule:rule_1"), expected=None)
    await store.aliases.set_flags(policy.policy_id, "prod", protected=True)
    (listed,) = await store.aliases.aliases(policy.policy_id)
    assert (listed.frozen, listed.moved_by) == (True, ("admin",))
    await store.aliases.set_flags(policy.policy_id, "prod", frozen=False)
    moved = await store.aliases.roll_back(policy, "prod", by("rule:rule_1"), expected=None)
    assert moved.moved_by == ("admin", "rule")
    with pytest.raises(NotFound):
        await store.aliases.set_flags(policy.policy_id, "none", frozen=True)


async def test_what_holds_for_rules_holds_for_jobs_that_promote(store: Store) -> None:
    policy = await add_policy(store)
    first, second = await publish(store, policy, 2)
    job = by("job:job_a")
    for target in (first, second):
        await store.aliases.move(policy, "prod", target, job, expected=None)
    await store.aliases.roll_back(policy, "prod", by("ann"), expected=None)
    for mover in (job, by("rule:rule_1")):
        with pytest.raises(RuleRefused, match="ann moved it back from revision 2"):
            await store.aliases.move(policy, "prod", second, mover, expected=None)
    await store.aliases.move(policy, "prod", second, by("ann"), expected=None)
    await store.aliases.set_flags(policy.policy_id, "prod", frozen=True)
    with pytest.raises(RuleRefused, match="frozen"):
        await store.aliases.move(policy, "prod", first, job, expected=None)


async def test_a_job_that_promotes_late_gives_way_to_newer_moves(store: Store) -> None:
    policy = await add_policy(store)
    first, second, third = await publish(store, policy, 3)
    ended = replace(by("job:job_a"), decided_at=NOW - 5)
    await store.aliases.move(policy, "prod", first, replace(by("ann"), at=NOW - 10), expected=None)
    await store.aliases.move(policy, "prod", second, replace(ended, at=NOW - 4), expected=None)
    # An earlier revision of another job gives way; a later one, and a person, do not.
    await store.aliases.move(policy, "prod", first, replace(by("job:job_b"), at=NOW - 3), expected=None)
    await store.aliases.move(policy, "prod", second, ended, expected=None)
    await store.aliases.move(policy, "prod", third, replace(by("rule:rule_1"), at=NOW - 2), expected=None)
    with pytest.raises(RuleRefused, match="rule:rule_1 has moved it since the job ended"):
        await store.aliases.move(policy, "prod", second, ended, expected=None)
    await store.aliases.move(policy, "prod", first, by("ann"), expected=None)
    with pytest.raises(RuleRefused, match="ann has moved it since the job ended"):
        await store.aliases.move(policy, "prod", second, ended, expected=None)
    await store.aliases.move(policy, "prod", second, replace(ended, decided_at=NOW + 1), expected=None)


async def test_no_rule_returns_to_what_a_person_moved_an_alias_back_from(store: Store) -> None:
    policy = await add_policy(store)
    first, second, third = await publish(store, policy, 3)
    rule = by("rule:rule_1")
    for target in (first, second):
        await store.aliases.move(policy, "prod", target, rule, expected=None)
    await store.aliases.roll_back(policy, "prod", by("ann"), expected=None)
    with pytest.raises(RuleRefused, match="ann moved it back from revision 2"):
        await store.aliases.move(policy, "prod", second, rule, expected=None)
    # A rule's own rollback rules nothing out, nor does a person's move forward.
    await store.aliases.move(policy, "prod", third, rule, expected=None)
    await store.aliases.roll_back(policy, "prod", rule, expected=None)
    await store.aliases.move(policy, "prod", third, by("ann"), expected=None)
    # A move to an older revision is one back as well; the undo stack leads back to the newer one.
    await store.aliases.move(policy, "prod", first, by("ann"), expected=None)
    with pytest.raises(RuleRefused, match="revision 3"):
        await store.aliases.roll_back(policy, "prod", rule, expected=None)
    # A rollback rules out what it leaves, though it leads to a newer one.
    await store.aliases.roll_back(policy, "prod", by("ann"), expected=None)
    with pytest.raises(RuleRefused, match="revision 1"):
        await store.aliases.move(policy, "prod", first, rule, expected=None)
    # A person who points it there again allows it.
    for target, mover in ((first, by("bob")), (second, by("bob")), (first, rule), (second, rule)):
        await store.aliases.move(policy, "prod", target, mover, expected=None)
    assert await _live(store, policy) == 2


async def test_rules_are_kept_by_policy(store: Store) -> None:
    policy, other = await add_policy(store), await add_policy(store, "q")
    await store.rules.add(policy.policy_id, RULE)
    assert await store.rules.list(policy.policy_id) == [RULE]
    with pytest.raises(NotFound):
        await store.rules.pause(other.policy_id, RULE.rule_id, paused=True)
    assert await store.rules.pause(policy.policy_id, RULE.rule_id, paused=True) == replace(RULE, paused=True)
    assert await store.rules.pause(policy.policy_id, RULE.rule_id, paused=False) == RULE
    with pytest.raises(NotFound):
        await store.rules.remove(other.policy_id, RULE.rule_id)
    await store.rules.remove(policy.policy_id, RULE.rule_id)
    assert await store.rules.list(policy.policy_id) == []


async def test_policy_has_so_many_rules_at_most(store: Store) -> None:
    policy, other = await add_policy(store), await add_policy(store, "q")
    for number in range(MAX_RULES):
        await store.rules.add(policy.policy_id, replace(RULE, rule_id=f"rule_{number}"))
    with pytest.raises(InvalidField, match="remove one first"):
        await store.rules.add(policy.policy_id, replace(RULE, rule_id="rule_more"))
    await store.rules.add(other.policy_id, replace(RULE, rule_id="rule_more"))
    assert len(await store.rules.list(policy.policy_id)) == MAX_RULES


async def test_rule_promotes_a_good_score_and_rolls_a_bad_one_back_once(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, 3)
    await store.rules.add(policy.policy_id, RULE)
    handler = _handler(store)
    good = [await _score(store, policy, 1, 0.9), await _score(store, policy, 2, 0.85)]
    for event in [*good, await _score(store, policy, 3, 0.7), *good]:
        await handler.on_evaluation_recorded(event)
    assert (await store.aliases.alias(policy.policy_id, "prod")).revision.number == 2
    bad = await _score(store, policy, 2, 0.4)
    for event in (bad, bad):
        await handler.on_evaluation_recorded(event)
    alias = await store.aliases.alias(policy.policy_id, "prod")
    assert alias.revision.number == 1
    assert [move.number for move in alias.history] == [1, 2, 1]
    assert {move.actor for move in alias.history} == {"rule:rule_1"}
    assert "0.4" in alias.history[-1].reason
    # With nothing further back, a bad score of the live revision is told and changes nothing.
    await handler.on_evaluation_recorded(await _score(store, policy, 1, 0.1))
    assert len([event for event in await store.events() if isinstance(event, AliasMoved)]) == 3


async def test_rule_of_a_loss_promotes_a_small_score_and_rolls_a_large_one_back(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, 3)
    rule = replace(RULE, at_least=None, roll_back_below=None, at_most=1.5, max_rise=0.1, roll_back_above=2.0)
    await store.rules.add(policy.policy_id, rule)
    assert await store.rules.list(policy.policy_id) == [rule]
    handler = _handler(store)
    for number, loss, live in ((1, 1.4, 1), (2, 1.6, 1), (2, 1.5, 2), (3, 1.45, 3), (3, 2.5, 2)):
        await handler.on_evaluation_recorded(await _score(store, policy, number, loss))
        assert await _live(store, policy) == live
    alias = await store.aliases.alias(policy.policy_id, "prod")
    assert [move.number for move in alias.history] == [1, 2, 3, 2]
    assert "2.5, above 2" in alias.history[-1].reason


async def test_score_that_is_delivered_after_its_correction_promotes_nothing(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, 1)
    await store.rules.add(policy.policy_id, RULE)
    handler = _handler(store)
    wrong, corrected = await _score(store, policy, 1, 0.9), await _score(store, policy, 1, 0.5)
    for event in (corrected, wrong):
        await handler.on_evaluation_recorded(event)
    with pytest.raises(NotFound):
        await store.aliases.alias(policy.policy_id, "prod")


async def test_score_of_what_a_person_rolled_back_promotes_nothing(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, 3)
    await store.rules.add(policy.policy_id, RULE)
    handler = _handler(store)
    for number in (1, 2):
        await handler.on_evaluation_recorded(await _score(store, policy, number, 0.9))
    await store.aliases.roll_back(policy, "prod", by("ann"), expected=None)
    await handler.on_evaluation_recorded(await _score(store, policy, 2, 0.95))
    assert await _live(store, policy) == 1
    await handler.on_evaluation_recorded(await _score(store, policy, 3, 0.85))
    assert await _live(store, policy) == 3


async def test_paused_rule_moves_nothing_and_resumes_with_the_next_score(store: Store) -> None:
    policy = await add_policy(store)
    first, _ = await publish(store, policy, 2)
    await store.aliases.move(policy, "prod", first, by("ann"), expected=None)
    await store.rules.add(policy.policy_id, RULE)
    handler = _handler(store)
    await store.rules.pause(policy.policy_id, RULE.rule_id, paused=True)
    await handler.on_evaluation_recorded(await _score(store, policy, 2, 0.9))
    assert await _live(store, policy) == 1
    await store.rules.pause(policy.policy_id, RULE.rule_id, paused=False)
    await handler.apply_due()
    assert await _live(store, policy) == 1
    await handler.on_evaluation_recorded(await _score(store, policy, 2, 0.95))
    assert await _live(store, policy) == 2


async def test_promotions_of_a_burst_of_scores_become_one_after_the_cooldown(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, 5)
    await store.rules.add(policy.policy_id, replace(RULE, cooldown_seconds=60.0))
    clock = ManualClock(NOW)
    handler = _handler(store, clock)
    for number in (1, 2, 4, 3):
        await handler.on_evaluation_recorded(await _score(store, policy, number, 0.9))
    assert await _live(store, policy) == 1
    await clock.advance(59.0)
    await handler.apply_due()
    assert await _live(store, policy) == 1
    await clock.advance(1.0)
    for _ in range(2):
        await handler.apply_due()
    alias = await store.aliases.alias(policy.policy_id, "prod")
    assert [move.number for move in alias.history] == [1, 4]
    # What waits is judged by its revision's newest score, and a rollback does not wait.
    await handler.on_evaluation_recorded(await _score(store, policy, 5, 0.9))
    await handler.on_evaluation_recorded(await _score(store, policy, 5, 0.6))
    await handler.on_evaluation_recorded(await _score(store, policy, 4, 0.4))
    assert await _live(store, policy) == 1
    await clock.advance(60.0)
    await handler.apply_due()
    assert await _live(store, policy) == 1
    assert await store.rules.due(now=clock.now(), limit=9) == []


async def test_pausing_a_rule_drops_the_score_that_waits(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, 2)
    await store.rules.add(policy.policy_id, replace(RULE, cooldown_seconds=60.0))
    clock = ManualClock(NOW)
    handler = _handler(store, clock)
    for number in (1, 2):
        await handler.on_evaluation_recorded(await _score(store, policy, number, 0.9))
    assert await store.rules.waiting(RULE.rule_id) is not None
    await store.rules.pause(policy.policy_id, RULE.rule_id, paused=True)
    assert await store.rules.waiting(RULE.rule_id) is None
    await clock.advance(60.0)
    await handler.apply_due()
    assert await _live(store, policy) == 1


async def test_the_range_of_scores_is_that_of_a_metric_over_all_revisions(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, 2)
    assert await store.evaluations.seen(policy.policy_id, suite="s", metric="m") is None
    for number, value in ((1, 0.4), (2, 0.9), (2, 0.7)):
        await _score(store, policy, number, value)
    found = await store.evaluations.seen(policy.policy_id, suite="s", metric="m")
    assert found == ScoreRange(low=0.4, high=0.9)
    assert await store.evaluations.seen(policy.policy_id, suite="s", metric="other") is None
