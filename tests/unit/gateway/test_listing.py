"""The model list: names in a stable order, never more than the limit."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.catalog import PolicyNames
from mint_common.ids import BaseName
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
