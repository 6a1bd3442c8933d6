"""Close the ports that torch opens for process groups of a single process.

vLLM creates some twelve gloo groups even for an engine of one worker. Each listens on a port, and holds a
descriptor permanently for each connection that any user of the machine makes: 20,000 of them end the engine.
No peer needs to connect. A descriptor that never has anything to read replaces the listener: gloo closes it
at the end.

Written against torch's gloo; tests/integration/loader/test_closed_ports.py fails when what it uses changes.
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


def close_ports() -> int:
    """Close all TCP ports that this process listens on; return how many there were. Linux only."""
    closed = 0
    for descriptor in list(_listeners()):
        never = os.eventfd(0)
        # With its last descriptor the listener leaves gloo's epoll, too.
        os.dup2(never, descriptor, inheritable=False)
        os.close(never)
        closed += 1
    return closed


def _listeners() -> Iterator[int]:
    """Yield the descriptors of TCP sockets that listen."""
    if not _DESCRIPTORS.exists():
        return
    for descriptor in [int(each.name) for each in _DESCRIPTORS.iterdir()]:
        if not _is_socket(descriptor):
            continue
        with socket.socket(fileno=os.dup(descriptor)) as found:
            is_tcp = found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM
            if is_tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield descriptor


def _is_socket(descriptor: int) -> bool:
    with suppress(OSError):  # the one that lists them is closed by now
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    return False
