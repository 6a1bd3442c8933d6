"""`mint track` as a process that a test kills and starts again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 300.0


@dataclass(slots=True, kw_only=True)
class Recording:
    """Starts `mint track` at a gateway, each time with the same options, so that it goes on."""

    url: str
    key: str
    folder: Path
    options: tuple[str, ...]
    python: Path = Path(sys.executable)
    environ: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def said(self) -> str:
        """Return all that the processes printed."""
        log = self.folder / "track.log"
        return log.read_text() if log.exists() else ""

    def start(self) -> None:
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MINT_")},
            "PYTHONPATH": str(ROOT / "libs"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "MINT_URL": self.url,
            "MINT_API_KEY": self.key,
            **self.environ,
        }
        with (self.folder / "track.log").open("ab") as log:
            command = [self.python, "-c", "from mint_client.cli import main; main()", "track", *self.options]
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=self.folder)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ends(self) -> int:
        """Wait for the end by itself; return the exit code."""
        assert self.process is not None
        return self.process.wait(SECONDS)

    def wait_for(self, is_there: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not is_there():
            assert time.monotonic() < deadline, f"{what} was not there in time:\n{self.said}"
            time.sleep(0.1)


@contextmanager
def recording(
    url: str,
    key: str,
    folder: Path,
    *options: str,
    python: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Recording]:
    """Yield a recording that has started; end it after the block."""
    found = Recording(
        url=url,
        key=key,
        folder=folder,
        options=options,
        python=python or Path(sys.executable),
        environ=environ or {},
    )
    found.start()
    try:
        yield found
    finally:
        if found.process is not None and found.process.poll() is None:
            found.kill()
