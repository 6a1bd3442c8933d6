"""`python -m services.registry`: run the registry with the settings of the environment."""

import sys

from mint_common.runtime.importing import without_collections

with without_collections():
    from mint_common.runtime.service import run_main
    from services.registry.app import run
    from services.registry.settings import RegistrySettings

if __name__ == "__main__":
    sys.exit(run_main(RegistrySettings, run, service="registry"))
