"""Write the gateway's OpenAPI schema to tests/golden, or say with ``--check`` whether it is up to date."""

import argparse
import difflib
import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "tests/golden/openapi/gateway.json"


def current_schema() -> str:
    """Return the schema of the routes as they are now, as JSON text that diffs well."""
    from services.gateway.http.public import build_http

    schema = build_http(ready=lambda: True).openapi()
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 on a difference")
    arguments = parser.parse_args()
    new = current_schema()
    if not arguments.check:
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(new)
        return 0
    old = GOLDEN.read_text() if GOLDEN.exists() else ""
    sys.stdout.writelines(
        difflib.unified_diff(old.splitlines(True), new.splitlines(True), "golden", "routes")
    )
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main())
