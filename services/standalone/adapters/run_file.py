"""`run.json` of the running stack, and the space on its disk: a full disk is reported and stops nothing."""

import contextlib
import os
import sys
from collections.abc import Mapping

from mint_client.core.room import is_full, room_again, told_full
from mint_client.core.state import RunNow
from mint_common.runtime.clock import Clock
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.core.lifecycle import PartStatus
from services.standalone.core.state import snapshot

LOOK_SECONDS = 5.0


class RunFile:
    """Observer of the supervisor that writes its state, after a full disk as soon as there is space."""

    def __init__(self, folder: StateFolder, ports: Mapping[str, int], *, gateway_url: str) -> None:
        self._folder = folder
        self._ports = ports
        self._gateway_url = gateway_url
        self._unwritten: RunNow | None = None
        self._full = False

    def __call__(self, statuses: Mapping[str, PartStatus]) -> None:
        """Record a change."""
        self._write(snapshot(statuses, self._ports, pid=os.getpid(), gateway_url=self._gateway_url))

    async def keep_current(self, clock: Clock) -> None:
        """Report when the disk becomes full and when it has space again, and write pending state."""
        while True:
            self._look()
            await clock.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        free = self._folder.free_bytes()
        full = is_full(free, was_full=self._full)
        if full is not self._full:
            _say((told_full if full else room_again)(str(self._folder.root), free))
        self._full = full
        if self._unwritten is not None:
            self._write(self._unwritten)

    def _write(self, run: RunNow) -> None:
        self._unwritten = run
        try:
            self._folder.write_run(run)
        except OSError:
            return
        self._unwritten = None


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be a file on the same disk
        sys.stderr.write(f"mint: {sentence}\n")
        sys.stderr.flush()
