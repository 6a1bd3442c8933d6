"""The life of every rank but 0: carry out one order after another."""

from services.trainer.adapters.distributed.orders import Differentiate, Score, Stop
from services.trainer.adapters.distributed.passes import Passes
from services.trainer.adapters.distributed.ranks import Ranks


def follow(passes: Passes, ranks: Ranks) -> None:
    """Carry out rank 0's orders until it leaves. Raises RuntimeError when it, or another rank, is gone."""
    while True:
        order = ranks.hear()
        match order:
            case Score():
                passes.score(order)
            case Differentiate():
                passes.differentiate(order)
            case Stop():
                return
