"""What a bench writes, and when the check complains."""

import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benches import loader_gateway, loader_inloop, packed
from benches.baselines import Baseline, MeasuredRow, check_reports, find_regressions, record_baselines
from benches.report import Report, bootstrap_interval, make_row, percentile, print_report, write_report


def draw(figure: Any) -> None:
    figure.subplots().plot([1, 2], [1, 2])


@pytest.mark.parametrize(
    "draw",
    [
        lambda figure: packed._draw(figure, TIMED, UNTIMED),
        lambda figure: packed._draw(figure, UNTIMED, TIMED),
        lambda figure: loader_inloop._draw(figure, loader_inloop.Dense()),
        lambda figure: loader_gateway._draw(figure, loader_gateway.Both(rates=([1.0], [1.0]))),
        lambda figure: loader_gateway._draw(figure, loader_gateway.Both(colds=([1.0], [1.0]))),
    ],
)
def test_a_row_measured_alone_has_a_plot(draw: Callable[[Any], None], tmp_path: Path) -> None:
    made = make_row("r", [1.0], unit="ms", goal=2.5, better="lower", how="so")
    assert write_report(Report(bench="b", rows=[made], draw=draw), out=tmp_path).with_suffix(".png").exists()


TIMED, UNTIMED = packed.Times([2.0], [1.0], []), packed.Times([], [], [])


def row(value: float, better: str = "lower") -> MeasuredRow:
    return MeasuredRow(name="r", value=value, better=better)


def test_a_report_has_the_agreed_shape_and_a_plot_beside_it(tmp_path: Path) -> None:
    made = make_row("r", [3.0, 1.0, 2.0], unit="ms", goal=2.5, better="lower", how="so", limit=0.5)
    path = write_report(Report(bench="b", rows=[made], draw=draw), out=tmp_path)
    document = json.loads(path.read_text())
    assert set(document) == {"bench", "machine", "commit", "rows", "left_out"}
    assert document["rows"] == [
        {
            "name": "r",
            "value": 2.0,
            "unit": "ms",
            "goal": 2.5,
            "better": "lower",
            "n": 3,
            "min": 1.0,
            "median": 2.0,
            "max": 3.0,
            "limit": 0.5,
            "how": "so",
            "interval": None,
        }
    ]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert made.meets_goal


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem() -> None:
    rng = random.Random(1)
    samples = [rng.gauss(10.0, 2.0) for _ in range(400)]
    low, high = bootstrap_interval(samples, statistics.fmean)
    half = 1.96 * statistics.stdev(samples) / len(samples) ** 0.5
    assert low == pytest.approx(statistics.fmean(samples) - half, abs=0.2 * half)
    assert high == pytest.approx(statistics.fmean(samples) + half, abs=0.2 * half)


def test_a_row_without_a_goal_is_reported_and_misses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    made = make_row("r", [3.0], unit="ms", goal=None, better="lower", how="so")
    print_report(Report(bench="b", rows=[made], draw=draw))
    printed = capsys.readouterr().out
    assert made.meets_goal
    assert "3 ms" in printed
    assert "missed" not in printed
    assert "<=" not in printed


@pytest.mark.parametrize(
    ("measured", "worse"),
    [
        (row(1.29), False),
        (row(1.31), True),
        (row(0.1), False),
        (row(0.71, "higher"), False),
        (row(0.69, "higher"), True),
        (row(9.0, "higher"), False),
    ],
)
def test_a_row_may_be_worse_by_its_tolerance_and_better_by_anything(
    measured: MeasuredRow, worse: bool
) -> None:
    baselines = {"r": Baseline(value=1.0, tolerance=0.3)}
    assert bool(list(find_regressions(baselines, [measured]))) is worse


def test_a_row_that_is_gone_is_a_regression() -> None:
    assert list(find_regressions({"r": Baseline(value=1.0, tolerance=0.3)}, []))


def test_a_row_that_a_machine_cannot_measure_is_told_and_is_no_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "out", tmp_path / "baselines"
    folder.mkdir()
    made = make_row("r", [1.0], unit="ms", goal=2.0, better="lower", how="so")
    report = Report(bench="b", rows=[made], draw=draw, left_out={"other": "PATH has no nginx"})
    write_report(report, out=out)
    known = [{"name": name, "value": 1.0, "tolerance": 0.1} for name in ("r", "other")]
    (folder / "b.json").write_text(json.dumps({"rows": known}))
    assert check_reports(folder=folder, out=out) == 0
    print_report(report)
    assert "left out: other: PATH has no nginx" in capsys.readouterr().out


def test_recorded_baselines_hold_and_keep_their_tolerance(tmp_path: Path) -> None:
    out, folder = tmp_path / "out", tmp_path / "baselines"
    folder.mkdir()
    made = make_row("r", [1.0], unit="ms", goal=2.0, better="lower", how="so")
    write_report(Report(bench="b", rows=[made], draw=draw), out=out)
    (folder / "b.json").write_text(json.dumps({"rows": [{"name": "r", "value": 5.0, "tolerance": 0.1}]}))
    record_baselines(["b", "not run"], folder=folder, out=out, plots=tmp_path / "plots")
    measured = json.loads((out / "b.json").read_text())
    measured["rows"][0]["tolerance"] = 0.1
    assert json.loads((folder / "b.json").read_text()) == measured
    assert (tmp_path / "plots" / "b.png").read_bytes() == (out / "b.png").read_bytes()
    assert check_reports(folder=folder, out=out) == 0


def test_percentiles_are_samples() -> None:
    samples = [float(number) for number in range(1, 101)]
    assert [percentile(samples, share) for share in (0.0, 0.5, 0.95, 1.0)] == [1.0, 50.0, 95.0, 100.0]
    assert percentile([7.0], 0.95) == 7.0
