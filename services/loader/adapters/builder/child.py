"""Start and end builder processes.

Invariant: a killed process is waited for, but one that does not die delays nothing.
"""

import socket
import subprocess
import sys
import time
from contextlib import suppress

_MODULE = "services.loader.adapters.builder.process"
_PROCESS_CLOCK = 2
"""Marks the clock id of a process's processor time on Linux; see clock_getcpuclockid(3)."""
_END_SECONDS = 0.2
_CLOSE_SECONDS = 5.0


class BuilderProcesses:
    """The builders of this process: one that works, and those that have been killed and are not dead yet."""

    def __init__(self) -> None:
        self._dying: list[subprocess.Popen[bytes]] = []
        self._pid = 0

    @property
    def dying(self) -> int:
        """Return how many killed processes still hold their memory."""
        self._dying = [process for process in self._dying if process.poll() is None]
        return len(self._dying)

    def start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Start a builder; return it and our end of its socket. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # Not asyncio's own: cancelled while it starts a process, it leaves one behind.
                command = [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())]
                # A session of its own: a terminal's signals do not come there.
                process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), start_new_session=True)
                self._pid = process.pid
                return process, ours
        except OSError:
            ours.close()
            raise

    def processor_seconds(self) -> float:
        """Return the processor time that the builder has used, 0 of one that is gone. Opens no file."""
        try:
            return time.clock_gettime(~self._pid << 3 | _PROCESS_CLOCK)
        except OSError:
            return 0.0

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a builder. One that waits for a disk dies only when that answers."""
        process.kill()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._dying.append(process)

    def close(self) -> None:
        """Wait for those that have been killed; blocks, for seconds if one does not die."""
        for process in self._dying:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_CLOSE_SECONDS)
