"""Run the rollout service: ``python -m services.rollout`` with its settings in the environment."""

import sys

from mint_common.runtime.importing import without_collections

with without_collections():
    from mint_common.runtime.service import run_main
    from services.rollout.app import run
    from services.rollout.settings import RolloutSettings

if __name__ == "__main__":
    sys.exit(run_main(RolloutSettings, run, service="rollout"))
