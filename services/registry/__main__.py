"""`python -m services.registry`: run the registry with the settings of the environment."""

import os
import sys

from mint_common import telemetry
from mint_common.errors import SettingInvalid
from mint_common.runtime.service import run_process
from mint_common.settings import read_settings
from services.registry.app import run
from services.registry.settings import RegistrySettings


def main() -> int:
    """Read the settings and run; a wrong setting is told in one line."""
    try:
        settings = read_settings(RegistrySettings, os.environ, service="registry")
    except SettingInvalid as error:
        print(error, file=sys.stderr)  # noqa: T201  # logging is not set up yet
        return 2
    telemetry.setup(settings.telemetry, service="registry")
    return run_process(lambda: run(settings))


if __name__ == "__main__":
    sys.exit(main())
