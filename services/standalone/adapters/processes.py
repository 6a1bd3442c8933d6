"""Parts as local processes, one session each, that end with the supervisor.

If the supervisor is killed, PR_SET_PDEATHSIG ends each part's leader, and the sentinel, whose pipe closes,
ends all other processes of the parts' sessions.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from mint_client.core.refusals import LocalFailureError
from services.standalone.adapters import sessions
from services.standalone.adapters.launch import Launch
from services.standalone.adapters.privileges import child_setup
from services.standalone.adapters.readiness import is_alive, probe
from services.standalone.core.log_tail import readable

LOG_TAIL_BYTES = 8000


class Sentinel:
    """The sentinel process; it also holds the state folder's lock until the last orphan has ended."""

    def __init__(self, lock_fd: int) -> None:
        self._lock_fd = lock_fd
        self._sessions: set[int] = set()
        self._process = self._start()

    def watch(self, session: int) -> None:
        """Make the sentinel end this session if the supervisor dies."""
        self._sessions.add(session)
        self._tell(f"+{session}\n")

    def forget(self, session: int) -> None:
        """Remove a session that has ended; its id may be reused."""
        self._sessions.discard(session)
        self._tell(f"-{session}\n")

    def close(self) -> None:
        """Make the sentinel end the remaining sessions and exit."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", sessions.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(self._lock_fd,),
            start_new_session=True,
        )

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except BrokenPipeError:
            # The sentinel was killed: a new one gets all its sessions.
            self._process.wait()
            self._process.stdin.close()
            self._process = self._start()
            assert self._process.stdin is not None
            self._process.stdin.write("".join(f"+{session}\n" for session in self._sessions).encode())


class LocalProcess:
    """A session leader started by `LocalProcesses`."""

    def __init__(self, process: asyncio.subprocess.Process, launch: Launch, sentinel: Sentinel) -> None:
        self._process = process
        self._launch = launch
        self._sentinel = sentinel
        self._ended = False

    @property
    def pid(self) -> int:
        """Return the leader's process id, which is its session's id too."""
        return self._process.pid

    async def exited(self) -> int:
        """Wait for the leader's end and return its exit code (negative: the signal); repeatable."""
        return await self._process.wait()

    async def end(self, *, limit_seconds: float) -> None:
        """Send the stop signal, then SIGKILL; then end the rest of the session. Idempotent."""
        if self._ended:
            return
        if self._process.returncode is None:
            self._process.send_signal(self._launch.stop_signal)
            try:
                await asyncio.wait_for(self._process.wait(), limit_seconds)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    self._process.kill()
                await self._process.wait()
        await asyncio.to_thread(sessions.kill_sessions, {self.pid})
        self._sentinel.forget(self.pid)
        self._ended = True


class LocalProcesses:
    """Starts each launch by name, with a log file per part."""

    def __init__(
        self,
        launches: Mapping[str, Launch],
        *,
        environment: Mapping[str, str],
        log_folder: Path,
        sentinel: Sentinel,
        http: httpx.AsyncClient,
    ) -> None:
        self._launches = launches
        self._environment = environment
        self._log_folder = log_folder
        self._sentinel = sentinel
        self._http = http

    async def start(self, name: str) -> LocalProcess:
        """Start a part's process, its output appended to ``<log folder>/<name>.log``.

        Its earlier process must have been ended. Raises LocalFailureError.
        """
        launch = self._launches[name]
        try:
            with self._log(name).open("ab") as log:
                # Forked in the loop's thread: the death signal is tied to the forking thread.
                process = await asyncio.create_subprocess_exec(
                    *launch.argv,
                    env={**self._environment, **launch.env},
                    cwd=launch.folder,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    preexec_fn=child_setup(launch.run_as, parent=os.getpid()),
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise LocalFailureError(what=name, problem=f"cannot run {launch.argv[0]}: {error}") from error
        self._sentinel.watch(process.pid)
        return LocalProcess(process, launch, self._sentinel)

    async def is_ready(self, name: str) -> bool:
        """Probe once; never raises for a part that does not answer."""
        return await probe(self._launches[name], self._http)

    async def is_alive(self, name: str, *, limit_seconds: float) -> bool:
        """Return whether a part that was ready answers at all, ready or not; never raises."""
        return await is_alive(self._launches[name], self._http, limit_seconds=limit_seconds)

    def log_tail(self, name: str) -> str:
        """Return the end of the part's log."""
        log = self._log(name)
        if not log.exists():
            return ""
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            return readable(file.read().decode(errors="replace").strip())

    def _log(self, name: str) -> Path:
        return self._log_folder / f"{name}.log"
