"""A worker process: it answers calls one by one on its end of a socket pair.

Invariants: it dies with the service; it has none of the service's secrets; its memory is bounded, so that a
task fails alone before the machine runs out of memory.
"""

import ctypes
import os
import resource
import signal
import socket
import sys

import msgspec

from mint_common.errors import raised
from mint_common.runtime.frames import frame, receive_frame
from services.rollout.adapters.tasks.catalog import InstalledTasks
from services.rollout.adapters.workers.calls import answer_call
from services.rollout.adapters.workers.wire import Call, WorkerSetup

_PR_SET_PDEATHSIG = 1


def main(descriptor: int, parent: int) -> None:
    """Answer calls until the service ends or kills this process."""
    _die_with(parent)
    status = 0
    try:
        _serve(socket.socket(fileno=descriptor))
    except (EOFError, ConnectionError):
        pass  # the service has ended
    except BaseException as error:  # noqa: BLE001  # the edge of the process
        sys.stderr.write(f"{raised(error)}\n")  # without its text, which may quote an answer
        status = 1
    os._exit(status)  # a normal exit waits for threads that tasks started


def _serve(connection: socket.socket) -> None:
    setup = msgspec.msgpack.decode(receive_frame(connection), type=WorkerSetup)
    resource.setrlimit(resource.RLIMIT_DATA, (setup.memory_bytes, setup.memory_bytes))
    tasks = InstalledTasks(setup.families)
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
