"""What is said of a job that can go wrong, before it begins."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.algorithms import Algorithms
from mint_common.errors import InvalidField
from services.rollout.core.job_plan import MAX_LEARNING_RATE, JobRequest, plan_job
from services.rollout.core.job_warnings import (
    HIGH_LEARNING_RATE,
    TaskLengths,
    job_warnings,
    task_change_warnings,
)
from tests.testing.factories import SPEC

CONTEXT = 64
QUIET = replace(SPEC, learning_rate=1e-4, max_new_tokens=16)
lengths = st.lists(st.integers(1, 100), max_size=16).map(tuple)


def warned(spec=QUIET, *, prompts=(), references=()):
    return job_warnings(
        spec, TaskLengths(prompts=tuple(prompts), references=tuple(references)), max_context=CONTEXT
    )


@given(prompts=lengths)
def test_prompts_are_warned_of_exactly_when_one_does_not_fit_beside_its_completion(prompts):
    assert bool(warned(prompts=prompts)) == any(length + 16 > CONTEXT for length in prompts)


@given(references=lengths)
def test_answers_are_warned_of_when_half_of_them_cannot_be_sampled_whole(references):
    long = sum(length > 16 for length in references)
    assert bool(warned(references=references)) == (0 < 2 * long >= len(references))


@given(rate=st.floats(1e-6, MAX_LEARNING_RATE))
def test_a_learning_rate_is_warned_of_above_the_documented_size(rate):
    assert bool(warned(replace(QUIET, learning_rate=rate))) == (rate > HIGH_LEARNING_RATE)


def test_warnings_name_the_numbers():
    (prompt,) = warned(prompts=[50, 40])
    assert prompt == (
        f"1 of 2 prompts of {SPEC.task} do not fit the base: the longest has 50 tokens, and its context of 64"
        " leaves 48 beside max_new_tokens 16"
    )


def test_what_nobody_could_measure_is_not_warned_of():
    assert job_warnings(QUIET, None, max_context=1) == ()


def test_a_learning_rate_that_cannot_be_meant_is_refused():
    request = JobRequest(policy="p", task="t", learning_rate=1.0)
    with pytest.raises(InvalidField, match=r"learning_rate.*at most 0\.1"):
        plan_job(request, Algorithms(), defaults={}, max_context=512)


def test_another_task_than_before_is_warned_of():
    assert task_change_warnings(SPEC, None, policy="p", number=3) == ()
    assert task_change_warnings(SPEC, SPEC.task, policy="p", number=3) == ()
    (warning,) = task_change_warnings(SPEC, "mode:sort", policy="p", number=3)
    assert warning == (
        "policy p was last trained on mode:sort: this job goes on from its revision 3, and what it can do of"
        f" mode:sort may be lost; for {SPEC.task} alone, create another policy"
    )
