"""`python -m services.loader`: run the loader with the settings of the environment.

The engine process is spawned and imports this file again: what only the loader needs is imported in `main`.
"""

import sys


def main() -> int:
    """Run the loader and return the exit code."""
    from mint_common.runtime.captured_output import keep_log_apart
    from mint_common.runtime.processor_turns import take_short_turns
    from mint_common.runtime.service import run_main
    from services.loader.app import run
    from services.loader.settings import LoaderSettings

    keep_log_apart()
    take_short_turns()  # the engine as well, which inherits it
    return run_main(LoaderSettings, run, service="loader")


if __name__ == "__main__":
    sys.exit(main())
