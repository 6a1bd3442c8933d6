"""The model list: names in a stable order, never more than the limit."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.catalog import PolicyNames
from mint_common.ids import BaseName, JobId
from mint_common.testing.factories import POLICY, SPEC
from services.gateway.core.mint.submission import SubmittedJob, merge_jobs
from services.gateway.core.openai.listing import list_models


def _policy(name: str, latest: int, **aliases: int) -> PolicyNames:
    return PolicyNames(name=name, base=BaseName("tiny"), created_at=7.5, latest=latest, aliases=aliases)


def test_bases_policies_aliases_and_revisions_are_listed_in_this_order():
    policies = [_policy("counter", 2, prod=2, canary=1), _policy("fresh", 3)]
    listed = list_models(["tiny"], policies, contexts={"tiny": 64}, limit=100)
    assert [entry["id"] for entry in listed] == [
        "tiny",
        "counter",
        "fresh",
        "counter@canary",
        "counter@prod",
        "counter@2",
        "counter@1",
        "fresh@3",
    ]
    assert all(entry["object"] == "model" for entry in listed)
    assert (listed[0]["parent"], listed[1]["parent"]) == (None, "tiny")


@given(limit=st.integers(0, 30), aliases=st.integers(0, 12))
def test_the_list_is_bounded(limit, aliases):
    names = {f"a{number}": number for number in range(1, aliases + 1)}
    listed = list_models(["tiny"], [_policy("p", 99, **names)], contexts={}, limit=limit)
    assert len(listed) == min(limit, 2 + aliases + aliases + 1)


def _submission(name: str, at: float) -> SubmittedJob:
    return SubmittedJob(
        job_id=JobId(name),
        policy_id=POLICY,
        policy="counter",
        base="tiny",
        spec=SPEC,
        submitted_at=at,
        warnings=(),
    )


def _merged(submitted: dict[str, float], known: dict[str, float], *, limit: int) -> list[object]:
    asked = [_submission(name, at) for name, at in submitted.items()]
    taken = [
        {"job_id": name, "policy_id": POLICY, "created_at": at, "state": "running", "spec": {"data": None}}
        for name, at in known.items()
    ]
    return [job["job_id"] for job in merge_jobs(asked, taken, limit=limit)]


def test_jobs_that_rollout_knows_are_not_listed_twice():
    assert _merged({"new": 3.0, "a": 1.0}, {"a": 1.1}, limit=9) == ["new", "a"]


def test_a_job_that_rollout_left_out_of_a_full_list_is_not_said_to_wait():
    asked = {"new": 4.0, "c": 3.0, "b": 2.0, "a": 1.0}
    assert _merged(asked, {"c": 3.1, "b": 2.1}, limit=2) == ["new", "c"]
