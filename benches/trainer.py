"""How much does the trainer gain from stepping policies together, and what do swaps and snapshots cost?

Everything is timed in CPU seconds of one thread (on a GPU: seconds), in turn within one process, so that a
busy machine slows both sides alike. "Alone" is this trainer's own step of one policy after another, not
PEFT's slower one.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benches.bases import base_folder
from benches.device import one_thread, placement_on, work_seconds
from benches.machine import DeviceName
from benches.report import Report, Row, make_row
from benches.trainer_steps import (
    Work,
    batch_of,
    random_groups,
    random_row,
    random_tokens,
    state_on,
    step_policies,
)
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.states.training_state import park_state, write_parked
from services.trainer.adapters.training.freed_memory import keep_freed_memory
from services.trainer.core.batch import Batch
from services.trainer.core.layer_rules import LayerRules

MAX_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """So many policies with so many sequences of so many tokens each."""

    name: str
    base: str
    policies: int
    sequences: int
    tokens: int
    rank: int
    goal: float
    rounds: int


CASES = (
    Case(
        name="batched_step_ratio",
        base="tiny",
        policies=8,
        sequences=4,
        tokens=16,
        rank=8,
        goal=2.0,
        rounds=25,
    ),
    Case(
        name="batched_step_ratio_smollm2",
        base="smollm2",
        policies=4,
        sequences=2,
        tokens=32,
        rank=16,
        goal=1.2,
        rounds=7,
    ),
)
PROMPT, ANSWERS, GROUP, SHARED_ROUNDS = 24, 8, 8, 5


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each round, in turn: see `work_seconds`."""

    plain: list[float]
    ours: list[float]

    def ratios(self) -> list[float]:
        """Return plain over ours, round by round."""
        return [slow / fast for slow, fast in zip(self.plain, self.ours, strict=True)]


def run(*, device: DeviceName = "cpu") -> Report:
    """Measure."""
    one_thread()
    keep_freed_memory()  # as the trainer's process does
    placement = placement_on(device)
    bases = {name: load_base(base_folder(name), placement) for name in ("tiny", "smollm2")}
    together = {case: measure_together(bases[case.base], case) for case in CASES}
    shared = measure_shared_prompts(bases["smollm2"])
    rows = [
        *(_together_row(case, times) for case, times in together.items()),
        make_row(
            "shared_prompt_ratio",
            shared.ratios(),
            unit="ratio",
            goal=1.5,
            better="higher",
            limit=GROUP * (PROMPT + ANSWERS - 1) / (PROMPT + GROUP * (ANSWERS - 1)),
            how=f"smollm2, groups of {GROUP} answers of {ANSWERS} tokens to a prompt of {PROMPT}: a step "
            "with a line per answer over one behind shared prompts. Limit: by tokens computed",
        ),
        *measure_swaps(bases["smollm2"]),
    ]
    return Report(bench="trainer", rows=rows, draw=lambda figure: _draw(figure, together, shared))


def measure_together(base: ResidentBase, case: Case) -> Times:
    """Step the policies one after another, then all together, in turn."""
    works = [
        Work(state=state_on(base, rank=case.rank, seed=seed), batch=batch)
        for seed, batch in enumerate(_batches(base, case))
    ]

    def one_by_one() -> None:
        for work in works:
            _step(base, [work])

    return _in_turn(base, one_by_one, lambda: _step(base, works), rounds=case.rounds)


def measure_shared_prompts(base: ResidentBase) -> Times:
    """Step one policy on groups with a line per answer, then behind shared prompts, in turn."""
    batch = random_groups(base, groups=4, group=GROUP, prompt=PROMPT, answers=ANSWERS)
    work = Work(state=state_on(base, rank=16, seed=0), batch=batch)

    def step(rules: LayerRules) -> None:
        base.rules = rules
        _step(base, [work])

    alone, shared = replace(base.rules, max_shared=0), base.rules
    return _in_turn(base, lambda: step(alone), lambda: step(shared), rounds=SHARED_ROUNDS)


