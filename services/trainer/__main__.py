"""`python -m services.trainer`: run the trainer with the settings of the environment."""

import os
import sys

# Before torch is imported by what follows: its thread pools read this once.
os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("MINT_TRAINER_THREADS", "1"))

from mint_common.runtime.importing import without_collections

with without_collections():
    from mint_common import telemetry
    from mint_common.errors import SettingInvalid
    from mint_common.private_files import make_files_private
    from mint_common.runtime.low_priority import let_session_give_way, let_thread_give_way
    from mint_common.runtime.service import run_process
    from mint_common.settings import read_settings
    from services.trainer.adapters.training.freed_memory import keep_freed_memory
    from services.trainer.app import NICENESS, run, run_rank
    from services.trainer.settings import TrainerSettings, read_process_rank


def main() -> int:
    """Read the settings and run; a wrong setting is one line on stderr."""
    try:
        settings = read_settings(TrainerSettings, os.environ, service="trainer")
        process = read_process_rank(os.environ, settings)
    except SettingInvalid as error:
        print(error, file=sys.stderr)  # noqa: T201  # logging is not set up yet
        return 2
    keep_freed_memory()
    telemetry.setup(settings.telemetry, service="trainer")
    let_session_give_way(NICENESS)
    if process.rank:
        make_files_private()
        let_thread_give_way(NICENESS)
        return run_rank(settings, process)
    return run_process(lambda: run(settings, process))


if __name__ == "__main__":
    sys.exit(main())
