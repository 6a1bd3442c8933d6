"""The ports that torch opens for process groups, closed where one process is the whole group.

vLLM makes some twelve groups of gloo's for an engine of one worker as well. Each listens on a port, and keeps
a descriptor for good of each connection that any user of the machine makes: 20,000 of them end the engine.
Nobody needs to connect.

gloo cannot do without its listener: at the end it takes it out of its epoll, and ends the process if it is
not there. So what takes the listener's place is a descriptor that never has anything to read, in that epoll.

Written against torch's gloo; tests/integration/loader/test_closed_ports.py fails when what it uses changes.
"""

import os
import re
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROCESS = Path("/proc/self")
_WATCHED = re.compile(r"^tfd:\s*(\d+)", re.MULTILINE)


def close_ports() -> int:
    """Close all TCP ports that this process listens on; return how many there were. Linux only."""
    watchers = _watchers()
    closed = 0
    for descriptor in _listeners():
        never = os.eventfd(0)
        # Takes the listener out of its epoll, too: nothing else refers to it.
        os.dup2(never, descriptor, inheritable=False)
        os.close(never)
        if descriptor in watchers:
            _watch(watchers[descriptor], descriptor)
        closed += 1
    return closed


def _listeners() -> Iterator[int]:
    """Yield the descriptors of TCP sockets that listen."""
    for descriptor in _descriptors():
        if not _is_socket(descriptor):
            continue
        with socket.socket(fileno=os.dup(descriptor)) as found:
            is_tcp = found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM
            if is_tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield descriptor


def _watchers() -> dict[int, int]:
    """Return in which epoll each descriptor is watched."""
    return {
        int(watched): descriptor
        for descriptor in _descriptors()
        for watched in _WATCHED.findall(_about(descriptor))
    }


def _watch(epoll: int, descriptor: int) -> None:
    with select.epoll.fromfd(os.dup(epoll)) as same:
        same.register(descriptor, select.EPOLLIN)


def _descriptors() -> list[int]:
    with suppress(OSError):
        return [int(each.name) for each in (_PROCESS / "fd").iterdir()]
    return []


def _is_socket(descriptor: int) -> bool:
    with suppress(OSError):
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    return False


def _about(descriptor: int) -> str:
    with suppress(OSError):
        return (_PROCESS / "fdinfo" / str(descriptor)).read_text()
    return ""
