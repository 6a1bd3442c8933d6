"""A worker process: it answers one call after the other on its end of a socket pair.

Invariants: it dies with the service, whatever it is doing; it knows none of the service's secrets; the memory
that it can take is bounded, so that a task fails by itself before the machine has none left.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import traceback

import msgspec

from mint_common.runtime.frames import frame, receive_frame
from services.rollout.adapters.tasks.catalog import InstalledTasks
from services.rollout.adapters.workers.desk import answer_call
from services.rollout.adapters.workers.wire import Call, Opening

_PR_SET_PDEATHSIG = 1


def main(descriptor: int, parent: int) -> None:
    """Work until the service ends, or ends this process."""
    _die_with(parent)
    status = 0
    try:
        _serve(socket.socket(fileno=descriptor))
    except (EOFError, ConnectionError):
        pass  # the service has ended
    except BaseException:  # noqa: BLE001  # the edge of the process
        traceback.print_exc()
        status = 1
    os._exit(status)  # threads of tasks would be waited for


def _serve(connection: socket.socket) -> None:
    opening = msgspec.msgpack.decode(receive_frame(connection), type=Opening)
    resource.setrlimit(resource.RLIMIT_DATA, (opening.memory_bytes, opening.memory_bytes))
    tasks = InstalledTasks(opening.families)
    connection.sendall(frame(b""))
    while True:
        call: Call = msgspec.msgpack.decode(receive_frame(connection), type=Call)
        connection.sendall(frame(answer_call(tasks, call)))


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
