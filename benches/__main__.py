"""`python -m benches [NAME...]` runs all benches or some; `--check` compares with the baselines.

A show takes several benches together, at more repetitions, or an hour, and is run only by its name. Of these
`soak` fails when a row misses its goal.

Each bench runs in a process of its own: an engine, a heap and an import are never shared. `--only ROW`
measures one row, and no more of its bench than that takes, into `out/bench/only`. `--device cuda` puts the
trainers and engines of a bench on a GPU, and its report into `out/bench/cuda`. The loader's benches take no
device: their engines are where vLLM finds one.
"""

import argparse
import importlib
import inspect
import subprocess
import sys

from benches.baselines import check_reports, record_baselines
from benches.machine import DEVICES, ROOT
from benches.report import OUT, print_report, write_report

LOADER = (
    "packed",
    "loader_inloop",
    "loader_cold",
    "loader_warm",
    "loader_sweep",
    "loader_gateway",
    "loader_relay",
    "loader_abort",
    "loader_guard",
    "fair_share",
    "beside_jobs",
    "eviction",
)
TRAINER = ("trainer", "dtypes", "operations")
JOBS = ("jobs", "jobs_ingest", "jobs_graders")
ROLLOUT = ("rollout", "fleet_rollout", "episodes")
FLEET = ("fleet_bus", "trainer_pool", "engine_join", "engine_prefixes")
CONSOLE = ("console",)
BENCHES = (
    *LOADER,
    "fleet",
    *FLEET,
    *CONSOLE,
    *ROLLOUT,
    "catalog",
    *TRAINER,
    "handoff",
    "policies",
    "tinker",
    *JOBS,
)
SHOWS = ("paper_training", "soak", "imports", "startup", "long_episodes")
LOADS = ("all", "steps")
ROWS = {
    "packed": ("packed_live_ratio", "packed_real_dims_ratio", "packed_over_read"),
    "loader_inloop": (
        "inloop_dense_ms",
        "inloop_packed_moe_ms",
        "inloop_packed_over_copy",
        "stall_over_step",
    ),
    "loader_cold": ("staircase_ratio", "misses_fetches", "misses_add_lora"),
    "loader_warm": (
        "warm_p95_ratio",
        "warm_p95_ratio_admission_off",
        "added_first_token_ratio",
        "add_cpu_ms",
    ),
    "loader_sweep": ("sweep_errors", "sweep_rss_drift"),
    "jobs": ("sft_overhead", "dpo_overhead"),
    "fair_share": ("fair_share_p95_ratio", "alone_throughput_ratio"),
    "beside_jobs": ("serving_beside_jobs_ratio",),
    "loader_abort": ("abort_ms", "abort_ms_busy"),
    "loader_gateway": (
        "throughput_same_kernels",
        "streaming_same_kernels",
        "requests_per_second",
        "added_p50_ms",
        "added_first_token_ms",
        "cold_first_ratio",
    ),
}
"""The rows that can be asked for by name, by their bench."""
KNOWN = f"loader {' '.join((*BENCHES, *SHOWS))}"


def main(arguments: list[str]) -> int:
    """Run what was asked for; the number of benches that broke is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"all, or some of: loader {' '.join(BENCHES)}"
    )
    parser.add_argument("--only", metavar="ROW", help=f"one of: {' '.join(sum(ROWS.values(), ()))}")
    parser.add_argument("--check", action="store_true", help="compare out/bench with the baselines")
    parser.add_argument("--record", action="store_true", help="make what out/bench holds the baselines")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="what to compute on")
    parser.add_argument(
        "--policies",
        type=int,
        help="the size of bench catalog, a million by default, or of bench console, 100,000",
    )
    parser.add_argument("--adapters", type=int, help="how many bench imports imports, 10,000 by default")
    parser.add_argument("--minutes", type=float, help="how long bench soak applies its load, 60 by default")
    parser.add_argument(
        "--load", choices=LOADS, help="what bench soak applies: everything, or training alone"
    )
    options = parser.parse_args(arguments)
    if options.policies is not None and options.policies < 10_000:
        parser.error("--policies: at least 10000, as 1000 of them with adapters are measured first")
    if options.record:
        return record_baselines(BENCHES)
    if options.check:
        return check_reports()
    if options.only:
        return _run_only(parser, options.only, options.names)
    names = _expand(options.names)
    unknown = [name for name in names if name not in (*BENCHES, *SHOWS)]
    if unknown:
        parser.error(f"unknown bench {unknown[0]!r}; there are: {KNOWN}")
    if len(names) == 1:
        asked = {
            name: getattr(options, name) for name in ("policies", "adapters", "minutes", "load", "device")
        }
        given = {name: value for name, value in asked.items() if value not in {None, "cpu"}}
        return _run(parser, names[0], given)
    command = [sys.executable, "-m", "benches", "--device", options.device]
    ended = [subprocess.run([*command, name], cwd=ROOT, check=False) for name in names]
    return sum(done.returncode != 0 for done in ended)


def _run_only(parser: argparse.ArgumentParser, row: str, names: list[str]) -> int:
    name = next((bench for bench, rows in ROWS.items() if row in rows), None)
    if name is None or (names and name not in _expand(names)):
        parser.error(f"no such row {row!r}; there are: {' '.join(sum(ROWS.values(), ()))}")
    run = importlib.import_module(f"benches.{name}").run
    report = run(only=row) if "only" in inspect.signature(run).parameters else run()
    assert row in {each.name for each in report.rows}, f"bench {name} measures no {row}"
    path = write_report(report, out=OUT / "only")
    print_report(report)
    print(path.relative_to(ROOT))
    return 0


def _expand(names: list[str]) -> list[str]:
    chosen = names or list(BENCHES)
    return [one for name in chosen for one in (LOADER if name == "loader" else (name,))]


def _run(parser: argparse.ArgumentParser, name: str, given: dict[str, float | str]) -> int:
    run = importlib.import_module(f"benches.{name}").run
    strange = given.keys() - inspect.signature(run).parameters.keys()
    if strange:
        parser.error(f"bench {name} takes no --{min(strange)}")
    report = run(**given)
    path = write_report(report, out=OUT / str(given.get("device", "")))
    print_report(report)
    print(path.relative_to(ROOT))
    return int(name == "soak" and not all(row.meets_goal for row in report.rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
