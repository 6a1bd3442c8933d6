"""Names of jobs, and of the policies that they make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import NotFound
from mint_common.ids import BaseName, JobId, derive_id
from mint_common.names import check_policy_name
from services.rollout.core.fine_tuning.names import (
    job_id_of,
    job_of_results,
    policy_names,
    results_id,
    seed_of,
    shown_id,
    split_model,
)

JOB = JobId(derive_id("job", "a"))


def test_a_job_has_one_id_with_two_prefixes():
    assert job_id_of(shown_id(JOB)) == job_id_of(JOB) == JOB
    for name in ("", "ftjob-", "ftjob-short", "file-" + "a" * 26, shown_id(JOB) + "a", shown_id(JOB).upper()):
        with pytest.raises(NotFound):
            job_id_of(name)


def test_results_are_of_one_job():
    assert job_of_results(results_id(JOB)) == JOB
    assert job_of_results("file-" + "a" * 26) is None


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True), st.none() | st.text(max_size=64))
def test_new_policies_have_names_that_policies_may_have(base, suffix):
    names = policy_names(BaseName(base), suffix, JOB)
    for name in names:
        check_policy_name(name)
    assert JOB[4:16] in names[-1]


def test_a_policy_is_named_after_base_and_suffix():
    assert policy_names(BaseName("tiny"), "My Support!", JOB)[0] == "tiny-my-support"
    assert policy_names(BaseName("tiny"), None, JOB) == policy_names(BaseName("tiny"), "!", JOB)
    assert policy_names(BaseName("tiny"), None, JOB)[0] == f"tiny-{JOB[4:16]}"


@given(
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True), st.none() | st.sampled_from(["a", "b" * 64])
)
def test_no_new_policy_has_the_name_of_a_base(base, suffix):
    plain, marked, *last = policy_names(BaseName(base), suffix or "s", JOB)
    left = policy_names(BaseName(base), suffix or "s", JOB, bases={plain, marked})
    assert list(left) == last
    assert base not in policy_names(BaseName(base), suffix, JOB)


def test_a_model_is_a_name_and_a_revision():
    assert split_model("tiny") == ("tiny", None)
    assert split_model("tiny-a@7") == ("tiny-a", "7")
    assert split_model("tiny-a@") == ("tiny-a", "")


def test_a_seed_is_the_same_for_a_repeat():
    assert seed_of(JOB) == seed_of(JOB) != seed_of(JobId(derive_id("job", "b")))
    assert all(0 <= seed_of(JobId(derive_id("job", n))) < 2**31 for n in range(1000))
