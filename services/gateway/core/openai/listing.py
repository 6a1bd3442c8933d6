"""The names that a tenant can use as ``model``."""

from collections.abc import Iterable, Mapping, Sequence

from mint_common.catalog import PolicyNames
from mint_common.ids import BaseName
from mint_common.json_types import JsonObject


def model_entry(
    name: str, *, created: int, root: str, parent: str | None, max_context: int | None
) -> JsonObject:
    """Return one entry of the OpenAI model list; ``parent`` is the base of a policy, as in vLLM.

    ``max_context`` is None while no engine of the base is known.
    """
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "mint",
        "root": root,
        "parent": parent,
        "max_model_len": max_context,
    }


def list_models(
    bases: Iterable[BaseName],
    policies: Sequence[PolicyNames],
    *,
    contexts: Mapping[BaseName, int],
    limit: int,
) -> list[JsonObject]:
    """Return at most ``limit`` entries: bases, then policies, then aliases, then revisions, newest first.

    ``contexts`` has the context of each base that an engine serves.
    """

    def entry(policy: PolicyNames, name: str) -> JsonObject:
        most = contexts.get(policy.base)
        created, root = int(policy.created_at), policy.name
        return model_entry(name, created=created, root=root, parent=policy.base, max_context=most)

    entries = [
        model_entry(base, created=0, root=base, parent=None, max_context=contexts.get(base))
        for base in sorted(bases)
    ]
    entries += [entry(policy, policy.name) for policy in policies]
    entries += [
        entry(policy, f"{policy.name}@{alias}") for policy in policies for alias in sorted(policy.aliases)
    ]
    for policy in policies:
        numbers = sorted(policy.numbers, reverse=True)
        entries += [entry(policy, f"{policy.name}@{number}") for number in numbers]
    return entries[:limit]
