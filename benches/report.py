"""What a bench says: rows with their goal and their limit, as JSON, a plot and a table."""

import json
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.table import Table

from benches.machine import ROOT, describe_commit, describe_machine

OUT = ROOT / "out" / "bench"
_WIDTH = 130

Better = Literal["higher", "lower"]
T = TypeVar("T")
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured number. ``min``, ``median`` and ``max`` are of its ``n`` samples.

    ``limit`` is what the value could be at best, where that is known; ``how`` says how both came about.
    ``interval`` is the 95 % interval of the value, of rows that tell it.
    A row without a goal is only reported.
    """

    name: str
    value: float
    unit: str
    goal: float | None
    better: Better
    n: int
    min: float
    median: float
    max: float
    limit: float | None
    how: str
    interval: Interval | None = None

    @property
    def meets_goal(self) -> bool:
        """Return whether the value is as good as the goal, if it has one."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal

    @property
    def bound(self) -> str:
        """Return the goal as people write it; nothing for a row without one."""
        return "" if self.goal is None else f"{'>=' if self.better == 'higher' else '<='} {self.goal:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A bench's rows, and how to draw what they were computed from onto a matplotlib Figure.

    ``left_out``: rows that this machine cannot measure, and why.
    """

    bench: str
    rows: Sequence[Row]
    draw: Callable[[Any], None]  # Any: matplotlib is untyped
    left_out: Mapping[str, str] = field(default_factory=dict)


def make_row(
    name: str,
    samples: Sequence[float],
    *,
    unit: str,
    goal: float | None,
    better: Better,
    how: str,
    limit: float | None = None,
    value: float | None = None,
    interval: Interval | None = None,
) -> Row:
    """Return the row of some samples; its value is their median unless one is given."""
    median = statistics.median(samples)
    return Row(
        name=name,
        value=round(median if value is None else value, 6),
        unit=unit,
        goal=goal,
        better=better,
        n=len(samples),
        min=round(min(samples), 6),
        median=round(median, 6),
        max=round(max(samples), 6),
        limit=None if limit is None else round(limit, 6),
        how=how,
        interval=None if interval is None else (round(interval[0], 6), round(interval[1], 6)),
    )


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least this share of the samples does not exceed."""
    ranked = sorted(samples)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def bootstrap_interval(
    groups: Sequence[T], statistic: Callable[[Sequence[T]], float], *, draws: int = 1000
) -> Interval:
    """Return the 95 % interval of a statistic of groups, which are drawn again with replacement.

    A group is what was measured together, as a round: its samples may depend on each other.
    """
    rng = random.Random(0)
    drawn = sorted(statistic(rng.choices(groups, k=len(groups))) for _ in range(draws))
    return percentile(drawn, 0.025), percentile(drawn, 0.975)


def write_report(report: Report, *, out: Path = OUT) -> Path:
    """Write the JSON and the plot; return the JSON's path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{report.bench}.json"
    document = {
        "bench": report.bench,
        "machine": describe_machine(),
        "commit": describe_commit(),
        "rows": [asdict(row) for row in report.rows],
        "left_out": dict(report.left_out),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    _write_plot(report, path.with_suffix(".png"))
    return path


def print_report(report: Report) -> None:
    """Print the rows as a table."""
    table = Table(title=report.bench, title_justify="left")
    for heading in ("row", "value", "goal", "limit", "n", "min / median / max"):
        table.add_column(heading, no_wrap=True)
    for row in report.rows:
        mark = "[green]ok[/]" if row.meets_goal else "[red]missed[/]"
        goal = f"{row.bound} {mark}" if row.bound else ""
        limit = "" if row.limit is None else f"{row.limit:.4g}"
        interval = "" if row.interval is None else " [{:.3g}, {:.3g}]".format(*row.interval)
        spread = f"{row.min:.4g} / {row.median:.4g} / {row.max:.4g}"
        table.add_row(
            row.name,
            f"{row.value:.4g}{interval} {row.unit}",
            goal,
            limit,
            str(row.n),
            spread,
        )
    console = Console(width=max(_WIDTH, Console().width))
    console.print(table)
    for name, why in report.left_out.items():
        console.print(f"left out: {name}: {why}")


def _write_plot(report: Report, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    report.draw(figure)
    figure.savefig(path, dpi=120)
