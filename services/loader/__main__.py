"""`python -m services.loader`: run the loader with the settings of the environment.

The engine process is spawned and imports this file again: what only the loader needs is imported in `main`.
"""

import os
import sys


def main() -> int:
    """Read the settings and run; a wrong setting is told in one line."""
    from mint_common import telemetry
    from mint_common.errors import SettingInvalid
    from mint_common.runtime.processor_turns import take_short_turns
    from mint_common.runtime.service import run_process
    from mint_common.settings import read_settings
    from services.loader.app import run
    from services.loader.settings import LoaderSettings

    try:
        settings = read_settings(LoaderSettings, os.environ, service="loader")
    except SettingInvalid as error:
        print(error, file=sys.stderr)  # noqa: T201  # logging is not set up yet
        return 2
    take_short_turns()  # the engine as well, which inherits it
    telemetry.setup(settings.telemetry, service="loader")
    return run_process(lambda: run(settings))


if __name__ == "__main__":
    sys.exit(main())
