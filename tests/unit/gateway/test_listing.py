"""The model list: names in a stable order, never more than the limit."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.listing import PolicyNames, list_models
from services.gateway.core.submission import merge_jobs


def _policy(name: str, **names) -> PolicyNames:
    return PolicyNames(name=name, base="tiny", created=7, **names)


def test_bases_policies_aliases_and_revisions_are_listed_in_this_order():
    policies = [_policy("counter", aliases=["prod", "canary"], numbers=[1, 2]), _policy("fresh")]
    listed = list_models(["tiny"], policies, limit=100)
    assert [entry["id"] for entry in listed] == [
        "tiny",
        "counter",
        "fresh",
        "counter@canary",
        "counter@prod",
        "counter@2",
        "counter@1",
    ]
    assert all(entry["object"] == "model" for entry in listed)
    assert (listed[0]["parent"], listed[1]["parent"]) == (None, "tiny")


@given(limit=st.integers(0, 12), numbers=st.integers(0, 12))
def test_the_list_is_bounded(limit, numbers):
    listed = list_models(["tiny"], [_policy("p", numbers=range(numbers))], limit=limit)
    assert len(listed) == min(limit, numbers + 2)


def test_jobs_that_rollout_knows_are_not_listed_twice():
    assert merge_jobs([], [{"job_id": "a"}]) == [{"job_id": "a"}]
