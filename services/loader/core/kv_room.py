"""Whose running sequences make room in the KV cache, so that none fills it against the others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KvUse:
    """KV cache that a sequence holds or needs."""

    tenant: str
    tokens: int


def largest_last(running: Sequence[KvUse]) -> list[int]:
    """Return the order in which a full cache retains sequences: the last one is preempted first.

    Those of the tenant with the largest use come last, its latest sequence at the very end.
    """
    held = _by_tenant(running)
    return sorted(range(len(running)), key=lambda at: held[running[at].tenant])


def plan_room(
    running: Sequence[KvUse], newcomer: KvUse, *, free_tokens: int, all_tokens: int, tenants: int
) -> list[int]:
    """Return which running sequences end up waiting again so that a newcomer fits; none if it may not.

    A newcomer takes room only within its tenant's even share, and only from tenants that hold more than
    theirs. Who started last goes first.
    """
    held = _by_tenant(running)
    share = all_tokens // tenants
    if held[newcomer.tenant] + newcomer.tokens > share:
        return []
    victims: list[int] = []
    while free_tokens < newcomer.tokens:
        over = [at for at, each in enumerate(running) if at not in victims and held[each.tenant] > share]
        if not over:
            return []
        victim = max(over, key=lambda at: (held[running[at].tenant], at))
        held[running[victim].tenant] -= running[victim].tokens
        free_tokens += running[victim].tokens
        victims.append(victim)
    return victims


def _by_tenant(sequences: Sequence[KvUse]) -> Counter[str]:
    held: Counter[str] = Counter()
    for each in sequences:
        held[each.tenant] += each.tokens
    return held
