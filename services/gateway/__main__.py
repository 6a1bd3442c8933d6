"""Run the gateway: ``python -m services.gateway`` with ``MINT_*`` settings in the environment."""

import os
import sys

from mint_common.runtime.processor_turns import take_short_turns
from mint_common.runtime.service import run_process
from mint_common.settings import read_settings
from services.gateway.app import run
from services.gateway.settings import GatewaySettings


async def main() -> None:
    """Read the settings and serve."""
    await run(read_settings(GatewaySettings, os.environ, service="gateway"))


if __name__ == "__main__":
    take_short_turns()
    sys.exit(run_process(main))
