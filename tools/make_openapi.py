"""Write the gateway's OpenAPI schema to tests/golden, or say with ``--check`` whether it is up to date."""

import json

from generated_page import ROOT, generate

from services.gateway.http.public import build_http

GOLDEN = ROOT / "tests/golden/openapi/gateway.json"


def current_schema() -> str:
    """Return the schema of the routes as they are now, as JSON text that diffs well."""
    return json.dumps(build_http(ready=lambda: True).openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    generate(__doc__, {GOLDEN: current_schema})
