"""`python -m services.trainer.adapters.distributed`: a rank that rank 0 has started on its machine.

It ends when its input ends: rank 0 holds the other side of that pipe as long as it lives.
"""

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import get_args

from mint_common.errors import MintError
from services.trainer.adapters.distributed.follower import run_follower
from services.trainer.adapters.distributed.ranks import find_store
from services.trainer.adapters.training.freed_memory import keep_freed_memory
from services.trainer.core.placement import BaseDType, Checkpointing, DeviceType, Placement
from services.trainer.core.ranks import ProcessRank, Sharding


def main() -> int:
    """Follow rank 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--base-dir", type=Path, required=True)
    parser.add_argument("--sharding", choices=get_args(Sharding), required=True)
    parser.add_argument("--dtype", choices=get_args(BaseDType), required=True)
    parser.add_argument("--device-type", choices=get_args(DeviceType), required=True)
    parser.add_argument("--checkpointing", choices=get_args(Checkpointing), required=True)
    parser.add_argument("--memory-share", type=float)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--timeout-seconds", type=float, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        run_follower(
            options.base_dir,
            ProcessRank(rank=options.rank, count=options.ranks, local=options.rank),
            sharding=options.sharding,
            placement=Placement(
                dtype=options.dtype,
                device_type=options.device_type,
                checkpointing=options.checkpointing,
                memory_share=options.memory_share,
            ),
            threads=options.threads,
            timeout_seconds=options.timeout_seconds,
            store=find_store(options.port, options.ranks, timeout_seconds=options.timeout_seconds),
        )
    except (MintError, RuntimeError) as error:
        sys.stderr.write(f"rank {options.rank}: {error}\n")
        return 1
    return 0


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
