"""Loopback ports in use, and their owners."""

import socket
from pathlib import Path

import psutil


def is_free(port: int) -> bool:
    """Return whether a server can listen on a loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Return the owner of a port: a stack, another ``name (pid N)``, or ``another process``."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return "another process"
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return _describe(psutil.Process(connection.pid))
            except psutil.NoSuchProcess:
                continue
    return "another process"


def _describe(process: psutil.Process) -> str:
    """Return the stack of a process: parts have their state folder as working directory."""
    try:
        folder = Path(process.cwd())
    except psutil.AccessDenied:
        return f"{process.name()} (pid {process.pid})"
    if (folder / "run.json").is_file():
        return f"the stack of {folder} (pid {process.pid}; mint down --dir {folder} stops it)"
    return f"{process.name()} (pid {process.pid})"
