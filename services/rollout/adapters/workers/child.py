"""A worker process: it answers calls by running the code of tasks, one by one, on its end of a socket pair.

Invariants: it dies with the service; it has none of the service's secrets; its memory is bounded, so that a
task fails alone before the machine runs out of memory.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
from typing import cast

import msgspec

from mint_common.errors import MintError, TaskFailed, trace_of
from mint_common.runtime.frames import frame, receive_frame
from services.rollout.adapters.tasks.catalog import InstalledTasks
from services.rollout.adapters.workers.wire import (
    MAX_ANSWER_BYTES,
    Answer,
    Call,
    CallFailed,
    DescribeTasks,
    DrawnPrompts,
    DrawPrompts,
    ListedTasks,
    ScoredTexts,
    ScoreTexts,
    WorkerSetup,
)
from services.rollout.core.task import Task, TaskInfo

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
        sys.stderr.write(f"{trace_of(error)}\n")  # without its text, which may quote an answer
        status = 1
    os._exit(status)  # a normal exit waits for threads that tasks started


def _serve(connection: socket.socket) -> None:
    setup = msgspec.msgpack.decode(receive_frame(connection), type=WorkerSetup)
    resource.setrlimit(resource.RLIMIT_DATA, (setup.memory_bytes, setup.memory_bytes))
    tasks = InstalledTasks(setup.families)
    connection.sendall(frame(b""))
    while True:
        call: Call = msgspec.msgpack.decode(receive_frame(connection), type=Call)
        connection.sendall(frame(_answered(tasks, call)))


def _answered(tasks: InstalledTasks, call: Call) -> bytes:
    """Return the encoded answer."""
    try:
        return _encoded(_answer(tasks, call), call)
    except MintError as error:
        payload = cast("dict[str, str | float | bool | None]", error.to_payload())
        return msgspec.msgpack.encode(CallFailed(error=payload))


def _answer(tasks: InstalledTasks, call: Call) -> Answer:
    match call:
        case DescribeTasks():
            names = tasks.names() if call.task is None else [call.task]
            return ListedTasks(tasks=[_info(tasks.task(name)) for name in names], broken=tasks.broken)
        case DrawPrompts():
            return DrawnPrompts(prompts=tasks.task(call.task).prompts(call.split, call.n, call.seed))
        case ScoreTexts():
            task = tasks.task(call.task)
            return ScoredTexts(rewards=[task.reward(entry, text) for entry, text in call.answers])


def _encoded(answer: Answer, call: Call) -> bytes:
    try:
        data = msgspec.msgpack.encode(answer)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TaskFailed(task=call.task or "", problem=f"its answer cannot be sent: {error}") from error
    if len(data) > MAX_ANSWER_BYTES:
        problem = f"its answer has {len(data)} bytes, the limit is {MAX_ANSWER_BYTES}: ask for less at once"
        raise TaskFailed(task=call.task or "", problem=problem)
    return data


def _info(task: Task) -> TaskInfo:
    return TaskInfo(name=task.name, description=task.description, defaults=task.defaults)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
