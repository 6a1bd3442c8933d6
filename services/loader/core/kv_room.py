"""Whose running sequences make room in the KV cache, so that none fills it against the others."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KvUse:
    """KV cache that a sequence holds or needs."""

    tenant: str
    tokens: int
    is_background: bool = False


def largest_last(running: Sequence[KvUse]) -> list[int]:
    """Return the order in which a full cache retains sequences: the last one is preempted first.

    Background sequences come last; within each kind those of the tenant with the largest use, its latest
    sequence at the very end.
    """
    held = _by_tenant(running)
    return sorted(range(len(running)), key=lambda at: _weight(running[at], held))


def plan_room(running: Sequence[KvUse], newcomer: KvUse, *, free_tokens: int, share_tokens: int) -> list[int]:
    """Return which running sequences end up waiting again so that a newcomer fits; none if it may not.

    An interactive newcomer takes room from background sequences first. From its own kind a newcomer takes
    only within its tenant's share, and only from tenants that hold more than theirs. Who started last goes
    first.
    """
    held = _by_tenant(running)
    is_within = held[newcomer.is_background, newcomer.tenant] + newcomer.tokens <= share_tokens
    limit = newcomer.is_background, share_tokens if is_within else math.inf
    victims: list[int] = []
    while free_tokens < newcomer.tokens:
        over = [at for at, each in enumerate(running) if at not in victims and _weight(each, held) > limit]
        if not over:
            return []
        victim = max(over, key=lambda at: (*_weight(running[at], held), at))
        gone = running[victim]
        held[gone.is_background, gone.tenant] -= gone.tokens
        free_tokens += gone.tokens
        victims.append(victim)
    return victims


def _weight(each: KvUse, held: Counter[tuple[bool, str]]) -> tuple[bool, int]:
    return each.is_background, held[each.is_background, each.tenant]


def _by_tenant(sequences: Sequence[KvUse]) -> Counter[tuple[bool, str]]:
    held: Counter[tuple[bool, str]] = Counter()
    for each in sequences:
        held[each.is_background, each.tenant] += each.tokens
    return held
