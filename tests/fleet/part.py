"""A process on a host of a fleet, to be killed, frozen and cut off at will."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from services.standalone.adapters.launch import RunAs
from tests.fleet.hosts import Hosts

STOP_SECONDS = 60


@dataclass(kw_only=True)
class FleetPart:
    """A command on a host of its own; ``ready_path`` is its HTTP route that answers 200 once it is ready."""

    name: str
    hosts: Hosts
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    run_as: RunAs | None = None
    port: int = 0
    ready_path: str = ""
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://{self.hosts.addresses[self.name]}:{self.port}"

    def start(self) -> None:
        """Start it."""
        user = self.run_as
        drop = (
            []
            if user is None
            else ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.hosts.on(self.name, *drop, *self.argv),
                env={**os.environ, **self.env},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.log.parent,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it and all that it started, at once."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and wait."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(STOP_SECONDS)

    def freeze(self) -> None:
        """Stop it and all that it started, without an end."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def has_ended(self) -> bool:
        """Return whether it ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def _signal(self, number: signal.Signals) -> None:
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _family(self) -> Iterator[psutil.Process]:
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            yield from (first, *first.children(recursive=True))
