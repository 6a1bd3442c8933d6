"""What does a bfloat16 base save the trainer, and how near do its numbers stay?

Steps are timed in turn within one process, in CPU seconds (on a GPU: seconds). Memory is the peak of a
process of its own. What is compared with an engine is in `dtype_engine`.
"""

import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benches.bases import base_folder
from benches.device import one_thread, peak_bytes, placement_on, work_seconds
from benches.dtype_engine import Agreement, compare_with_engine
from benches.machine import ROOT, DeviceName
from benches.report import Report, Row, make_row
from benches.trainer_steps import Work, random_groups, state_on, step_policies
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.training.freed_memory import keep_freed_memory
from services.trainer.core.batch import Batch
from services.trainer.core.placement import Checkpointing

RANK = 16
ROUNDS, MEMORY_ROUNDS = 5, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A wave of groups of answers, of so many tokens each, to prompts of so many."""

    name: str
    groups: int
    group: int
    prompt: int
    answers: int

    def batch(self, base: ResidentBase) -> Batch:
        """Return the wave."""
        return random_groups(
            base, groups=self.groups, group=self.group, prompt=self.prompt, answers=self.answers
        )

    @property
    def told(self) -> str:
        """Return what it is in words."""
        return f"{self.groups} prompts of {self.prompt} tokens, {self.group} answers of {self.answers} each"


WAVE = Case(name="trainer_step_bf16_ratio", groups=4, group=8, prompt=24, answers=16)
LONGEST = Case(name="checkpointing_memory_ratio", groups=2, group=1, prompt=16, answers=1009)


def run(*, device: DeviceName = "cpu") -> Report:
    """Measure."""
    one_thread()
    peaks = {again: _peaks(device, again=again) for again in (False, True)}
    keep_freed_memory()  # as the trainer's process does
    wide, narrow = (
        load_base(base_folder("smollm2"), placement_on(device, dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    timed = _time(wide, narrow)
    del wide
    found = compare_with_engine(narrow)
    rows = [
        _step_row(timed),
        _memory_row(peaks),
        *_agreement_rows(found),
    ]
    return Report(bench="dtypes", rows=rows, draw=lambda figure: _draw(figure, timed, peaks))


def _time(wide: ResidentBase, narrow: ResidentBase) -> list[tuple[float, float]]:
    """Return the seconds of steps in float32 and in bfloat16, in turn."""
    bases = (wide, narrow)
    works = [Work(state=state_on(base, rank=RANK, seed=1), batch=WAVE.batch(base)) for base in bases]

    def step(number: int) -> float:
        base, work = bases[number], works[number]
        tokens = base.microbatch_tokens
        return work_seconds(base.device.type, lambda: step_policies(base, [work], max_tokens=tokens))

    for number in (0, 1):
        step(number)
    return [(step(0), step(1)) for _ in range(ROUNDS)]


def _peaks(device: DeviceName, *, again: bool) -> list[int]:
    """Return the peak memory of a step in processes of their own."""
    command = [sys.executable, "-m", "benches.dtypes", device, "on" if again else "off"]
    return [
        int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()[-1])
        for _ in range(MEMORY_ROUNDS)
    ]


def print_peak(device: DeviceName, checkpointing: str) -> None:
    """Take one step on the longest rows in one pass, and print what this process took at most."""
    one_thread()
    keep_freed_memory()
    chosen: Checkpointing = "on" if checkpointing == "on" else "off"
    base = load_base(base_folder("smollm2"), placement_on(device, dtype="bfloat16", checkpointing=chosen))
    work = Work(state=state_on(base, rank=RANK, seed=1), batch=LONGEST.batch(base))
    step_policies(base, [work], max_tokens=LONGEST.groups * (LONGEST.prompt + LONGEST.answers))
    print(peak_bytes(device))


def _step_row(seconds: Sequence[tuple[float, float]]) -> Row:
    wide, narrow = (statistics.median(pair[number] for pair in seconds) for number in (0, 1))
    return make_row(
        WAVE.name,
        [slow / fast for slow, fast in seconds],
        unit="ratio",
        goal=1.9,
        better="higher",
        how=f"smollm2, one policy of rank {RANK}: {WAVE.told}. A step in float32, {wide:.2f} s, over "
        f"one over a bfloat16 base, {narrow:.2f} s; LoRA, logits and AdamW are float32 in both",
    )


def _memory_row(peaks: dict[bool, list[int]]) -> Row:
    kept, again = (statistics.median(peaks[one]) for one in (False, True))
    return make_row(
        LONGEST.name,
        [small / large for large, small in zip(peaks[False], peaks[True], strict=True)],
        unit="ratio",
        goal=0.7,
        better="lower",
        how=f"smollm2 in bfloat16, {LONGEST.told}, one pass: peak memory of a process whose layers are "
        f"computed again, {again / 1e6:.0f} MB, over one that keeps them, {kept / 1e6:.0f} MB",
    )


def _agreement_rows(found: Agreement) -> list[Row]:
    return [
        make_row(
            "bf16_kl",
            found.kl,
            unit="nats a token",
            goal=0.01,
            better="lower",
            how=f"smollm2, trainer and engine in bfloat16: KL (k3) of the sampler from the trainer over "
            f"{found.tokens} tokens of each of {len(found.kl)} policies; {found.told}. The bare base instead "
            f"of the policy: {statistics.median(found.kl_of_base):.2g}",
        ),
        make_row(
            "export_bf16_exact",
            [float(count) for count in found.differing.values()],
            unit="numbers that differ",
            goal=0.0,
            better="lower",
            value=float(sum(found.differing.values())),
            how="a policy stepped over the bfloat16 base. " + "; ".join(found.differing),
        ),
    ]


def _draw(figure: Any, timed: Sequence[tuple[float, float]], peaks: dict[bool, list[int]]) -> None:
    left, right = figure.subplots(1, 2)
    bars = left.bar(
        ["float32", "bfloat16"],
        [statistics.median(pair[number] for pair in timed) for number in (0, 1)],
        color=("#b0b0b0", "#2a6f97"),
    )
    left.bar_label(bars, fmt="%.1f")
    left.set(title="a step, smollm2", ylabel="seconds, median")
    bars = right.bar(
        ["layers kept", "computed again"], [statistics.median(one) / 1e6 for one in peaks.values()]
    )
    right.bar_label(bars, fmt="%.0f")
    right.set(title=f"{LONGEST.groups} x 1024 tokens in one pass", ylabel="peak MB, median")


if __name__ == "__main__":
    torch.manual_seed(0)
    print_peak("cuda" if sys.argv[1] == "cuda" else "cpu", sys.argv[2])
