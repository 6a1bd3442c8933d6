"""Finds the state folder of a stack on this machine by the address of its gateway."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from mint_client.adapters.stack_folder import StackFolder

try:
    import psutil
except ModuleNotFoundError:  # the client alone does not have it
    psutil = None

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def stack_at(url: str, default: Path) -> StackFolder | None:
    """Return the folder of the running stack whose gateway is at a URL, ``default`` or another one.

    None for a stack of another machine or user.
    """
    address = urlsplit(url)
    if address.hostname not in _LOOPBACK:
        return None
    for root in (default, *_folders_at(address.port or 0)):
        state = StackFolder(root=root)
        run = state.read_run()
        if run is not None and urlsplit(run.gateway_url).port == address.port:
            return state
    return None


def _folders_at(port: int) -> Iterator[Path]:
    """Yield the working folder of each process that listens on a port: that of a part is its state folder."""
    if psutil is None:
        return
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                yield Path(psutil.Process(connection.pid).cwd())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