def measure_swaps(base: ResidentBase) -> list[Row]:
    """Switch from one stepped policy to another, and take snapshots of one."""
    case = Case(name="", base="smollm2", policies=2, sequences=2, tokens=32, rank=8, goal=0.0, rounds=0)
    states = [state_on(base, rank=case.rank, seed=seed) for seed in range(case.policies)]
    works = [
        Work(state=state, batch=batch) for state, batch in zip(states, _batches(base, case), strict=True)
    ]
    seconds = partial(_seconds, base)
    step_seconds = [seconds(partial(_step, base, [work])) for _ in range(3) for work in works]
    snapshots = [seconds(lambda: park_state(states[0])) for _ in range(20)]
    parked = park_state(states[0])
    writes = [seconds(lambda: write_parked(parked)) for _ in range(5)]
    tiers = PolicyTiers(device_policies=1, host_policies=1, device=base.device)
    there, back = ResidentPolicy(states[0]), ResidentPolicy(park_state(states[1]))
    switches = []
    for _ in range(20):
        switches.append(1e3 * seconds(partial(_switch, tiers, there, back)))
        there, back = back, there
    copied = seconds(lambda: [parked.buffer.to(base.device, copy=True) for _ in range(20)]) / 20
    step = statistics.median(step_seconds)
    return [
        make_row(
            "switch_ms",
            switches,
            unit="ms",
            goal=10.0,
            better="lower",
            limit=2e3 * copied,
            how=f"policy A out of the device, B in from host memory: {2 * parked.size_bytes / 1e6:.0f} MB of "
            "adapter and moments, rank 8, smollm2. Limit: copying as many bytes twice",
        ),
        make_row(
            "snapshot_delay",
            [seconds / step for seconds in snapshots],
            unit="share of a step",
            goal=0.02,
            better="lower",
            how=f"copy for the exporting thread over a step of {1e3 * step:.0f} ms on 2 x 32 tokens; it then "
            f"writes {parked.size_bytes / 1e6:.0f} MB in {1e3 * statistics.median(writes):.0f} ms beside the "
            "next step",
        ),
    ]


def _switch(tiers: PolicyTiers, out: ResidentPolicy, into: ResidentPolicy) -> None:
    tiers.swap_out(out)
    tiers.swap_in(into)


def _in_turn(
    base: ResidentBase, plain: Callable[[], object], ours: Callable[[], object], *, rounds: int
) -> Times:
    plain()
    ours()
    pairs = [(_seconds(base, plain), _seconds(base, ours)) for _ in range(rounds)]
    return Times([first for first, _ in pairs], [second for _, second in pairs])


def _seconds(base: ResidentBase, work: Callable[[], object]) -> float:
    return work_seconds(base.device.type, work)


def _step(base: ResidentBase, works: Sequence[Work]) -> None:
    step_policies(base, works, max_tokens=MAX_TOKENS)


def _batches(base: ResidentBase, case: Case) -> list[Batch]:
    """Half of each sequence is its prompt; the model reads ``case.tokens`` tokens of it."""
    rng = random.Random(0)
    half = case.tokens // 2
    return [
        batch_of(
            [random_row(rng, base, random_tokens(rng, base, half), half + 1) for _ in range(case.sequences)]
        )
        for _ in range(case.policies)
    ]


def _together_row(case: Case, times: Times) -> Row:
    tokens = case.policies * case.sequences * case.tokens
    rates = [tokens / statistics.median(one) for one in (times.plain, times.ours)]
    return make_row(
        case.name,
        times.ratios(),
        unit="ratio",
        goal=case.goal,
        better="higher",
        how=f"{case.base}, {case.policies} policies x {case.sequences} x {case.tokens} tokens, rank "
        f"{case.rank}: {rates[0]:.0f} tokens/s one policy after another, {rates[1]:.0f} together; AdamW, "
        "clipping and checks included",
    )


def _draw(figure: Any, together: dict[Case, Times], shared: Times) -> None:
    names = [*(f"{case.base}, {case.policies} policies" for case in together), "smollm2, shared prompts"]
    axes = figure.subplots(1, len(names))
    for plot, name, times in zip(axes, names, (*together.values(), shared), strict=True):
        bars = plot.bar(
            ["plain", "ours"],
            [1e3 * statistics.median(times.plain), 1e3 * statistics.median(times.ours)],
            color=("#b0b0b0", "#2a6f97"),
        )
        plot.bar_label(bars, fmt="%.0f")
        plot.set_title(name)
        plot.set_ylabel("ms, median")
