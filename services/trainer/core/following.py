"""Which of a policy's work need not wait for what is before it."""

from mint_common.training import Pass, Step
from services.trainer.core.operations import StoredOperation
from services.trainer.core.wave_batch import WaveBatch
from services.trainer.core.wave_operations import LoadRevision, LoggedOperation, WaveExport


def is_new_start(work: LoggedOperation | StoredOperation) -> bool:
    """Return whether work begins anew, whatever was before."""
    return isinstance(work, LoadRevision) and work.anew


def may_follow(
    work: LoggedOperation | StoredOperation | WaveBatch, *, is_under_way: bool, is_committed: bool
) -> bool:
    """Return whether work can be computed at once, after what is under way.

    ``is_committed``: all that was executed before is.
    """
    match work:
        case WaveBatch() if work.is_later:
            return not is_under_way  # the wave may end with the step before
        case Pass() | Step() | WaveBatch():
            return True
        case WaveExport():
            # What it comes after may be an export that is not committed yet.
            return is_under_way and is_committed
        case _:
            return False
