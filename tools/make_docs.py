"""Write every generated page, or say with ``--check`` which are not current; one process imports for all."""

import argparse
import runpy
import sys
from pathlib import Path

TOOLS = (
    "make_tinker_compat",
    "make_events_doc",
    "make_serving_bodies",
    "make_openapi",  # reads what make_serving_bodies writes
    "make_openai_doc",  # reads what make_openapi writes
    "make_settings_doc",
    "make_metrics_doc",
    "make_chart",
    "make_dashboards",
    "make_errors_doc",
    "make_uploads_doc",
    "make_benchmarks",
    "make_scale_tables",
    "make_families",
)


def main() -> int:
    """Run each tool with our arguments; return 1 if one was to find its pages current and did not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if one is not current")
    parser.parse_args()
    return max([_status_of(Path(__file__).with_name(f"{tool}.py")) for tool in TOOLS])


def _status_of(tool: Path) -> int:
    sys.argv[0] = str(tool)
    try:
        runpy.run_path(str(tool), run_name="__main__")
    except SystemExit as end:
        return int(bool(end.code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
