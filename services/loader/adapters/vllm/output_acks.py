"""Acknowledge the engine's outputs: the engine waits instead of running far ahead of the loader.

vLLM sends the outputs of every step without acknowledgement. A loader that is behind answers no
request and forwards none, so the engine would make small steps; and a newcomer
would wait for all unreceived outputs of others before its own.
"""

import os
import select
import struct
import time
from collections import deque
from contextlib import suppress
from typing import Any

ACKS_VARIABLE = "_MINT_OUTPUT_ACKS"
"""Environment variable with the path of the pipe, for the engine process."""
MAX_UNACKED_STEPS = 2
"""Maximum steps with unacknowledged outputs while another step is planned."""
MAX_WAIT_SECONDS = 0.1
"""Maximum wait of a step for acknowledgements; a loader that takes in nothing holds the engine up no
longer."""
_READ_BYTES = 4096
_TIME = struct.Struct("d")


class OutputAcks:
    """The loader's side: a pipe that the engine opens, with the times of received outputs."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self.path = f"/proc/{os.getpid()}/fd/{reading}"

    def watch(self, output_processor: Any) -> None:
        """Report the outputs that vLLM's output processor has received completely. Any: vllm has no types."""
        process, end = output_processor.process_outputs, output_processor.update_scheduler_stats
        latest = 0.0

        def process_part(outputs: Any, timestamp: float | None = None, *rest: Any, **options: Any) -> Any:
            nonlocal latest
            latest = timestamp or latest
            return process(outputs, timestamp, *rest, **options)

        def end_step(stats: Any) -> None:
            end(stats)
            with suppress(BlockingIOError):  # full: no engine reads any more
                os.write(self._writing, _TIME.pack(latest))

        output_processor.process_outputs = process_part
        output_processor.update_scheduler_stats = end_step


class OutputWindow:
    """The engine's side."""

    def __init__(self, path: str) -> None:
        self._reading = os.open(path, os.O_RDONLY)
        self._poller = select.poll()
        self._poller.register(self._reading, select.POLLIN)
        self._sent: deque[float] = deque()

    def note(self, timestamp: float) -> None:
        """Remember that a step's outputs were sent."""
        self._sent.append(timestamp)

    def wait(self) -> bool:
        """Return once few enough are unreceived, or after a while; whether the loader was behind."""
        if len(self._sent) > MAX_UNACKED_STEPS:
            self._read(0.0)
        is_behind = len(self._sent) > MAX_UNACKED_STEPS
        give_up_at = time.monotonic() + MAX_WAIT_SECONDS
        while len(self._sent) > MAX_UNACKED_STEPS and self._read(give_up_at - time.monotonic()):
            pass
        return is_behind

    def _read(self, seconds: float) -> bool:
        """Wait for the loader's report; return whether there was one."""
        is_told = self._poller.poll(1000 * max(0.0, seconds))
        told = os.read(self._reading, _READ_BYTES) if is_told else b""
        if not told:
            return False
        (taken,) = _TIME.unpack_from(told, len(told) - _TIME.size)
        while self._sent and self._sent[0] <= taken:
            self._sent.popleft()
        return True
