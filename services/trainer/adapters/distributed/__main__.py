"""`python -m services.trainer.adapters.distributed`: a rank started by rank 0 on its machine.

It ends when its input ends: rank 0 holds the other side of that pipe as long as it lives.
"""

import os
import sys
import threading

from mint_common.runtime.importing import without_collections

with without_collections():
    from mint_common.errors import MintError
    from services.trainer.adapters.distributed.follower import run_follower
    from services.trainer.adapters.distributed.ranks import find_store
    from services.trainer.adapters.training.freed_memory import keep_freed_memory
    from services.trainer.core.ranks import read_rank_start


def main() -> int:
    """Follow rank 0."""
    start = read_rank_start(sys.argv[1])
    keep_freed_memory()
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        count, timeout_seconds = start.process.count, start.setup.timeout_seconds
        store = find_store(start.port, count, timeout_seconds=timeout_seconds)
        run_follower(start.setup, start.process, store=store)
    except (MintError, RuntimeError) as error:
        sys.stderr.write(f"rank {start.process.rank}: {error}\n")
        return 1
    return 0


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
