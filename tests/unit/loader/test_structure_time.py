"""What the structures of a tenant take is bounded in a step and over time; other tenants' steps go on."""

import pytest

from services.loader.core.structure_time import (
    MAX_SECONDS,
    PLANNED_SECONDS,
    SECONDS_A_TOKEN,
    SHARE,
    STEP_SECONDS,
    StructuredSequence,
    StructureTimes,
    leave_step,
)


def sequence(tenant: str, expected_seconds: float | None = None) -> StructuredSequence:
    return StructuredSequence(tenant=tenant, expected_seconds=expected_seconds)


def test_a_request_has_one_time_while_a_sequence_of_it_is_there() -> None:
    times = StructureTimes()
    one = times.of_request("many", "r", now=0.0)
    assert times.of_request("many", "r", now=1.0) is one
    assert times.of_request("few", "r", now=0.0) is not one
    one.spend(MAX_SECONDS)
    del one
    assert times.of_request("many", "r", now=0.0).seconds_left == MAX_SECONDS + SECONDS_A_TOKEN


@pytest.mark.parametrize("sequences", [1, 64, 128])
def test_a_usual_structure_of_many_sequences_lives(sequences: int) -> None:
    """128 sequences of 0.9 ms took more than what a request began with in their first step."""
    times = StructureTimes()
    requests = [times.of_request("many", "r", now=0.0) for _ in range(sequences)]
    for step in range(400):
        times.settle(now=float(step))
        for request in requests:
            assert request.call_seconds() >= 0.0015
            request.spend(0.0015)
        for request in requests:
            request.earn(1)


def test_a_further_sequence_gives_a_request_without_time_left_none() -> None:
    times = StructureTimes()
    one = times.of_request("many", "r", now=0.0)
    one.spend(2 * MAX_SECONDS)
    assert times.of_request("many", "r", now=0.0).call_seconds() == 0.0


def test_tokens_earn_time_up_to_what_a_request_begins_with_and_none_once_it_is_spent() -> None:
    one = StructureTimes().of_request("many", "r", now=0.0)
    one.earn(10)
    assert one.seconds_left == MAX_SECONDS + SECONDS_A_TOKEN
    one.spend(MAX_SECONDS + 0.01)
    one.earn(1000)
    assert one.call_seconds() == 0.0


def test_calls_past_a_tenants_part_of_a_step_have_what_a_token_may_take() -> None:
    times = StructureTimes()
    dear, usual, other = (times.of_request(*name, now=0.0) for name in (("a", "1"), ("a", "2"), ("b", "1")))
    assert dear.call_seconds() == STEP_SECONDS
    dear.spend(STEP_SECONDS)
    assert usual.call_seconds() == SECONDS_A_TOKEN
    assert other.call_seconds() == STEP_SECONDS
    assert times.settle(now=0.0) == [("a", STEP_SECONDS)]
    assert usual.call_seconds() == STEP_SECONDS
    assert times.settle(now=0.0) == []


def test_a_step_takes_as_many_of_a_tenants_sequences_as_its_part_has_time_for() -> None:
    running = [sequence("many", PLANNED_SECONDS / 2) for _ in range(5)] + [sequence("many"), sequence("few")]
    assert leave_step(running, sitting_out=()) == [2, 3, 4]
    dear = [sequence("many", 1.0), sequence("many", 1.0), sequence("few", PLANNED_SECONDS / 2)]
    assert leave_step(dear, sitting_out=()) == [1], "one goes on, whatever it takes"


def test_a_tenant_whose_share_is_spent_sits_out_until_it_has_time_again() -> None:
    times = StructureTimes()
    request = times.of_request("many", "r", now=0.0)
    request.spend(PLANNED_SECONDS + 0.1)
    assert times.spent(0.0) == frozenset()
    times.settle(now=0.0)
    assert times.spent(0.0) == {"many"}
    running = [sequence("many", 0.001), sequence("few"), sequence("many"), sequence("few", 0.001)]
    assert leave_step(running, sitting_out=times.spent(0.0)) == [0], "what follows no structure goes on"
    assert times.spent(0.1 / SHARE + 0.01) == frozenset()
