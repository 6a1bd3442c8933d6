"""A worker of an environment, run by the Python of its installation: it answers MinT's calls about it.

Calls and answers are JSON with their length before, on a socket that only this process has. Clients of the
model find it at an http address of this worker, which forwards to MinT's socket. The environment's code runs
in other threads than this protocol, so a call that hangs does not stop the others' cancellation.
Standard library only: nothing here may meet the packages of the environment.
"""

import asyncio
import importlib.util
import inspect
import json
import os
import random
import socket
import struct
import sys
import threading
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

MAX_FRAME_BYTES = 16 << 20
MAX_ENTRY_BYTES = 1 << 20
_LENGTH = struct.Struct("<I")
_LOADED = 8
"""Environments with different arguments that stay loaded."""
_MAX_ERROR = 2000
_THREADS = 256

Message = dict[str, Any]  # JSON


def main() -> None:
    """Answer calls until MinT ends or kills this process.

    The main thread loads environments, one after the other: their packages may set handlers of signals.
    """
    loads = LoadingThread()
    threading.Thread(target=_answer_calls, args=(loads,), daemon=True).start()
    loads.run()


class LoadingThread(Executor):
    """The thread that calls `run`, as an executor."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Call a function once those before it have returned."""
        future: Future[Any] = Future()
        self._queue.put((future, partial(fn, *args, **kwargs)))
        return future

    def run(self) -> None:
        """Call what is submitted, for ever."""
        while True:
            future, function = self._queue.get()
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001  # told to who submitted it
                future.set_exception(error)


def _answer_calls(loads: LoadingThread) -> None:
    with suppress(EOFError, ConnectionError, asyncio.IncompleteReadError):
        asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1])), loads))
    os._exit(0)  # a normal exit waits for threads of the environment


async def _serve(connection: socket.socket, loads: LoadingThread) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    setup = await _receive(reader)
    worker = Worker(setup, kind_of(Path(__file__).parent, setup["kind"]), loads)
    forwarder = await asyncio.start_server(lambda r, w: _forward(setup["door"], r, w), "127.0.0.1", 0)
    worker.port = forwarder.sockets[0].getsockname()[1]
    answering: set[asyncio.Task[None]] = set()

    def send(message: Message) -> None:
        writer.write(_frame(message))

    send({"ready": True})
    while True:
        call = await _receive(reader)
        if call["do"] == "cancel":
            worker.cancel(call["id"])
            continue
        task = asyncio.create_task(worker.answer(call, send))
        answering.add(task)
        task.add_done_callback(answering.discard)


async def _receive(reader: asyncio.StreamReader) -> Message:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_FRAME_BYTES:
        raise EOFError
    message: Message = json.loads(await reader.readexactly(length))
    return message


def _frame(message: Message) -> bytes:
    problem = ""
    try:
        data = json.dumps(message, allow_nan=False).encode()
        if len(data) > MAX_FRAME_BYTES:
            problem = f"it has {len(data)} bytes, the limit is {MAX_FRAME_BYTES}"
    except (TypeError, ValueError, RecursionError) as error:
        problem = str(error)[:_MAX_ERROR]
    if problem:
        told = {"id": message["id"], "error": f"its answer cannot be sent: {problem}", "of": "environment"}
        data = json.dumps(told).encode()
    return _LENGTH.pack(len(data)) + data


def kind_of(folder: Path, name: str) -> ModuleType:
    """Return the module of a kind of environment: its functions load, about, tasks and run.

    Its function ``kind``, if any, names the kind that the installed version of its package is of.
    """
    module = _module_of(folder, name)
    found: str = module.kind() if hasattr(module, "kind") else name
    return module if found == name else _module_of(folder, found)


