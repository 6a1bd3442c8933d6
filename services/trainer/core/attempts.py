"""Which operations are noted in their rows before they are computed, as they may end the process.

A note costs a commit. An operation that has just arrived and is small has none; if the process dies, it is
among what waits at the next start, all of which is noted before it is computed. A large one, which is what
fills a machine's memory, is noted always: it takes seconds, the commit milliseconds.
"""

from mint_common.training import Distill, Pass
from services.trainer.core.wave_batch import WaveBatch

MOST_ATTEMPTS = 2
"""Number of faults, or ends of the process, after which an operation is refused."""
LARGE_TOKENS = 8192


def is_large(work: object) -> bool:
    """Return whether work is noted before it is computed, whenever that is."""
    match work:
        case WaveBatch():
            return work.tokens >= LARGE_TOKENS
        case Pass():
            return sum(len(datum.tokens) for datum in work.data) // 4 >= LARGE_TOKENS
        case Distill():
            prompts = sum(len(one.student_tokens) + len(one.teacher_tokens) for one in work.data) // 4
            return prompts + 2 * sum(one.target_tokens.shape[0] for one in work.data) >= LARGE_TOKENS
        case _:
            return False
