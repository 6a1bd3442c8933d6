"""How many engines does a wave of thousands of distinct adapters need? Simulated time, real decisions.

The engine is calibrated to the MinT paper's (arXiv 2605.13779, 30B-A3B at rank 1 on four GPUs): Table 10 puts
its saturation at 3.5 requests/s of 64 tokens with a first token after 0.5 s, Table 8 a packed live load at
0.16 s and one of the per-expert layout at 1.36 s. Only what MinT decides differs between the curves.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benches.fleet_choice import measure
from benches.report import Report, make_row, percentile
from mint_common.client.prefixes import PrefixMap
from mint_common.ids import TenantId
from tests.sim.fleet.conversations import Talk, converse, hit_ratio, imbalance
from tests.sim.fleet.fleet import Fleet
from tests.sim.fleet.model import Model, Request
from tests.sim.fleet.traffic import Zipf, name_digest, poisson

PAPER = Model(slots=64, host=369, sequences=10, prefill_seconds=0.5, token_seconds=0.035, layout_seconds=0.03)
PER_EXPERT = replace(PAPER, layout_seconds=1.36, load_workers=1)
DISTINCT, WAVE_SECONDS, SLO_SECONDS = 2300, 60.0, 5.0
ENGINES = (10, 12, 15, 20, 28, 36, 55, 72)
PER_EXPERT_ENGINES = (44, 55, 72, 90, 110, 140)
PAPER_WARM, PAPER_COLD, PAPER_BURST = 36, 55, 72
MANY, NAMES, PER_ENGINE_RATE, MANY_SECONDS = 200, 1_000_000, 2.0, 40.0
PUBLISHED, HOMES = 4000, 2
TALKED = Model(
    host=256,
    sequences=64,
    layout_seconds=0.03,
    prefill_seconds=0.05,
    prompt_token_seconds=0.0002,
    kv_tokens=200_000,
)
TALKERS = 4


def run() -> Report:
    """Simulate."""
    packed = {count: wave(PAPER, count, seed=1) for count in ENGINES}
    per_expert = {count: wave(PER_EXPERT, count, seed=1) for count in PER_EXPERT_ENGINES}
    cold = [enough(packed, 0), enough(per_expert, 0)]
    seeds = [enough({count: wave(PAPER, count, seed=seed) for count in ENGINES[:4]}, 0) for seed in (2, 3)]
    warm = enough(packed, 1)
    began = time.perf_counter()
    fleet = many_engines()
    simulated = time.perf_counter() - began
    published = publications()
    by_prefix, by_adapter, alone = talks()
    one_engine = hit_ratio(alone)
    answered = [request for request in fleet.requests if not request.refused]
    floor = DISTINCT / WAVE_SECONDS / _capacity(PAPER)
    rows = [
        make_row(
            "engines_for_cold_wave",
            [float(each) for each in (cold[0], *seeds)],
            unit="engines",
            goal=PAPER_COLD,
            better="lower",
            limit=floor,
            value=float(cold[0]),
            how=f"fewest engines that give {DISTINCT} distinct cold adapters, all asked for within "
            f"{WAVE_SECONDS:.0f} s, a first token within {SLO_SECONDS:.0f} s at p95 with none refused; the "
            "paper's Table 19 plans 55 by its cold-load rate, 72 to isolate bursts; the limit is throughput",
        ),
        make_row(
            "engines_for_cold_wave_per_expert",
            [float(cold[1])],
            unit="engines",
            goal=PAPER_BURST,
            better="lower",
            limit=floor,
            how="the same with per-expert files, one load at a time at 1.36 s: what packing buys a fleet",
        ),
        make_row(
            "engines_for_warm_wave",
            [float(warm)],
            unit="engines",
            goal=PAPER_WARM,
            better="lower",
            limit=floor,
            how="the same wave asked for again at once after the first; the paper plans ceil(2300 / 64) = 36 "
            "so that each adapter has a slot of its own; host memory makes that unnecessary",
        ),
        make_row(
            "fleet_first_token_p95",
            [request.first_seconds for request in answered],
            unit="s",
            goal=SLO_SECONDS,
            better="lower",
            limit=PAPER.prefill_seconds,
            value=percentile([request.first_seconds for request in answered], 0.95),
            how=f"{MANY} engines, {NAMES:,} names, Zipf 1.0, {PER_ENGINE_RATE:g} requests/s each for "
            f"{MANY_SECONDS:.0f} s, an engine killed every 10 s; the limit is the prefill",
        ),
        make_row(
            "fleet_refused_share",
            [1 - len(answered) / len(fleet.requests)],
            unit="ratio",
            goal=0.001,
            better="lower",
            limit=0.0,
            how="of the same requests, those that gave up after 20 polite retries",
        ),
        make_row(
            "fleet_memory_share",
            [_share(answered, "slot", "host")],
            unit="ratio",
            goal=0.4,
            better="higher",
            limit=_best_share(),
            how="of the same requests, those that found their adapter in a slot or in host memory of the "
            "engine that they were sent to; the limit is the share of the names that fit all host memory",
        ),
        make_row(
            "fleet_prewarms_per_publication",
            [published.prewarms / PUBLISHED],
            unit="loads",
            goal=float(HOMES),
            better="lower",
            limit=1.0,
            how=f"loads ahead of need that a new revision causes in a fleet of {MANY} engines, one killed"
            f" every 10 s: {HOMES} homes; every engine would load it without homes",
        ),
        make_row(
            "fleet_prewarmed_share",
            [_share(published.requests, "slot", "host")],
            unit="ratio",
            goal=0.99,
            better="higher",
            limit=1.0,
            how=f"of the first requests for those {PUBLISHED:,} revisions, 2 to 10 s after their publication,"
            " those that found the adapter in memory",
        ),
        make_row(
            "prefix_hit_ratio",
            [hit_ratio(by_prefix) / one_engine],
            unit="ratio",
            goal=0.9,
            better="higher",
            limit=1.0,
            how="64 policies, 8 conversations each, growing from 576 to 1,728 tokens, over"
            f" {TALKERS} engines of {TALKED.kv_tokens:,} tokens of KV cache: the part of the prompts that was"
            f" in the prefix caches, over that of one engine with all of the memory ({one_engine:.2f});"
            f" {hit_ratio(by_adapter) / one_engine:.2f} if the adapter alone decides",
        ),
        make_row(
            "prefix_load_imbalance",
            [imbalance(by_prefix)],
            unit="ratio",
            goal=1.3,
            better="lower",
            limit=1.0,
            how="tokens of the busiest of those engines over their mean;"
            f" {imbalance(by_adapter):.2f} if the adapter alone decides",
        ),
        make_row(
            "simulated_requests_per_second",
            [len(fleet.requests) / simulated],
            unit="1/s",
            goal=500.0,
            better="higher",
            how="speed of the simulation itself, on one core",
        ),
        *measure(),
    ]

    def draw(figure: Any) -> None:  # Any: matplotlib is untyped
        left, right = figure.subplots(1, 2)
        for label, waves in (("packed", packed), ("per expert", per_expert)):
            left.plot(list(waves), [p95[0] for p95 in waves.values()], marker="o", label=f"cold, {label}")
        left.plot(ENGINES, [packed[count][1] for count in ENGINES], marker="o", label="warm, packed")
        left.axhline(SLO_SECONDS, color="grey", linestyle=":")
        for number in (PAPER_WARM, PAPER_COLD, PAPER_BURST):
            left.axvline(number, color="grey", linewidth=0.5)
        left.set(
            title=f"{DISTINCT} distinct adapters in {WAVE_SECONDS:.0f} s",
            xlabel="engines (thin lines: the paper's plan)",
            ylabel="first token p95, s",
            yscale="log",
        )
        left.legend()
        tiers = [tier for tier in ("slot", "host", "disk", "remote") if _share(answered, tier)]
        right.boxplot(
            [[r.first_seconds for r in answered if r.found == tier] for tier in tiers],
            tick_labels=[f"{tier}\n{_share(answered, tier):.0%}" for tier in tiers],
            showfliers=False,
        )
        right.set(title=f"{MANY} engines, {NAMES:,} names, Zipf 1.0", ylabel="first token, s")

    return Report(bench="fleet", rows=rows, draw=draw)


def wave(model: Model, engines: int, *, seed: int) -> tuple[float, float]:
    """Return the p95 of the first token of a wave of distinct adapters, and of the same wave again.

    Infinity when a request was refused: nobody may be turned away.
    """
    rng = random.Random(seed)
    fleet = Fleet(model=model, count=engines)
    results = []
    for start in (0.0, WAVE_SECONDS):
        asked = [
            Request(
                tenant_id=TenantId(f"tenant-{number % 20}"),
                digest=name_digest(number),
                tokens=64,
                at=start + rng.uniform(0, WAVE_SECONDS),
            )
            for number in range(DISTINCT)
        ]
        fleet.submit(asked)
        fleet.world.run(start + WAVE_SECONDS)
        results.append(asked)
    while fleet.open_requests and fleet.world.now < 1200:
        fleet.world.run(fleet.world.now + 10)
    first, second = (
        percentile([r.first_seconds for r in asked], 0.95)
        if all(r.done_at is not None for r in asked)
        else float("inf")
        for asked in results
    )
    return first, second


def enough(waves: dict[int, tuple[float, float]], which: int) -> int:
    """Return the fewest engines that meet the SLO; more than were tried when none does."""
    return next((count for count, p95 in waves.items() if p95[which] <= SLO_SECONDS), 10 * max(waves))


def many_engines() -> Fleet:
    """Run a large fleet under skewed traffic and failures."""
    rng = random.Random(9)
    fleet = Fleet(model=PAPER, count=MANY)
    names = Zipf(NAMES, 1.0, rng)
    rate = MANY * PER_ENGINE_RATE
    fleet.submit(poisson(names, rng, per_second=rate, seconds=MANY_SECONDS, tenants=500))
    fleet.fail_engines(rng, every_seconds=10.0, down_seconds=20.0, until=MANY_SECONDS)
    fleet.world.run(MANY_SECONDS)
    while fleet.open_requests and fleet.world.now < 600:
        fleet.world.run(fleet.world.now + 5)
    return fleet


def publications() -> Fleet:
    """Publish revisions in a fleet whose engines fail, and ask for each of them once."""
    rng = random.Random(11)
    fleet = Fleet(model=PAPER, count=MANY, homes=HOMES)
    for number in range(PUBLISHED):
        at, tenant_id = rng.uniform(0, MANY_SECONDS), TenantId(f"tenant-{number % 20}")
        fleet.publish(name_digest(number), tenant_id, at=at)
        asked_at = at + rng.uniform(2.0, 10.0)
        fleet.submit([Request(tenant_id=tenant_id, digest=name_digest(number), tokens=64, at=asked_at)])
    fleet.fail_engines(rng, every_seconds=10.0, down_seconds=20.0, until=MANY_SECONDS)
    while fleet.open_requests and fleet.world.now < 600:
        fleet.world.run(fleet.world.now + 5)
    return fleet


def talks() -> tuple[Fleet, Fleet, Fleet]:
    """Hold the same conversations: routed by prompt and load, by adapter alone, and with one engine."""
    whole = replace(TALKED, kv_tokens=TALKERS * TALKED.kv_tokens, sequences=TALKERS * TALKED.sequences)
    by_prefix = Fleet(model=TALKED, count=TALKERS, prefixes=PrefixMap(secret=b"bench"))
    fleets = by_prefix, Fleet(model=TALKED, count=TALKERS), Fleet(model=whole, count=1)
    for fleet in fleets:
        converse(fleet, Talk(pause_seconds=0.5, begin_within_seconds=2.0), random.Random(13))
    return fleets


def _capacity(model: Model) -> float:
    """Return how many requests of 64 tokens an engine ends per second at best."""
    return model.sequences / (model.prefill_seconds + 64 * model.token_seconds)


def _share(requests: Sequence[Request], *tiers: str) -> float:
    return sum(request.found in tiers for request in requests) / len(requests)


def _best_share() -> float:
    weights = [1 / (k + 1) for k in range(NAMES)]
    return sum(weights[: MANY * PAPER.host]) / sum(weights)
