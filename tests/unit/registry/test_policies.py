"""What may describe a policy, and how changes merge."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.catalog import PolicyRecord
from mint_common.errors import InvalidField, PreconditionFailed
from mint_common.events import Retention
from services.registry.core.policies import (
    MAX_LABELS,
    PolicyChange,
    change_policy,
    parse_labels,
)
from tests.testing.factories import BASE, LORA, POLICY, TENANT

PLAIN = PolicyRecord(
    policy_id=POLICY, tenant_id=TENANT, name="p", base=BASE, lora=LORA, created_at=0.0, latest=None
)
LABELS = st.from_regex(r"[a-z0-9][a-z0-9._/-]{0,9}", fullmatch=True)
VALUES = st.from_regex(r"([A-Za-z0-9]([A-Za-z0-9._/-]{0,8}[A-Za-z0-9])?)?", fullmatch=True)


@given(
    before=st.dictionaries(LABELS, VALUES, max_size=8),
    change=st.dictionaries(LABELS, st.none() | VALUES, max_size=8),
)
def test_labels_merge(before: dict[str, str], change: dict[str, str | None]) -> None:
    policy = replace(PLAIN, labels=dict(sorted(before.items())))
    after = change_policy(policy, PolicyChange(labels=change))
    for label, value in change.items():
        assert after.labels.get(label) == value
    for label in before.keys() - change.keys():
        assert after.labels[label] == before[label]
    assert after.changed == (after.labels != policy.labels)
    assert change_policy(after, PolicyChange(labels=change)) == after


@given(st.dictionaries(LABELS, VALUES, min_size=1, max_size=5))
def test_labels_of_a_list_are_read_as_written(labels: dict[str, str]) -> None:
    text = ",".join(f"{label}={value}" for label, value in labels.items())
    assert dict(parse_labels(text)) == labels


@pytest.mark.parametrize("text", ["", "team", "team=a,team=b", "Team=a", "team=a b", "team=a,", "=a"])
def test_unreadable_labels_name_the_field(text: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_labels(text)
    assert refused.value.field == "labels"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (PolicyChange(description="x" * 2001), "description"),
        (PolicyChange(description="a\0b"), "description"),
        (PolicyChange(labels={"a b": "c"}), "labels"),
        (PolicyChange(labels={"a": "c d"}), "labels"),
        (PolicyChange(labels={f"l{n}": "v" for n in range(MAX_LABELS + 1)}), "labels"),
        (PolicyChange(retention=Retention(keep_last=0)), "retention.keep_last"),
        (PolicyChange(retention=Retention(keep_days=-1)), "retention.keep_days"),
    ],
)
def test_what_may_not_describe_a_policy_is_refused_by_name(change: PolicyChange, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        change_policy(PLAIN, change)
    assert refused.value.field == field


def test_change_of_another_state_is_refused() -> None:
    with pytest.raises(PreconditionFailed):
        change_policy(PLAIN, PolicyChange(description="x"), expected=1)
