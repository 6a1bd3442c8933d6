"""How far the loader has taken in what the engine sent: the engine waits rather than runs far ahead.

vLLM sends the outputs of every step whether or not they are taken in. With many log-probabilities that takes
the loader longer than the step took, and whoever came next would wait for seconds of others' outputs before
its own.
"""

import mmap
import os
import struct
import time
from collections import deque
from typing import Any

MOST_AHEAD = 2
"""Steps whose outputs may be on their way."""
LONGEST_WAIT_SECONDS = 0.1
"""How long a step waits; a loader that takes nothing in for long holds the engine up no further."""
_LOOK_SECONDS = 0.0005
_TIME = struct.Struct("d")


class TakenOutputs:
    """The loader's side: memory that the engine maps, with the time of the outputs that were taken last."""

    def __init__(self) -> None:
        descriptor = os.memfd_create("mint-taken")
        os.ftruncate(descriptor, _TIME.size)
        self._memory = mmap.mmap(descriptor, _TIME.size)
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"

    def watch(self, output_processor: Any) -> None:
        """Note what vLLM's output processor takes in. Any: vllm has no types."""
        process = output_processor.process_outputs

        def noting(outputs: Any, timestamp: float | None = None, *rest: Any, **options: Any) -> Any:
            done = process(outputs, timestamp, *rest, **options)
            if timestamp is not None:
                _TIME.pack_into(self._memory, 0, timestamp)
            return done

        output_processor.process_outputs = noting


class SentOutputs:
    """The engine's side."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        self._memory = mmap.mmap(descriptor, _TIME.size, prot=mmap.PROT_READ)
        os.close(descriptor)
        self._sent: deque[float] = deque()

    def note(self, timestamp: float) -> None:
        """Remember that a step's outputs were sent."""
        self._sent.append(timestamp)

    def wait(self) -> None:
        """Return once few enough are on their way, or after a while."""
        give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
        while True:
            (taken,) = _TIME.unpack_from(self._memory, 0)
            while self._sent and self._sent[0] <= taken:
                self._sent.popleft()
            if len(self._sent) <= MOST_AHEAD:
                return
            if time.monotonic() >= give_up_at:
                return
            time.sleep(_LOOK_SECONDS)
