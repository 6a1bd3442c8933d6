"""Operations whose attempts are counted in their rows before they are computed, because they may end the
process.

A count costs a commit. A small operation that has just arrived has none; if the process dies, it
waits at the next start, where all waiting operations are counted before they are computed. A large one, which
can fill a machine's memory, is always counted: it takes seconds, the commit milliseconds.
"""

from mint_common.training import Distill, Pass
from services.trainer.core.wave_batch import WaveBatch

MAX_ATTEMPTS = 2
"""Number of faults, or ends of the process, after which an operation is refused."""
MAX_READS = 5
"""Maximum ends of the process while an operation is read, or its policy restored, before it is refused."""
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
