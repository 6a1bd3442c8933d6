"""The training tables of the MinT paper (arXiv 2605.13779) at our scale: hand-over, and policies at once.

Table 3: how soon a trained policy is sampled from, as an adapter or as a merged model. Table 4: three GRPO
policies one after another or together. The rows are those of the benches `handoff` and `policies`.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benches import handoff, policies
from benches.report import Report

HANDOFF_ROUNDS, SEEDS = 5, 3
WIDTH = 120


def run() -> Report:
    """Measure both and print the tables."""
    measured = handoff.measure(rounds=HANDOFF_ROUNDS, merged_rounds=HANDOFF_ROUNDS)
    pairs = policies.measure(seeds=SEEDS)
    console = Console(width=max(WIDTH, Console().width))
    console.print(_table_3(measured), _table_4(pairs))
    reports = [handoff.report(measured), policies.report(pairs)]

    def draw(figure: Any) -> None:  # matplotlib is untyped
        for part, report in zip(figure.subfigures(2, 1), reports, strict=True):
            report.draw(part)

    rows = [row for report in reports for row in report.rows]
    return Report(bench="paper_training", rows=rows, draw=draw)


def _table_3(measured: Sequence[handoff.Measured]) -> Table:
    table = Table(title=f"Table 3: hand-over, medians of {HANDOFF_ROUNDS}", title_justify="left")
    for heading in ("base", "path", "file MB", "make s", "load s", "64 tokens s", "tok/s", "step s", "ratio"):
        table.add_column(heading, justify="right" if heading not in {"base", "path"} else "left")
    for one in measured:
        adapters = one.adapters[one.case.step_rank]
        merged_step = statistics.median(each.step for each in one.merged)
        adapter_step = statistics.median(each.step for each in adapters)
        roads = [
            (f"adapter, rank {one.case.step_rank}", adapters, f"{merged_step / adapter_step:.2f}x"),
            ("merged model", one.merged, ""),
        ]
        for name, phases, ratio in roads:
            middle = {
                part: statistics.median(float(getattr(each, part)) for each in phases)
                for part in ("make", "load", "rollout", "step")
            }
            table.add_row(
                one.case.base,
                name,
                f"{phases[0].size_bytes / 1e6:.1f}",
                f"{middle['make']:.3f}",
                f"{middle['load']:.3f}",
                f"{middle['rollout']:.2f}",
                f"{handoff.NEW_TOKENS / middle['rollout']:.1f}",
                f"{middle['step']:.2f}",
                ratio,
            )
    return table


def _table_4(pairs: Sequence[tuple[policies.Arm, policies.Arm]]) -> Table:
    table = Table(title="Table 4: three GRPO policies, whole stack", title_justify="left")
    for heading in ("seed", "one by one s", "together s", "saved", "ratio", "peak MB", "accuracy"):
        table.add_column(heading, justify="right")
    for seed, (alone, together) in enumerate(pairs):
        table.add_row(
            str(seed),
            f"{alone.seconds:.1f}",
            f"{together.seconds:.1f}",
            f"{1 - together.seconds / alone.seconds:.1%}",
            f"{alone.seconds / together.seconds:.2f}x",
            f"{alone.peak_mb:.0f} / {together.peak_mb:.0f}",
            f"{statistics.fmean(alone.accuracy):.3f} / {statistics.fmean(together.accuracy):.3f}",
        )
    return table
