"""The life of every rank but 0: carry out one order after another."""

import signal
from contextlib import suppress

import torch
import torch.distributed as dist

from services.trainer.adapters.distributed.orders import Backward, Forward, Stop
from services.trainer.adapters.distributed.passes import Passes
from services.trainer.adapters.distributed.ranks import Ranks, joined_ranks
from services.trainer.adapters.distributed.shapes import load_sharded
from services.trainer.core.ranks import ProcessRank, RankFault, RankSetup


def follow(passes: Passes, ranks: Ranks) -> None:
    """Carry out rank 0's orders until it leaves. Raises RuntimeError when it, or another rank, is gone."""
    while True:
        order = ranks.hear()
        if isinstance(order, Stop):
            return
        with suppress(RankFault):  # an error of the pass, which rank 0 tells
            match order:
                case Forward():
                    passes.score(order)
                case Backward():
                    passes.differentiate(order)


def run_follower(setup: RankSetup, process: ProcessRank, *, store: dist.Store | None = None) -> None:
    """Join, load, follow. Signals that end a service are for rank 0, which needs the others till it is done.

    Raises SettingInvalid; RuntimeError when another rank is gone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(setup.threads)
    with joined_ranks(setup, process, store=store) as ranks:
        follow(load_sharded(setup, ranks), ranks)