def _module_of(folder: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mint_kind_{name}", folder / f"{name}_kind.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Worker:
    """Runs the functions of a kind; one environment for each set of arguments, the newest few of them."""

    def __init__(self, setup: Message, kind: ModuleType, loads: Executor) -> None:
        self.port = 0
        self._setup = setup
        self._kind = kind
        self._threads = ThreadPoolExecutor(_THREADS)
        self._loads = loads
        self._loaded: OrderedDict[str, asyncio.Future[Any]] = OrderedDict()
        self._running: dict[int, Callable[[], None]] = {}
        self._loop = asyncio.new_event_loop()
        if inspect.iscoroutinefunction(kind.run):
            threading.Thread(target=self._loop.run_forever, daemon=True).start()

    async def answer(self, call: Message, send: Callable[[Message], None]) -> None:
        """Answer a call; whatever the environment raises is its answer."""
        try:
            send({"id": call["id"], "answer": await self._answer(call)})
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the environment's
            of = getattr(error, "of", "environment")
            send({"id": call["id"], "error": _told(error), "of": of})

    def cancel(self, number: int) -> None:
        """End a running call if its code allows it; a thread ends when it asks for it."""
        if (stop := self._running.get(number)) is not None:
            stop()

    async def _answer(self, call: Message) -> Any:  # JSON
        environment = await self._environment(call["args"], call["max_turns"])
        if call["do"] != "run":
            tasks = await self._in_thread("split", self._kind.tasks, environment, call["split"])
            if call["do"] == "draw":
                return await self._in_thread("environment", draw, tasks, call["n"], call["seed"])
            description, by_group = self._kind.about(environment)
            at_once = self._kind.at_once(environment) if hasattr(self._kind, "at_once") else None
            return {
                "description": description,
                "tasks": None if tasks is None else len(tasks),
                "by_group": by_group,
                "at_once": at_once,
            }
        episodes = [self._with_address(each) for each in call["episodes"]]
        return await self._run(call["id"], environment, json.loads(call["entry"]), episodes)

    async def _run(self, number: int, environment: Any, entry: Any, episodes: list[Message]) -> Any:
        if not inspect.iscoroutinefunction(self._kind.run):
            stopped = threading.Event()
            self._running[number] = stopped.set
            for episode in episodes:
                episode["ask"] = partial(_ask, episode, stopped)
            try:
                return await self._in_thread("environment", self._kind.run, environment, entry, episodes)
            finally:
                del self._running[number]
        running = asyncio.run_coroutine_threadsafe(
            self._run_on_loop(number, environment, entry, episodes), self._loop
        )
        return await asyncio.wrap_future(running)

    async def _run_on_loop(self, number: int, environment: Any, entry: Any, episodes: list[Message]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._running[number] = partial(self._cancel_on_loop, task)
        try:
            return await self._kind.run(environment, entry, episodes)
        finally:
            del self._running[number]

    def _cancel_on_loop(self, task: asyncio.Task[Any]) -> None:
        self._loop.call_soon_threadsafe(task.cancel)

    def _with_address(self, episode: Message) -> Message:
        """Return an episode with the addresses of its model, and a function that asks it."""
        root = f"http://127.0.0.1:{self.port}{episode['path']}"
        told = {**episode, "root_url": root, "base_url": f"{root}/v1"}
        return {**told, "ask": partial(_ask, told, threading.Event())}

    async def _environment(self, args: Message, turns: int) -> Any:
        """Return the environment with some arguments and most turns, loaded once."""
        key = json.dumps([args, turns], sort_keys=True)
        if key not in self._loaded:
            loading: asyncio.Future[Any] = asyncio.ensure_future(
                self._in_thread("args", self._kind.load, self._setup, args, turns, executor=self._loads)
            )
            self._loaded[key] = loading
            if len(self._loaded) > _LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        loading = self._loaded[key]
        try:
            return await asyncio.shield(loading)
        except Exception:
            if self._loaded.get(key) is loading:
                del self._loaded[key]
            raise

    async def _in_thread(
        self, of: str, function: Callable[..., Any], *given: Any, executor: Executor | None = None
    ) -> Any:
        """Call a function of the kind; ``of`` says whose fault its exceptions are."""

        def called() -> Any:
            try:
                return function(*given)
            except BaseException as error:
                error.of = of  # type: ignore[attr-defined]  # read by `answer`
                raise

        return await asyncio.get_running_loop().run_in_executor(executor or self._threads, called)


def draw(tasks: Sequence[Any] | None, n: int, seed: int) -> list[Message]:
    """Return ``n`` tasks, the same for the same seed; none comes again before all have come.

    Where tasks have no end (None), each is a seed of its own.
    """
    source = random.Random(seed)
    if tasks is None:
        return [_task(number, {"seed": number}) for number in (source.getrandbits(31) for _ in range(n))]
    if not len(tasks):
        raise ValueError("the split has no task")
    chosen: list[int] = []
    while len(chosen) < n:
        chosen += source.sample(range(len(tasks)), min(len(tasks), n - len(chosen)))
    return [_task(index, tasks[index]) for index in chosen]


def _task(number: int, entry: Any) -> Message:
    text = json.dumps(entry, default=str)
    if len(text) > MAX_ENTRY_BYTES:
        raise ValueError(f"task {number} has {len(text)} bytes, the limit is {MAX_ENTRY_BYTES}")
    return {"key": str(number), "entry": text}


def _told(error: BaseException) -> str:
    """Return an exception's type, text and place."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
    return f"{type(error).__name__}: {error}"[: _MAX_ERROR - 200] + place[:200]


def _ask(episode: Message, stopped: threading.Event, messages: list[Any]) -> str:
    """Return the model's answer to messages, in a thread. Raises OSError, TimeoutError after `cancel`."""
    if stopped.is_set():
        raise TimeoutError("the episode was stopped")
    asked = {
        "model": episode["model"],
        "messages": messages,
        "temperature": episode["temperature"],
        "max_tokens": episode["max_new_tokens"],
    }
    request = urllib.request.Request(  # noqa: S310  # the worker's own forwarder
        f"{episode['base_url']}/chat/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer episode"},
    )
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return json.load(answer)["choices"][0]["message"]["content"] or ""
    except urllib.error.HTTPError as error:
        with error:
            raise OSError(f"{error.code}: {error.read(_MAX_ERROR).decode(errors='replace')}") from None


async def _forward(door: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy the bytes of a connection to MinT's socket and back, until both sides have ended."""
    try:
        to_reader, to_writer = await asyncio.open_unix_connection(door)
    except OSError:
        writer.close()
        return
    try:
        await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))
    finally:
        to_writer.close()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


if __name__ == "__main__":
    main()
