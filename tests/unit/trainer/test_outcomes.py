"""Requests wait for outcomes that are put later."""

import asyncio

from mint_common.ids import PolicyId
from services.trainer.handlers.lease_term import KEPT_BYTES, MAX_OUTCOMES, Outcomes

KEY, OTHER = (PolicyId("policy_a"), 1), (PolicyId("policy_a"), 2)


async def test_a_put_wakes_all_who_wait_for_its_key_and_nobody_else() -> None:
    outcomes = Outcomes()
    waiting = [asyncio.create_task(outcomes.wait(KEY, seconds=600)) for _ in range(2)]
    other = asyncio.create_task(outcomes.wait(OTHER, seconds=600))
    while set(outcomes.waiters) != {KEY, OTHER}:
        await asyncio.sleep(0)
    outcomes.put(KEY, b"done")
    async with asyncio.timeout(60):
        await asyncio.gather(*waiting)
    assert outcomes.find(KEY) == b"done"
    assert not other.done()
    assert set(outcomes.waiters) == {OTHER}
    outcomes.put(OTHER, b"done too")
    await other
    assert not outcomes.waiters


def test_the_newest_outcomes_stay_within_their_number_and_bytes() -> None:
    outcomes = Outcomes()
    for seq in range(MAX_OUTCOMES + 10):
        outcomes.put((PolicyId("policy_a"), seq), b"small")
    assert len(outcomes.kept) == MAX_OUTCOMES
    assert outcomes.find((PolicyId("policy_a"), 9)) is None
    assert outcomes.find((PolicyId("policy_a"), 10)) == b"small"
    outcomes.put(OTHER, bytes(KEPT_BYTES + 1))
    assert list(outcomes.kept) == [OTHER]
    outcomes.put(KEY, b"next")
    assert (list(outcomes.kept), outcomes.size_bytes) == ([KEY], 4)
