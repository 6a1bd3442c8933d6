"""The names that a tenant can put into ``model``."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from services.gateway.core.json_types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyNames:
    """What one policy is listed by: its name, its aliases and the revisions that these stand for."""

    name: str
    base: str
    created: int
    aliases: Sequence[str] = ()
    numbers: Collection[int] = ()


def model_entry(name: str, *, created: int, root: str, parent: str | None) -> JsonObject:
    """Return one entry of the OpenAI model list; ``parent`` is the base of a policy, as in vLLM."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "mint",
        "root": root,
        "parent": parent,
    }


def list_models(bases: Iterable[str], policies: Sequence[PolicyNames], *, limit: int) -> list[JsonObject]:
    """Return at most ``limit`` entries: bases, then policies, then aliases, then revisions, newest first."""
    entries = [model_entry(base, created=0, root=base, parent=None) for base in sorted(bases)]
    entries += [_policy_entry(policy, policy.name) for policy in policies]
    entries += [
        _policy_entry(policy, f"{policy.name}@{a}") for policy in policies for a in sorted(policy.aliases)
    ]
    for policy in policies:
        numbers = sorted(policy.numbers, reverse=True)
        entries += [_policy_entry(policy, f"{policy.name}@{number}") for number in numbers]
    return entries[:limit]


def _policy_entry(policy: PolicyNames, name: str) -> JsonObject:
    return model_entry(name, created=policy.created, root=policy.name, parent=policy.base)
