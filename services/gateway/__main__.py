"""Run the gateway: ``python -m services.gateway`` with ``MINT_*`` settings in the environment."""

import sys

from mint_common.runtime.importing import without_collections

with without_collections():
    from mint_common.runtime.processor_turns import take_short_turns
    from mint_common.runtime.service import run_main
    from services.gateway.app import run
    from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    take_short_turns()
    sys.exit(run_main(GatewaySettings, run, service="gateway"))
