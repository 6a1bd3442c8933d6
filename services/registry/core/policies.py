"""Changes of a policy: description, labels and retention.

A change is a merge patch (RFC 7396): absent fields stay, a label set to None is removed.
"""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from mint_common.catalog import PolicyRecord
from mint_common.errors import InvalidField, PreconditionFailed
from mint_common.events import PolicyChanged, PolicyCreated, PolicyRemoved, Retention

MAX_LABELS = 32
MAX_DESCRIPTION = 2000
MAX_KEPT = 1_000_000
LABEL_PATTERN = r"^[a-z0-9][a-z0-9._/-]{0,62}$"
VALUE_PATTERN = r"^([A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?)?$"

_LABEL = re.compile(LABEL_PATTERN.removesuffix("$"), re.ASCII)
_VALUE = re.compile(VALUE_PATTERN.removesuffix("$"), re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """A change of a policy; None leaves a field, ``of_retention`` names the bounds that it sets."""

    description: str | None = None
    labels: Mapping[str, str | None] = field(default_factory=dict)
    retention: Retention | None = None
    of_retention: AbstractSet[str] = frozenset({"keep_last", "keep_days"})


def change_policy(policy: PolicyRecord, change: PolicyChange, *, expected: int | None = None) -> PolicyRecord:
    """Return the changed policy; its ``changed`` counts up unless the change had no effect.

    ``expected`` is the ``changed`` that the policy must have, None for no condition. Raises
    PreconditionFailed, InvalidField.
    """
    if expected is not None and expected != policy.changed:
        raise PreconditionFailed(
            what=f"change of policy {policy.name!r}", found=str(policy.changed), expected=str(expected)
        )
    merged = {**policy.labels, **change.labels}
    described = replace(
        policy,
        description=policy.description if change.description is None else change.description,
        labels={label: value for label, value in sorted(merged.items()) if value is not None},
        retention=_merged(policy.retention, change),
    )
    check_description(described)
    return described if described == policy else replace(described, changed=policy.changed + 1)


def _merged(retention: Retention, change: PolicyChange) -> Retention:
    if change.retention is None:
        return retention
    return replace(retention, **{name: getattr(change.retention, name) for name in change.of_retention})


def check_description(policy: PolicyRecord) -> None:
    """Check a policy's description, labels and retention. Raises InvalidField."""
    if len(policy.description) > MAX_DESCRIPTION or "\0" in policy.description:
        problem = f"may have {MAX_DESCRIPTION} characters and no NUL, got {len(policy.description)}"
        raise InvalidField(field="description", problem=problem)
    if len(policy.labels) > MAX_LABELS:
        problem = f"a policy has {MAX_LABELS} labels at most, got {len(policy.labels)}"
        raise InvalidField(field="labels", problem=problem)
    for label, value in policy.labels.items():
        _check_label(label, value)
    for name in ("keep_last", "keep_days"):
        kept = getattr(policy.retention, name)
        if kept is not None and not 1 <= kept <= MAX_KEPT:
            problem = f"must be between 1 and {MAX_KEPT}, got {kept}"
            raise InvalidField(field=f"retention.{name}", problem=problem)


def parse_labels(text: str) -> tuple[tuple[str, str], ...]:
    """Parse the label filter of a list: ``team=search,stage=prod``. Raises InvalidField."""
    found: dict[str, str] = {}
    for part in text.split(","):
        label, equals, value = part.partition("=")
        if not equals or label in found:
            problem = f"must read label=value,label=value with each label once, got {text[:200]!r}"
            raise InvalidField(field="labels", problem=problem)
        _check_label(label, value)
        found[label] = value
    return tuple(sorted(found.items()))


def created(policy: PolicyRecord) -> PolicyCreated:
    """Return the event of a new policy."""
    return PolicyCreated(
        tenant_id=policy.tenant_id,
        base=policy.base,
        policy_id=policy.policy_id,
        name=policy.name,
        lora=policy.lora,
        description=policy.description,
        labels=policy.labels,
        retention=policy.retention,
    )


def changed(policy: PolicyRecord) -> PolicyChanged:
    """Return the event of a changed policy."""
    return PolicyChanged(
        tenant_id=policy.tenant_id,
        base=policy.base,
        policy_id=policy.policy_id,
        changed=policy.changed,
        name=policy.name,
        description=policy.description,
        labels=policy.labels,
        retention=policy.retention,
    )


def removed(policy: PolicyRecord, *, actor: str) -> PolicyRemoved:
    """Return the event of a removed policy."""
    return PolicyRemoved(
        tenant_id=policy.tenant_id,
        base=policy.base,
        policy_id=policy.policy_id,
        name=policy.name,
        actor=actor,
    )


def _check_label(label: str, value: str) -> None:
    if not _LABEL.fullmatch(label):
        raise InvalidField(field="labels", problem=f"label {label[:100]!r} does not match {LABEL_PATTERN}")
    if not _VALUE.fullmatch(value):
        problem = f"value {value[:100]!r} of {label!r} does not match {VALUE_PATTERN}"
        raise InvalidField(field="labels", problem=problem)
