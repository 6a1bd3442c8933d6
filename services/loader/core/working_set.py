"""The adapters that an engine held when it stopped, and the order of their reload."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mint_common.claims import RevisionRef
from mint_common.ids import TenantId

HALVING_SECONDS = 3600.0
"""Uses count half after every hour without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingSetEntry:
    """One tenant's part in an adapter of the working set. ``last_used_at`` is seconds since the epoch."""

    revision: RevisionRef
    tenant_id: TenantId
    pinned: bool
    uses: int
    last_used_at: float


def hottest_first(kept: Iterable[WorkingSetEntry], *, now: float, most: int) -> list[WorkingSetEntry]:
    """Return at most ``most`` adapters: pinned ones, then those used often and recently.

    Tenants take turns, so that one with many adapters delays no other.
    """
    ordered = sorted(kept, key=lambda each: (each.pinned, _heat(each, now)), reverse=True)
    chosen = set(list(dict.fromkeys(each.revision.digest for each in ordered))[:most])
    turns: Counter[TenantId] = Counter()
    in_turn: list[tuple[int, WorkingSetEntry]] = []
    for each in ordered:
        if each.revision.digest in chosen:
            in_turn.append((turns[each.tenant_id], each))
            turns[each.tenant_id] += 1
    return [each for _, each in sorted(in_turn, key=lambda turn: turn[0])]


def _heat(each: WorkingSetEntry, now: float) -> float:
    return math.log2(1 + each.uses) - max(0.0, now - each.last_used_at) / HALVING_SECONDS
