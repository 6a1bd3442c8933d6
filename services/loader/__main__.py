"""`python -m services.loader`: run the loader with the settings of the environment."""

import sys

from mint_common.runtime.importing import without_collections

with without_collections():
    from mint_common.runtime.captured_output import keep_log_apart
    from mint_common.runtime.processor_turns import take_short_turns
    from mint_common.runtime.service import run_main
    from services.loader.app import run
    from services.loader.settings import LoaderSettings

if __name__ == "__main__":
    keep_log_apart()
    take_short_turns()  # the engine as well, which inherits it
    sys.exit(run_main(LoaderSettings, run, service="loader"))
