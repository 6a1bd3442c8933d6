"""Which blobs of an ended job go, and when it is looked at again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.records import wave_blobs
from services.rollout.core.erasure import (
    AWAY_SECONDS,
    RETRY_SECONDS,
    SETTLE_SECONDS,
    EndedJob,
    plan_erasure,
    prompts_key,
)
from tests.testing.factories import BASE, JOB, POLICY

ENDED = EndedJob(job_id=JOB, policy_id=POLICY, base=BASE, finished_at=100.0, is_recorded=True, untold=())
PROMPTS = [prompts_key(POLICY, JOB, step) for step in (1, 2, 3)]
RECORDS = [f"{ENDED.prefix}{name}.rec" for name in ("1-aa", "2-bb", "3-cc", "validation-dd")]
SETTLED = ENDED.finished_at + SETTLE_SECONDS


def test_no_job_s_prefix_begins_with_another_s() -> None:
    assert all(key.startswith(wave_blobs(POLICY, JOB)) for key in PROMPTS)
    assert not wave_blobs(POLICY, JOB + "0").startswith(wave_blobs(POLICY, JOB))


def test_all_goes_that_no_training_reads() -> None:
    plan = plan_erasure(
        ENDED, [*PROMPTS, *RECORDS], {RECORDS[1], "waves/other/job/1.rec"}, most=99, now=101.0
    )
    assert set(plan.keys) == {*PROMPTS, *RECORDS} - {RECORDS[1]}
    assert plan.next_at == 101.0 + RETRY_SECONDS


def test_records_wait_for_a_trainer_that_does_not_answer_and_prompts_do_not() -> None:
    plan = plan_erasure(ENDED, [*PROMPTS, *RECORDS], None, most=99, now=101.0)
    assert (plan.keys, plan.next_at) == (tuple(PROMPTS), 101.0 + AWAY_SECONDS)


@pytest.mark.parametrize(("now", "next_at"), [(101.0, SETTLED), (SETTLED, None), (SETTLED + 9, None)])
def test_a_job_is_looked_at_once_more_when_nobody_stores_for_it_any_more(
    now: float, next_at: float | None
) -> None:
    assert plan_erasure(ENDED, [], frozenset(), most=99, now=now).next_at == next_at
    assert plan_erasure(ENDED, RECORDS, frozenset(), most=99, now=now).next_at == next_at


@given(
    needed=st.sets(st.sampled_from(RECORDS)),
    most=st.integers(1, 9),
    now=st.floats(ENDED.finished_at, 3 * SETTLED),
)
def test_looks_end_with_what_is_needed_and_nothing_else(needed: set[str], most: int, now: float) -> None:
    keys = [*PROMPTS, *RECORDS]
    for _ in range(len(keys) + 1):
        plan = plan_erasure(ENDED, keys, needed, most=most, now=now)
        assert len(plan.keys) <= most
        assert needed.isdisjoint(plan.keys)
        keys = [key for key in keys if key not in plan.keys]
        if plan.next_at != now:
            break
    assert set(keys) == needed
    assert (plan.next_at is None) == (not needed and now >= SETTLED)
