"""Where revisions come from."""

from dataclasses import replace

import pytest
from contract.catalog_rig import NOW, TENANT, Store, add_policy, export_of

from mint_common.catalog import EvaluationRecord
from mint_common.errors import NotFound
from mint_common.ids import Digest, EvaluationId
from services.registry.core.lineage import MAX_NODES, Reach, lineage_of
from services.registry.core.names import parse_model

pytestmark = pytest.mark.integration


async def _publish(store: Store, policy, seed: int, parent: Digest | None, **changes: object) -> Digest:
    export = replace(export_of(policy, seed), parent=parent, **changes)
    await store.catalog.settle_export(export, None, now=NOW + seed)
    return export.digest


async def test_a_revision_has_its_ancestors_and_its_children(store: Store) -> None:
    policy = await add_policy(store)
    first = await _publish(store, policy, 1, None)
    second = await _publish(store, policy, 2, first)
    await _publish(store, policy, 3, first)
    fourth = await _publish(store, policy, 4, second)
    await _publish(store, policy, 5, second)
    await _publish(store, policy, 6, fourth)

    async def related(number: int, limit: int = 100) -> list[int]:
        found = await store.catalog.related(policy.policy_id, number, Reach(), limit=limit)
        return [each.revision.number for each in found]

    assert await related(2) == [1, 4, 5]
    assert await related(6) == [4, 2, 1]
    assert await related(1) == [2, 3]
    assert await related(6, limit=2) == [4, 2]
    revision = await store.catalog.revision(policy.policy_id, 2)
    lineage = lineage_of(
        revision,
        await store.catalog.related(policy.policy_id, 2, Reach(), limit=MAX_NODES),
        Reach(),
        {1: ["prod"]},
    )
    assert {node.number: node.aliases for node in lineage.nodes} == {1: ("prod",), 2: (), 4: (), 5: ()}
    assert lineage.complete


async def test_ancestors_and_descendants_go_as_far_as_was_asked(store: Store) -> None:
    """1 - 2 - 3 - 4 - 5, and 6 from 3, 7 from 6."""
    policy = await add_policy(store)
    digests: dict[int, Digest | None] = {0: None}
    for number, parent in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 3), (7, 6)):
        digests[number] = await _publish(store, policy, number, digests[parent])

    async def lineage(number: int, ancestors: int, descendants: int) -> tuple[dict[int, int], bool]:
        reach = Reach(ancestors=ancestors, descendants=descendants)
        revision = await store.catalog.revision(policy.policy_id, number)
        related = await store.catalog.related(policy.policy_id, number, reach.beyond, limit=MAX_NODES)
        found = lineage_of(revision, related, reach, {})
        return {node.number: node.distance for node in found.nodes}, found.complete

    assert await lineage(3, 9, 9) == ({1: -2, 2: -1, 3: 0, 4: 1, 5: 2, 6: 1, 7: 2}, True)
    assert await lineage(3, 2, 2) == ({1: -2, 2: -1, 3: 0, 4: 1, 5: 2, 6: 1, 7: 2}, True)
    assert await lineage(3, 1, 1) == ({2: -1, 3: 0, 4: 1, 6: 1}, False)
    assert await lineage(3, 2, 1) == ({1: -2, 2: -1, 3: 0, 4: 1, 6: 1}, False)
    assert await lineage(3, 0, 0) == ({3: 0}, False)
    assert await lineage(7, 9, 0) == ({1: -4, 2: -3, 3: -2, 6: -1, 7: 0}, True)


async def test_of_too_many_relatives_the_nearest_are_told(store: Store) -> None:
    policy = await add_policy(store)
    parent = None
    for number in range(1, 7):
        parent = await _publish(store, policy, number, parent)
    found = await store.catalog.related(policy.policy_id, 3, Reach(descendants=9), limit=3)
    assert [each.revision.number for each in found] == [2, 4, 1]


async def test_parents_that_name_each_other_end(store: Store) -> None:
    policy = await add_policy(store)
    second = export_of(policy, 2).digest
    first = await _publish(store, policy, 1, second)
    await _publish(store, policy, 2, first)
    found = await store.catalog.related(policy.policy_id, 1, Reach(descendants=50), limit=50)
    assert {each.revision.number for each in found} == {2}


