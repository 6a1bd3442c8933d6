"""Which adapter should leave? The loader's own residency under cost-aware, LRU and LFU eviction, on traces.

No engine: the trace drives `core.residency`, which is what the loader decides with.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from benches.report import Report, Row, make_row
from mint_common.ids import Digest
from services.loader.core.residency import Capacity, Residency, Resident

NAMES, REQUESTS, SEEDS = 2_000, 12_000, (1, 2, 3)
HOST_BYTES = 400 << 20
SIZES_MIB = (1, 2, 4, 8, 32)
"""Adapters of ranks 4 to 64, and a few of experts."""
FIXED_SECONDS, BYTES_PER_SECOND = 0.003, 200e6
"""A load: what it costs whatever it weighs, and what its bytes take."""
SCAN_EVERY, SCAN_LENGTH = 1_500, 400


class LeastRecent(Residency, frozen=True):
    """Evicts who was used longest ago."""

    def _worth(self, resident: Resident) -> float:
        return float(resident.touched)


class LeastFrequent(Residency, frozen=True):
    """Evicts who was used least."""

    def _worth(self, resident: Resident) -> float:
        return float(resident.uses)


EVICTIONS: dict[str, type[Residency]] = {"gdsf": Residency, "lru": LeastRecent, "lfu": LeastFrequent}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trace came to."""

    hit_ratio: float
    reload_seconds: float


def run() -> Report:
    """Measure."""
    traces = {"zipf": zipf_trace, "scan": scan_trace}
    found = {
        (kind, name): [_replay(list(trace(seed)), eviction, seed) for seed in SEEDS]
        for kind, trace in traces.items()
        for name, eviction in EVICTIONS.items()
    }
    rows = [row for kind in traces for row in _rows(kind, {name: found[kind, name] for name in EVICTIONS})]

    def draw(figure: Any) -> None:
        for place, kind in enumerate(traces):
            axes = figure.add_subplot(1, 2, 1 + place)
            axes.bar(list(EVICTIONS), [_mean_seconds(found[kind, name]) for name in EVICTIONS])
            axes.set_title(f"{kind}: seconds of reloading")

    return Report(bench="eviction", rows=rows, draw=draw)


def zipf_trace(seed: int) -> Iterator[int]:
    """Yield names by popularity, which shifts once in the middle."""
    rng = random.Random(seed)
    weights = list(accumulate(1 / (1 + rank) for rank in range(NAMES)))
    for _ in range(2):
        order = list(range(NAMES))
        rng.shuffle(order)
        yield from rng.choices(order, cum_weights=weights, k=REQUESTS // 2)


def scan_trace(seed: int) -> Iterator[int]:
    """Yield a Zipf trace into which somebody regularly reads many names once."""
    fresh = NAMES
    for at, name in enumerate(zipf_trace(seed)):
        if at % SCAN_EVERY == SCAN_EVERY - 1:
            yield from range(fresh, fresh + SCAN_LENGTH)
            fresh += SCAN_LENGTH
        yield name


def _replay(trace: Sequence[int], eviction: type[Residency], seed: int) -> Outcome:
    capacity = Capacity(slots=8, host=10_000, host_bytes=HOST_BYTES)
    residency, hits, seconds = eviction(capacity=capacity), 0, 0.0
    for at, name in enumerate(trace):
        digest = Digest(str(name))
        if residency.in_host(digest):
            hits += 1
            residency = residency.claim(digest, now=at).unclaim(digest, now=at)
            continue
        size_bytes = SIZES_MIB[random.Random(seed * 1_000_003 + name).randrange(len(SIZES_MIB))] << 20
        cost = FIXED_SECONDS + size_bytes / BYTES_PER_SECOND
        for victim in residency.plan_room(size_bytes).victims:
            residency = residency.evict(victim)
        residency = residency.reserve(digest, size_bytes).finish_load(
            digest, size_bytes=size_bytes, load_seconds=cost, claims=0, now=at
        )
        seconds += cost
    return Outcome(hit_ratio=hits / len(trace), reload_seconds=seconds)


def _rows(kind: str, found: dict[str, list[Outcome]]) -> list[Row]:
    how = f"{REQUESTS} requests over {NAMES} names, {len(SEEDS)} seeds, room for {HOST_BYTES >> 20} MiB"
    rows = []
    for name, outcomes in found.items():
        hits = [outcome.hit_ratio for outcome in outcomes]
        rows.append(make_row(f"{kind}_hit_ratio_{name}", hits, unit="", goal=None, better="higher", how=how))
    for other in ("lru", "lfu"):
        ratios = [
            ours.reload_seconds / theirs.reload_seconds
            for ours, theirs in zip(found["gdsf"], found[other], strict=True)
        ]
        rows.append(
            make_row(
                f"{kind}_reload_seconds_over_{other}",
                ratios,
                unit="x",
                goal=1.0,
                better="lower",
                how=f"seconds of loading, cost-aware over {other}; {how}",
            )
        )
    return rows


def _mean_seconds(outcomes: Sequence[Outcome]) -> float:
    return sum(outcome.reload_seconds for outcome in outcomes) / len(outcomes)
