"""The numbers that stand: a bench's report, and a tolerance for each of its rows.

``tolerance`` is how much worse, as a share of the baseline, a row may become before the check fails.
`docs/design/benchmarks.md` is made from these files.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, cast

from benches.machine import ROOT
from benches.report import OUT

FOLDER = Path(__file__).resolve().parent
PLOTS = ROOT / "docs" / "images" / "benches"
_TOLERANCE = 0.3


class Baseline(TypedDict):
    """One row's number, and how much worse it may become."""

    value: float
    tolerance: float


class MeasuredRow(TypedDict):
    """What the check reads of a report's row."""

    name: str
    value: float
    better: str


def check_reports(*, folder: Path = FOLDER, out: Path = OUT) -> int:
    """Print every row that is worse than its baseline allows; return how many there are.

    Only benches that were run are looked at; a row that a bench no longer has counts as worse, but one that
    it left out on this machine.
    """
    problems = [
        problem
        for path in sorted(folder.glob("*.json"))
        if (out / path.name).exists()
        for problem in find_regressions(_read_baselines(path), *_read_report(out / path.name))
    ]
    for problem in problems:
        print(problem)
    if not problems:
        print("no row is worse than its baseline allows")
    return len(problems)


def find_regressions(
    baselines: dict[str, Baseline], rows: list[MeasuredRow], left_out: Collection[str] = ()
) -> Iterator[str]:
    """Yield one line per row that has become worse than allowed."""
    measured = {row["name"]: row for row in rows}
    for name, baseline in baselines.items():
        row = measured.get(name)
        if row is None and name in left_out:
            continue
        if row is None:
            yield f"{name}: the bench has no such row any more"
            continue
        slack = abs(baseline["value"]) * baseline["tolerance"]
        higher = row["better"] == "higher"
        worst = baseline["value"] - slack if higher else baseline["value"] + slack
        if (row["value"] < worst) if higher else (row["value"] > worst):
            bound = "at least" if higher else "at most"
            yield f"{name}: {row['value']:g}, was {baseline['value']:g}; {bound} {worst:g} is allowed"


def record_baselines(
    names: Sequence[str], *, folder: Path = FOLDER, out: Path = OUT, plots: Path = PLOTS
) -> int:
    """Make these benches' measured reports the baselines, with their plots; a row keeps its tolerance."""
    plots.mkdir(parents=True, exist_ok=True)
    for source in (out / f"{name}.json" for name in names):
        if not source.exists():
            continue
        path = folder / source.name
        known = _read_baselines(path) if path.exists() else {}
        report = json.loads(source.read_text())
        for row in report["rows"]:
            row["tolerance"] = known[row["name"]]["tolerance"] if row["name"] in known else _TOLERANCE
        path.write_text(json.dumps(report, indent=1) + "\n")
        shutil.copyfile(source.with_suffix(".png"), plots / source.with_suffix(".png").name)
        print(path.name)
    return 0


def _read_baselines(path: Path) -> dict[str, Baseline]:
    rows = json.loads(path.read_text())["rows"]
    return {row["name"]: Baseline(value=row["value"], tolerance=row["tolerance"]) for row in rows}


def _read_report(path: Path) -> tuple[list[MeasuredRow], Collection[str]]:
    """Return a report's rows, and the names of those that it left out."""
    report = json.loads(path.read_text())
    return cast("list[MeasuredRow]", report["rows"]), frozenset(report.get("left_out", ()))
