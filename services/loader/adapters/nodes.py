"""The machines of one engine: rank 0 serves, the others join it, and none outlives another.

vLLM's workers wait for those of other machines without a limit, and do not notice that a machine is gone. So
each other machine keeps a connection to rank 0. Over it the machine shows its setup and gets what all must
share, and both sides notice the end of the other.
"""

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec
import psutil

from mint_common.errors import SettingInvalid, Unavailable, plain_problem
from services.loader.core.nodes import Address, Node, difference

_log = logging.getLogger(__name__)

_LINE_BYTES = 64 << 10
_STRANGERS = 64
"""Maximum connections without a request to join so far: more are closed at once."""
_ANSWER_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_KEEP_ALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 12_000}
"""A machine whose link is cut is noticed within 12 s."""


class _Request(msgspec.Struct):
    token: str
    rank: int
    setup: dict[str, str]


class _Answer(msgspec.Struct):
    """``problem``: why the machine cannot join, else empty."""

    port: int = 0
    seed: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTerms:
    """Token of the stack and setup of the engine: both must be equal on all machines."""

    token: str
    setup: Mapping[str, str]


class Leader:
    """Rank 0's side. The connections live in a thread: an engine that starts blocks the event loop.

    ``end`` is called in that thread when a machine is gone after all had joined. It ends the process, until
    an engine to kill is there.
    """

    def __init__(self, address: Address, *, nodes: int, terms: JoinTerms) -> None:
        """Listen. Raises Unavailable when ``address`` is not this machine's."""
        self._nodes = nodes
        self._terms = terms
        self.end: Callable[[], None] = _end_process
        try:
            self._listener = socket.create_server((address.host, address.port), backlog=128)
        except OSError as error:
            raise Unavailable(what=f"the leader's address {address}", problem=str(error)) from error
        host = self._listener.getsockname()[0]
        self._node = Node(rank=0, leader=host, address=host, port=_free_port(host), seed=secrets.randbits(31))
        self._joined: set[int] = set()
        self._strangers = 0
        self._complete: Future[Node] = Future()

    async def assemble(self) -> Node:
        """Wait until all machines have joined."""
        threading.Thread(target=lambda: asyncio.run(self._serve()), name="nodes", daemon=True).start()
        _log.info("waiting for the other nodes", extra={"nodes": self._nodes})
        return await asyncio.wrap_future(self._complete)

    async def _serve(self) -> None:
        async with await asyncio.start_server(self._admit, sock=self._listener, limit=_LINE_BYTES) as server:
            await server.serve_forever()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._request(reader, writer)
            problem = self._problem(request)
            answer = _Answer(problem=problem) if problem else self._answer(request.rank)
            writer.write(msgspec.json.encode(answer) + b"\n")
            if problem:
                _log.warning("node refused", extra={"rank": request.rank, "problem": problem})
                await writer.drain()
                return
            with contextlib.suppress(OSError):
                await reader.read(1)
            self._leave(request.rank)
        except (OSError, ValueError, TimeoutError, msgspec.DecodeError) as error:  # not a node of ours
            _log.info("a connection to the leader ended", extra={"problem": plain_problem(error)})
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Request:
        if self._strangers >= _STRANGERS:
            raise ConnectionAbortedError("too many connections")
        self._strangers += 1
        try:
            _keep_alive(writer.get_extra_info("socket"))
            async with asyncio.timeout(_ANSWER_SECONDS):
                return msgspec.json.decode(await reader.readline(), type=_Request)
        finally:
            self._strangers -= 1

    def _problem(self, request: _Request) -> str:
        if not hmac.compare_digest(request.token.encode(), self._terms.token.encode()):
            return "its MINT_INTERNAL_TOKEN is another"
        if not 0 < request.rank < self._nodes:
            return f"its MINT_LOADER_NODE_RANK is {request.rank}, and must be 1 to {self._nodes - 1}"
        if request.rank in self._joined:
            return f"a node of rank {request.rank} has joined already"
        return difference(of_node=request.setup, of_leader=self._terms.setup)

    def _answer(self, rank: int) -> _Answer:
        self._joined.add(rank)
        _log.info("node joined", extra={"rank": rank, "joined": len(self._joined), "nodes": self._nodes})
        if len(self._joined) == self._nodes - 1 and not self._complete.done():
            self._complete.set_result(self._node)
        return _Answer(port=self._node.port, seed=self._node.seed)

    def _leave(self, rank: int) -> None:
        self._joined.discard(rank)
        if self._complete.done():
            _log.error("a node of the engine is gone", extra={"rank": rank})
            self.end()


def join(address: Address, *, rank: int, terms: JoinTerms) -> Node:
    """Join rank 0 once it is there; this process ends when rank 0 is gone.

    Raises SettingInvalid when it refuses this machine.
    """
    request = msgspec.json.encode(_Request(token=terms.token, rank=rank, setup=dict(terms.setup)))
    is_logged = False
    while True:
        try:
            return _joined(address, rank, request + b"\n")
        except (OSError, msgspec.DecodeError) as error:
            if not is_logged:
                problem = {"leader": str(address), "problem": plain_problem(error)}
                _log.info("waiting for the leader", extra=problem)
            is_logged = True
        time.sleep(_RETRY_SECONDS)


def _joined(address: Address, rank: int, request: bytes) -> Node:
    connection = socket.create_connection((address.host, address.port), timeout=_ANSWER_SECONDS)
    try:
        _keep_alive(connection)
        connection.sendall(request)
        with connection.makefile("rb") as lines:
            answer = _accepted(address, lines.readline(_LINE_BYTES))
        node = Node(
            rank=rank,
            leader=connection.getpeername()[0],
            address=connection.getsockname()[0],
            port=answer.port,
            seed=answer.seed,
        )
    except BaseException:
        connection.close()
        raise
    connection.settimeout(None)

    def wait_for_end() -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1)
        _log.error("the leader of the engine is gone", extra={"leader": str(address)})
        _end_process()

    threading.Thread(target=wait_for_end, name="leader", daemon=True).start()
    return node


def _accepted(address: Address, line: bytes) -> _Answer:
    answer = msgspec.json.decode(line, type=_Answer)
    if answer.problem:
        problem = f"{address} refuses this node: {answer.problem}"
        raise SettingInvalid(name="MINT_LOADER_LEADER", problem=problem)
    return answer


def prepare_network(node: Node) -> None:
    """Let vLLM and gloo use the network of the leader; what the environment says already stays."""
    os.environ.setdefault("VLLM_HOST_IP", node.address)
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == node.address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _end_process() -> None:
    """End at once: the main thread may wait for workers of other machines, and has nothing to save."""
    os._exit(1)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as found:
        return int(found.getsockname()[1])


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
