"""Run the rollout service: ``python -m services.rollout`` with its settings in the environment."""

import os
import sys

from mint_common.runtime.service import run_process
from mint_common.settings import read_settings
from services.rollout.app import run
from services.rollout.settings import RolloutSettings


def main() -> int:
    """Read the settings, run, and return the exit code."""
    return run_process(lambda: run(read_settings(RolloutSettings, os.environ, service="rollout")))


if __name__ == "__main__":
    sys.exit(main())
