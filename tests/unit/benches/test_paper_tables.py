"""The paper's tables out of what was measured: each ratio beside its limit, and a plot of both halves."""

from pathlib import Path

import pytest
from rich.console import Console

from benches import paper_training
from benches.handoff import CASES, Measured, Phases
from benches.policies import Arm
from benches.report import write_report


def phases(make: float, load: float, rollout: float) -> list[Phases]:
    return [Phases(make=make, load=load, rollout=rollout, size_bytes=2_000_000)] * 2


MEASURED = [
    Measured(
        case=case,
        adapters={rank: phases(0.1, 0.1, 1.8) for rank in case.ranks},
        merged=phases(2.0, 4.0, 3.0),
    )
    for case in CASES
]
ALONE = Arm(seconds=30.0, sampling=15.0, training=9.0, computing=20.0, peak_mb=900.0, accuracy=(0.9, 0.8))
TOGETHER = Arm(seconds=24.0, sampling=15.0, training=9.0, computing=20.0, peak_mb=910.0, accuracy=(0.9, 0.9))


def test_each_ratio_stands_beside_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=paper_training.WIDTH)
    console.print(paper_training.table_3(MEASURED), paper_training.table_4([(ALONE, TOGETHER)]))
    printed = capsys.readouterr().out
    for case in CASES:
        (line,) = [one for one in printed.splitlines() if case.base in one and "adapter" in one]
        assert ["4.50x", "5.00x", f"{case.goal:g}x"] == [word for word in line.split() if word.endswith("x")]
    assert "20.0%" in printed
    assert [word for word in printed.split() if word.endswith("x")][-2:] == ["1.25x", "1.50x"]


def test_a_limit_is_the_same_in_table_and_rows(tmp_path: Path) -> None:
    report = paper_training.report(MEASURED, [(ALONE, TOGETHER)])
    limits = {row.name: (row.value, row.limit) for row in report.rows if row.limit is not None}
    assert limits["handoff_step_ratio"] == (4.5, 5.0)
    assert limits["three_policies_ratio"] == (1.25, 1.5)
    path = write_report(report, out=tmp_path)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