async def test_a_parent_of_another_policy_is_no_node(store: Store) -> None:
    other = await add_policy(store, "other")
    policy = await add_policy(store)
    foreign = await _publish(store, other, 1, None)
    await _publish(store, policy, 1, foreign)
    assert await store.catalog.related(policy.policy_id, 1, Reach(), limit=9) == []


async def test_scores_are_the_newest_of_each_suite_and_metric(store: Store) -> None:
    policy = await add_policy(store)
    digest = await _publish(store, policy, 1, None)
    scored = [("b", "m", 1.0), ("a", "m", 2.0), ("a", "n", 3.0), ("a", "m", 4.0)]
    for place, (suite, metric, value) in enumerate(scored):
        evaluation = EvaluationRecord(
            evaluation_id=EvaluationId(f"eval_{place}"),
            digest=digest,
            number=1,
            suite=suite,
            metric=metric,
            value=value,
            n=1,
            actor="a",
            created_at=NOW,
        )
        await store.evaluations.add(policy, evaluation)
    found = await store.evaluations.scores(policy.policy_id, 1)
    assert [(score.suite, score.metric, score.value) for score in found] == [
        ("a", "m", 4.0),
        ("a", "n", 3.0),
        ("b", "m", 1.0),
    ]
    assert await store.evaluations.scores(policy.policy_id, 2) == []


async def test_the_best_revision_is_the_one_whose_samples_got_the_highest_reward(store: Store) -> None:
    policy = await add_policy(store)
    digest = None
    for seed, reward in enumerate((0.9, 0.2, 0.6, 0.4), start=1):
        metrics = {"reward_mean": reward, "ratio_max_error": 0.0}
        digest = await _publish(store, policy, seed, digest, metrics=metrics)
    # An imitated reference has the reward 1.0, which says nothing of its parent.
    await _publish(store, policy, 5, digest, metrics={"reward_mean": 1.0})
    best = await store.catalog.best(policy.policy_id)
    assert (best.number, best.reward) == (2, 0.6)
    assert (await store.catalog.revision(policy.policy_id, 2)).reward == 0.6
    listed = await store.catalog.revisions(policy.policy_id, limit=9, after=0)
    assert [revision.reward for revision in listed] == [0.2, 0.6, 0.4, None, None]
    await store.catalog.set_state(policy, 2, "retired")
    assert (await store.catalog.best(policy.policy_id)).number == 3


async def test_scores_of_a_job_beside_its_training_say_which_revision_is_best(store: Store) -> None:
    policy = await add_policy(store)
    digests: list[Digest | None] = [None]
    for seed, reward in enumerate((0.9, 0.2, 0.6), start=1):
        metrics = {"reward_mean": reward, "ratio_max_error": 0.0}
        digests.append(await _publish(store, policy, seed, digests[-1], metrics=metrics))
    scored = [("job:1", 1, 0.9), ("job:2", 1, 0.4), ("job:2", 3, 0.5), ("job:2", 2, 0.5), ("mine", 1, 1.0)]
    for place, (suite, number, value) in enumerate(scored):
        digest = digests[number]
        assert digest is not None
        evaluation = EvaluationRecord(
            evaluation_id=EvaluationId(f"eval_{place}"),
            digest=digest,
            number=number,
            suite=suite,
            metric="valid_reward_mean",
            value=value,
            n=9,
            actor=suite,
            created_at=NOW,
        )
        await store.evaluations.add(policy, evaluation)
    best = await store.catalog.best(policy.policy_id)
    assert (best.number, best.reward) == (2, 0.6)
    named = await store.catalog.resolve(TENANT, parse_model("p@best"))
    assert named.revision == best.ref
    await store.catalog.set_state(policy, 2, "retired")
    assert (await store.catalog.best(policy.policy_id)).number == 3


async def test_a_policy_that_was_trained_on_no_samples_has_no_best_revision(store: Store) -> None:
    policy = await add_policy(store)
    await _publish(store, policy, 1, None)
    with pytest.raises(NotFound, match="best"):
        await store.catalog.best(policy.policy_id)
