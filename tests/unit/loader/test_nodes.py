"""Machines of one engine join rank 0, which refuses others, and notices one that is gone."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest

from mint_common.errors import SettingInvalid
from services.loader.adapters import nodes
from services.loader.adapters.nodes import JoinTerms, Leader, join
from services.loader.core.nodes import Address, difference

TERMS = JoinTerms(token="secret", setup={"slots": "8", "dtype": "float32"})


@pytest.fixture
def address() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return Address("127.0.0.1", found.getsockname()[1])


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a machine ends itself."""
    event = threading.Event()
    monkeypatch.setattr(nodes, "_end_process", event.set)
    return event


def raw(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=10)


def test_machines_that_join_get_one_port_and_one_seed(address: Address, ended: threading.Event) -> None:
    leader = Leader(address, nodes=3, terms=TERMS)
    found = []
    threads = [
        threading.Thread(target=lambda rank=rank: found.append(join(address, rank=rank, terms=TERMS)))
        for rank in (1, 2)
    ]
    for thread in threads:
        thread.start()
    own = asyncio.run(leader.assemble())
    for thread in threads:
        thread.join(10)
    assert {(one.port, one.seed, one.leader) for one in found} == {(own.port, own.seed, "127.0.0.1")}
    assert {one.rank for one in found} == {1, 2}
    assert not ended.is_set()


@pytest.mark.parametrize(
    ("rank", "terms", "problem"),
    [
        (1, JoinTerms(token="other", setup=TERMS.setup), "MINT_INTERNAL_TOKEN"),
        (2, TERMS, "MINT_LOADER_NODE_RANK is 2, and must be 1 to 1"),
        (
            1,
            JoinTerms(token="secret", setup={"slots": "4", "dtype": "float32"}),
            "slots is 4, and 8 on the leader",
        ),
    ],
)
def test_a_machine_that_does_not_fit_is_refused(
    address: Address, rank: int, terms: JoinTerms, problem: str
) -> None:
    leader = Leader(address, nodes=2, terms=TERMS)
    threading.Thread(target=lambda: asyncio.run(leader.assemble()), daemon=True).start()
    with pytest.raises(SettingInvalid) as raised:
        join(address, rank=rank, terms=terms)
    assert problem in str(raised.value)
    assert join(address, rank=1, terms=TERMS).rank == 1


def test_each_side_notices_the_end_of_the_other(address: Address, ended: threading.Event) -> None:
    leader = Leader(address, nodes=2, terms=TERMS)
    lost = threading.Event()
    leader.end = lost.set
    threading.Thread(target=lambda: asyncio.run(leader.assemble()), daemon=True).start()
    request = {"token": "secret", "rank": 1, "setup": dict(TERMS.setup)}
    with raw(address) as first:
        first.sendall(json.dumps(request).encode() + b"\n")
        assert json.loads(first.makefile().readline())["problem"] == ""
        with raw(address) as twin:
            twin.sendall(json.dumps(request).encode() + b"\n")
            assert "joined already" in json.loads(twin.makefile().readline())["problem"]
        assert not lost.wait(0.2)
    assert lost.wait(10)
    assert not ended.is_set()


def test_a_machine_ends_with_its_leader(address: Address, ended: threading.Event) -> None:
    with socket.create_server((address.host, address.port)) as listener:
        node = threading.Thread(target=lambda: join(address, rank=1, terms=TERMS), daemon=True)
        node.start()
        connection, _ = listener.accept()
        connection.makefile().readline()
        connection.sendall(b'{"port": 1, "seed": 2}\n')
        node.join(10)
        assert not ended.wait(0.2)
        connection.close()
    assert ended.wait(10)


def test_a_machine_that_leaves_before_all_are_there_may_come_back(
    address: Address, ended: threading.Event
) -> None:
    leader = Leader(address, nodes=3, terms=TERMS)
    threading.Thread(target=lambda: asyncio.run(leader.assemble()), daemon=True).start()
    request = {"token": "secret", "rank": 1, "setup": dict(TERMS.setup)}
    with raw(address) as first:
        first.sendall(json.dumps(request).encode() + b"\n")
        first.makefile().readline()
    until = time.monotonic() + 10
    while leader._joined:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert join(address, rank=1, terms=TERMS).rank == 1
    assert not ended.is_set()


@pytest.mark.parametrize(
    "sent", [b"", b"\n", b"GET / HTTP/1.1\r\n", b"[]\n", b"x" * 100_000, b'{"token":1}\n']
)
def test_garbage_is_disconnected_and_harms_no_other(address: Address, sent: bytes) -> None:
    leader = Leader(address, nodes=2, terms=TERMS)
    threading.Thread(target=lambda: asyncio.run(leader.assemble()), daemon=True).start()
    with raw(address) as stranger:
        stranger.sendall(sent)
        stranger.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    assert join(address, rank=1, terms=TERMS).rank == 1


def test_silent_connections_are_bounded(address: Address) -> None:
    leader = Leader(address, nodes=2, terms=TERMS)
    threading.Thread(target=lambda: asyncio.run(leader.assemble()), daemon=True).start()
    silent = [raw(address) for _ in range(nodes._STRANGERS + 1)]
    silent[-1].settimeout(5)
    assert silent[-1].recv(1) == b""
    for each in silent:
        each.close()
    assert join(address, rank=1, terms=TERMS).rank == 1


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x"])
def test_a_leader_without_host_or_port_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid, match="MINT_LOADER_LEADER"):
        Address.read(text)


def test_addresses_are_read_as_they_are_written() -> None:
    for text in ("host:1", "10.0.0.1:29400", "[fd00::1]:65535"):
        assert str(Address.read(text)) == text


def test_what_one_machine_alone_has_differs_too() -> None:
    assert difference(of_node={"a": "1"}, of_leader={"a": "1"}) == ""
    assert difference(of_node={"a": "1"}, of_leader={"b": "2"}) == (
        "a is 1, and unknown on the leader; b is unknown, and 2 on the leader"
    )
