"""The training tables of the MinT paper (arXiv 2605.13779) at our scale: hand-over, and policies at once.

Table 3: how soon a trained policy is sampled from, as an adapter or as a merged model. Table 4: three GRPO
policies one after another or together. The rows are those of the benches `handoff` and `policies`, and each
half is written as that bench's report as soon as it is measured. A ratio's limit is that bench's: an adapter
that is handed over in no time; perfect overlap.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benches import handoff, policies
from benches.report import Report, write_report

HANDOFF_ROUNDS, SEEDS = 5, 3
WIDTH = 130


def run(*, rounds: int = HANDOFF_ROUNDS, seeds: int = SEEDS) -> Report:
    """Measure both and print the tables."""
    console = Console(width=max(WIDTH, Console().width))
    measured = handoff.measure(rounds=rounds, merged_rounds=rounds)
    console.print(table_3(measured))
    write_report(handoff.report(measured))
    pairs, _ = policies.measure(seeds=seeds)
    console.print(table_4(pairs))
    write_report(policies.report(pairs))
    return report(measured, pairs)


def report(measured: Sequence[handoff.Measured], pairs: Sequence[policies.Pair]) -> Report:
    """Return the rows of both, and their plots above one another."""
    halves = (handoff.report(measured), policies.report(pairs))

    def draw(figure: Any) -> None:  # matplotlib is untyped
        for part, half in zip(figure.subfigures(2, 1), halves, strict=True):
            half.draw(part)

    return Report(bench="paper_training", rows=[row for half in halves for row in half.rows], draw=draw)


def table_3(measured: Sequence[handoff.Measured]) -> Table:
    """Return the hand-over's phases and its ratio, with its limit and the paper's."""
    rounds = len(measured[0].merged)
    table = Table(title=f"Table 3: hand-over, medians of {rounds}", title_justify="left")
    for heading in (
        *("base", "path", "file MB", "make s", "load s", f"{handoff.NEW_TOKENS} tokens s", "tok/s", "step s"),
        *("ratio", "limit", "paper"),
    ):
        table.add_column(heading, justify="right" if heading not in {"base", "path"} else "left")
    for one in measured:
        adapters = one.adapters[one.case.step_rank]
        slow, fast = handoff.middle(one.merged), handoff.middle(adapters)
        ratio = slow.step / statistics.median(each.step for each in adapters)
        told = (f"{ratio:.2f}x", f"{slow.step / fast.rollout:.2f}x", f"{one.case.goal:g}x")
        roads = ((f"adapter, rank {one.case.step_rank}", fast, told), ("merged model", slow, ("", "", "")))
        for name, phases, compared in roads:
            table.add_row(
                one.case.base,
                name,
                f"{phases.size_bytes / 1e6:.1f}",
                f"{phases.make:.3f}",
                f"{phases.load:.3f}",
                f"{phases.rollout:.2f}",
                f"{handoff.NEW_TOKENS / phases.rollout:.1f}",
                f"{phases.step:.2f}",
                *compared,
            )
    return table


def table_4(pairs: Sequence[policies.Pair]) -> Table:
    """Return both arms of each seed, and what perfect overlap would make of the first."""
    table = Table(
        title="Table 4: three GRPO policies, whole stack (paper: 1.77x, 1.45x)", title_justify="left"
    )
    for heading in ("seed", "one by one s", "together s", "saved", "ratio", "limit", "peak MB", "accuracy"):
        table.add_column(heading, justify="right")
    for seed, (alone, together) in enumerate(pairs):
        table.add_row(
            str(seed),
            f"{alone.seconds:.1f}",
            f"{together.seconds:.1f}",
            f"{1 - together.seconds / alone.seconds:.1%}",
            f"{alone.seconds / together.seconds:.2f}x",
            f"{policies.overlap_limit(alone):.2f}x",
            f"{alone.peak_mb:.0f} / {together.peak_mb:.0f}",
            f"{statistics.fmean(alone.accuracy):.3f} / {statistics.fmean(together.accuracy):.3f}",
        )
    return table
