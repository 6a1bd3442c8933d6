"""Utilisation of a fleet by jobs whose sampling runs ahead of training, in simulated time.

The seeds, facts and failures of `tests/sim/rollouts.py`; only what MinT decides differs between the rows.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benches.report import Report, make_row
from tests.sim.rollouts import Outcome, Setting, Simulation

FLEET = Setting(
    policies=1000,
    engines=200,
    seats=256,
    steps=10,
    episodes=64,
    train_seconds=2.0,
    trainers=1000,
    failures_per_hour=6,
    disorder=0.1,
)
SMALL = replace(
    FLEET, policies=2, engines=2, seats=8, episodes=4, trainers=2, failures_per_hour=200, disorder=0.3
)
AHEAD = (0, 1, 2, 4)
SCHEDULES = 10_000


def run() -> Report:
    """Simulate."""
    found = {ahead: Simulation(replace(FLEET, staleness=ahead), 1).run() for ahead in AHEAD}
    broken = [_is_broken(seed) for seed in range(SCHEDULES)]
    rows = [
        make_row(
            "fleet_rollout_wall_ratio",
            [found[2].seconds / found[0].seconds],
            unit="ratio",
            goal=0.6,
            better="lower",
            limit=_work_seconds(found[0]) / found[0].seconds,
            how=f"{FLEET.policies:,} jobs of {FLEET.steps} steps on {FLEET.engines} engines that fail,"
            " sampling up to 2 steps ahead, over alternating; the limit: engines never idle",
        ),
        make_row(
            "fleet_rollout_utilisation",
            [_use(found[2])],
            unit="ratio",
            goal=None,
            better="higher",
            limit=1.0,
            how=f"share of the engines' seats in use, 2 steps ahead; {_use(found[0]):.3f} alternating",
        ),
        make_row(
            "staleness_bound_broken",
            [float(sum(broken))],
            unit="schedules",
            goal=0.0,
            better="lower",
            limit=0.0,
            how=f"of {SCHEDULES:,} schedules with failures and facts that come late or twice, those"
            " that train on older samples than the bound, or do not end",
        ),
    ]
    return Report(bench="fleet_rollout", rows=rows, draw=lambda figure: _draw(figure, found))


def _is_broken(seed: int) -> bool:
    staleness = seed % 5
    found = Simulation(replace(SMALL, staleness=staleness), seed).run()
    within = max(found.lags) <= staleness and found.most_ahead <= staleness + 1
    return not within or found.ended != SMALL.policies


def _use(found: Outcome) -> float:
    return _work_seconds(found) / found.seconds


def _work_seconds(found: Outcome) -> float:
    return found.busy / (FLEET.engines * FLEET.seats)


def _draw(figure: Any, found: Mapping[int, Outcome]) -> None:  # Any: matplotlib is untyped
    axes = figure.subplots()
    axes.plot(list(found), [one.seconds for one in found.values()], marker="o")
    axes.set_xlabel("steps that sampling may run ahead")
    axes.set_ylabel(f"seconds of {FLEET.steps} steps")
    axes.set_ylim(bottom=0)
