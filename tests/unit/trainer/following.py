"""Rank 1 beside the tests, which are rank 0: a process that holds its part of one base after another.

Its arguments are the port of rank 0's store; a line of its input is a sharding, a folder, a dtype,
and whether layers are computed again. Lines of `full_memory.py`'s lengths are too much for it.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    import torch
    from full_memory import fill_memory

    from services.trainer.adapters.distributed.follower import follow
    from services.trainer.adapters.distributed.ranks import find_store, joined_ranks
    from services.trainer.adapters.distributed.shapes import load_sharded
    from services.trainer.core.placement import Placement
    from services.trainer.core.ranks import ProcessRank, RankSetup

    torch.set_num_threads(1)
    store = find_store(int(sys.argv[1]), 2, timeout_seconds=60.0)
    joining = RankSetup(folder=Path(), timeout_seconds=60.0)
    with joined_ranks(joining, ProcessRank(rank=1, count=2), store=store) as ranks:
        for line in sys.stdin:
            sharding, folder, dtype, checkpointing = line.split()
            placement = Placement(dtype=dtype, checkpointing=checkpointing)
            setup = RankSetup(folder=Path(folder), sharding=sharding, placement=placement)
            passes = load_sharded(setup, ranks)
            fill_memory(passes.base)
            follow(passes, ranks)
