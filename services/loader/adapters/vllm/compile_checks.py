"""Checks, before the engine gets a structure of an answer, that it compiles within bounds.

The engine compiles structures of all tenants in a few threads, in order of arrival, and nothing ends that:
the pattern ``[a-z]?`` 100 times in a row takes a thread for ten seconds.

Invariants: one structure is checked at a time, the tenants in turn; nothing is started before there is one to
check.
"""

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from mint_common.errors import RequestRefused, Unavailable
from mint_common.runtime.fair_gate import LoopGate
from mint_common.runtime.frames import frame, receive_frame
from services.loader.adapters.vllm.compile_server import READY, CompileOutcome

MEMORY_BYTES = 512 << 20
REMEMBERED_SECONDS = 60.0
"""Maximum total compile time of the structures that are known to compile; the engine may receive all of
them at once."""
_MIN_SECONDS = 0.01
"""Minimum time that a structure counts with, which limits their number."""

_MODULE = "services.loader.adapters.vllm.compile_server"
_START_SECONDS = 120.0
_WALL_FACTOR = 20
"""Wall-clock limit of a check as a multiple of its processor time, for busy processors."""
_ATTEMPTS = 2
_WHAT = "the check of structures"


class CompileChecks:
    """The checks of one loader."""

    def __init__(
        self,
        *,
        tokenizer: str,
        vocab_size: int,
        seconds: int,
        memory_bytes: int = MEMORY_BYTES,
        remembered_seconds: float = REMEMBERED_SECONDS,
    ) -> None:
        """``tokenizer`` is the folder of the engine's tokenizer; ``vocab_size`` the model's.

        ``seconds`` of processor time and ``memory_bytes`` limit one structure.
        """
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._remembered_seconds = remembered_seconds
        self._server = CompileServer(
            tokenizer, vocab_size=vocab_size, seconds=seconds, memory_bytes=memory_bytes
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compile-check")
        self._turns = LoopGate()
        self._passed: OrderedDict[bytes, float] = OrderedDict()  # the seconds that each took

    async def check(self, params: Any, *, tenant: str) -> None:
        """Wait until a structure is known to compile. Cancelling begins no check and waits for none.

        ``params`` are vLLM's StructuredOutputsParams. Structures that xgrammar refuses pass: vLLM reports the
        fault. Raises RequestRefused for one beyond the limits, Unavailable when nothing can be checked.
        """
        if params.all_constraints_none():
            return
        try:
            call = json.dumps(_structure_of(params)).encode()
        except (ValueError, RecursionError):
            return
        # The tenant's own: else the time of an answer showed what others ask for.
        key = hashlib.sha256(json.dumps(tenant).encode() + call).digest()
        if self._knows(key):
            return
        async with self._turns.turn(tenant):
            if self._knows(key):
                return
            loop = asyncio.get_running_loop()
            began = loop.time()
            outcome = await loop.run_in_executor(self._thread, self._server.compile, call)
        if outcome is CompileOutcome.TOO_MUCH:
            most = f"{self._seconds} s of a processor or {self._memory_bytes >> 20} MiB"
            problem = (
                f"the structure takes more than {most} to compile: make the schema, pattern or grammar"
                " smaller (long texts, many optional parts and least numbers of properties take the most)"
            )
            raise RequestRefused(field="structured_outputs", problem=problem)
        if outcome is CompileOutcome.COMPILED:
            self._passed[key] = max(_MIN_SECONDS, loop.time() - began)
            while sum(self._passed.values()) > self._remembered_seconds:
                self._passed.popitem(last=False)

    def _knows(self, key: bytes) -> bool:
        if key not in self._passed:
            return False
        self._passed.move_to_end(key)
        return True

    def close(self) -> None:
        """End the process, and with it a check that runs. Idempotent."""
        self._server.close()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _structure_of(params: Any) -> tuple[str, str]:
    """Return what xgrammar compiles, and as what; vLLM's validation turns choices into a grammar."""
    from vllm.v1.structured_output.backend_types import StructuredOutputOptions
    from vllm.v1.structured_output.request import get_structured_output_key
    from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

    kind, text = get_structured_output_key(params)
    match kind:
        case StructuredOutputOptions.JSON:
            return "json", text
        case StructuredOutputOptions.JSON_OBJECT:
            return "json", '{"type": "object"}'
        case StructuredOutputOptions.REGEX:
            return "regex", text
        case StructuredOutputOptions.CHOICE:
            return "grammar", choice_as_grammar(params.choice)
        case StructuredOutputOptions.GRAMMAR:
            return ("lark" if grammar_is_likely_lark(text) else "grammar"), text
        case StructuredOutputOptions.STRUCTURAL_TAG:
            return "structural_tag", text
    raise AssertionError(kind)


class CompileServer:
    """The process of `compile_server`, started when it is needed; blocks. One call at a time."""

    def __init__(self, tokenizer: str, *, vocab_size: int, seconds: int, memory_bytes: int) -> None:
        self._arguments = tokenizer, str(vocab_size), str(seconds), str(memory_bytes)
        self._wall_seconds = float(_WALL_FACTOR * seconds)
        self._changing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._is_ready = False
        self._is_closed = False

    def compile(self, call: bytes) -> CompileOutcome:
        """Return what comes of a call; one whose process was lost is made once more. Raises Unavailable."""
        for _ in range(_ATTEMPTS):
            connection = self._start()
            try:
                connection.sendall(frame(call))
                return CompileOutcome(receive_frame(connection)[0])
            except TimeoutError:
                self._end()
                return CompileOutcome.TOO_MUCH
            except (EOFError, OSError):
                self._end()
        raise Unavailable(what=_WHAT, problem="its process ends")

    def close(self) -> None:
        """End the process for good. Idempotent."""
        self._is_closed = True
        self._end()

    def _start(self) -> socket.socket:
        """Start the process unless it runs; return its socket. Raises Unavailable."""
        with self._changing:
            if self._is_closed:
                raise Unavailable(what=_WHAT, problem="the loader stops")
            if self._connection is None:
                self._process, self._connection = self._spawned()
            connection = self._connection
        if self._is_ready:
            return connection
        try:
            told = receive_frame(connection)
        except (EOFError, OSError) as error:
            told = f"its process does not start: {type(error).__name__}".encode()
        if told != READY:
            self._end()
            raise Unavailable(what=_WHAT, problem=told.decode())
        connection.settimeout(self._wall_seconds)
        self._is_ready = True
        return connection

    def _spawned(self) -> "tuple[subprocess.Popen[bytes], socket.socket]":
        ours, theirs = socket.socketpair()
        ours.settimeout(_START_SECONDS)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MINT_")}
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno()), *self._arguments],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # xgrammar warns of clients' structures
                    env={**environment, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise Unavailable(what=_WHAT, problem=f"its process does not start: {error}") from error
        return process, ours

    def _end(self) -> None:
        with self._changing:
            process, connection = self._process, self._connection
            self._process = self._connection = None
            self._is_ready = False
        if process is not None and connection is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            connection.close()
