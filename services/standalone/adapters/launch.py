"""The specification to start one process and to check its readiness."""

import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mint_client.core.refusals import LocalFailureError
from services.standalone.adapters.ports_in_use import is_free

PORTS = range(18_000, 32_000)
"""Below Linux's default range for outgoing connections (32768 and up)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAs:
    """An unprivileged user to drop to.

    ``pass_closed_folders`` keeps one capability of root, to reach files below a folder that others may not
    enter (a state folder below /root): the files themselves belong to the user.
    """

    uid: int
    gid: int
    pass_closed_folders: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A command, its environment on top of the parent's, who runs it and how it is asked to stop.

    ``ready_url`` answers 200 once the process is ready; empty means that ``ready_dsn`` (an address of
    Postgres) or ``ready_bus`` (one of NATS) accepts a session; with none it is ready once it runs.
    ``alive_url`` answers anything as long as the process does not hang.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    run_as: RunAs | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    ready_url: str = ""
    alive_url: str = ""
    ready_dsn: str = ""
    ready_bus: str = ""
    folder: Path = Path("/")


def free_port() -> int:
    """Return a loopback port that is free now, outside the range of outgoing connections.

    An engine listens only after loading its base; the kernel may give away a port of its own range until
    then.
    """
    for port in random.SystemRandom().sample(PORTS, k=len(PORTS)):
        if is_free(port):
            return port
    raise LocalFailureError(
        what="a loopback port", problem=f"all of {PORTS.start}-{PORTS.stop - 1} are taken"
    )
