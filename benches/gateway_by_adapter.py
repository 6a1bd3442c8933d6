"""`python -m benches.gateway_by_adapter`: the gateway, except that it remembers no prompt.

It chooses engines by adapters and load alone.
"""

import sys
from collections.abc import Sequence

from mint_common.client import prefixes
from mint_common.runtime.service import run_main
from services.gateway.app import run
from services.gateway.settings import GatewaySettings


def no_lengths(size_bytes: int) -> Sequence[int]:  # noqa: ARG001  # in the place of another
    """Return no length at which beginnings are compared."""
    return ()


if __name__ == "__main__":
    prefixes.lengths_of = no_lengths  # type: ignore[assignment]
    sys.exit(run_main(GatewaySettings, run, service="gateway"))
