"""A service's life as a process: it drains on SIGTERM, dies of a crash, its traces join those of others."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from span_receiver import OtlpReceiver

from services.standalone.adapters.launch import free_port

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).with_name("small_service.py")
TOKEN = {"x-mint-internal-token": "secret"}


class Running:
    """A small service process."""

    def __init__(
        self, folder: Path, *, otlp: str = "", peer: str = "", how: str = "", name: str = "small"
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder / name
        self.folder.mkdir()
        self.output = self.folder / "output"
        arguments = [str(self.port), otlp, peer, how, name, str(self.folder)]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *arguments], stdout=output, stderr=subprocess.STDOUT
            )

    def await_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output.read_text()
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2, verify=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("not ready")

    def logs(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def finish_slow_answers(self) -> None:
        (self.folder / "finish").touch()

    @property
    def was_cleaned(self) -> bool:
        return (self.folder / "cleaned").exists()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(**options: str) -> Running:
        running.append(Running(tmp_path, **options))
        return running[-1]

    yield start
    for service in running:
        service.process.kill()
        service.process.wait()


async def test_sigterm_finishes_requests_in_hand_and_cleans_up(start: Callable[..., Running]) -> None:
    service = start()
    service.await_ready()
    async with httpx.AsyncClient(base_url=service.url) as client, client.stream("GET", "/slow") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "first"
        service.process.send_signal(signal.SIGTERM)
        service.finish_slow_answers()
        assert await anext(lines) == "last"
    assert await asyncio.to_thread(service.process.wait, 60) == 0
    assert service.was_cleaned
    assert [line["message"] for line in service.logs()] == ["draining", "drained"]


def test_no_forwarded_header_changes_what_a_service_takes_for_its_address_or_its_clients(
    start: Callable[..., Running],
) -> None:
    service = start()
    service.await_ready()
    headers = {"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.1"}
    answer = httpx.get(f"{service.url}/address", headers=headers, timeout=20)
    assert answer.json() == [f"{service.url}/", "127.0.0.1"]


async def test_a_draining_service_accepts_nothing_new(start: Callable[..., Running]) -> None:
    service = start()
    service.await_ready()
    async with httpx.AsyncClient(base_url=service.url) as client, client.stream("GET", "/slow") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "first"
        service.process.send_signal(signal.SIGTERM)
        await until_refused(service)
        service.finish_slow_answers()
        assert await anext(lines) == "last"


async def test_new_connections_are_answered_while_load_balancers_learn(start: Callable[..., Running]) -> None:
    service = start(how="accepting")
    service.await_ready()
    service.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        while (await asyncio.to_thread(httpx.get, f"{service.url}/readyz", timeout=20)).status_code != 503:
            await asyncio.sleep(0.02)
    answer = await asyncio.to_thread(httpx.get, f"{service.url}/internal/work", headers=TOKEN)
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    service.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(service.process.wait, 20) == 0, "the second signal does not wait"


async def test_no_connection_that_was_made_is_reset(start: Callable[..., Running]) -> None:
    service = start()
    service.await_ready()
    statuses: list[bytes] = []

    async def ask_until_refused() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            except ConnectionRefusedError:
                return
            writer.write(b"GET /address HTTP/1.1\r\nhost: small\r\nconnection: close\r\n\r\n")
            statuses.append((await reader.read())[9:12])
            writer.close()

    clients = [asyncio.ensure_future(ask_until_refused()) for _ in range(32)]
    while len(statuses) < 200:
        await asyncio.sleep(0.01)
    service.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*clients)
    assert set(statuses) <= {b"200", b"503"}


async def test_a_first_request_after_the_stop_is_refused_before_it_begins(
    start: Callable[..., Running],
) -> None:
    service = start()
    service.await_ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    silent_reader, silent_writer = await asyncio.open_connection("127.0.0.1", service.port)
    service.process.send_signal(signal.SIGTERM)
    await until_refused(service)
    writer.write(b"GET /address HTTP/1.1\r\nhost: small\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503"), answer
    assert b'"code":"stopping"' in answer
    assert await silent_reader.read() == b""
    writer.close()
    silent_writer.close()
    assert await asyncio.to_thread(service.process.wait, 20) == 0


async def until_refused(service: Running) -> None:
    """Wait until no new connection is taken."""
    async with asyncio.timeout(20):
        while True:
            try:
                await asyncio.to_thread(httpx.get, f"{service.url}/readyz", timeout=20)
            except httpx.ConnectError:
                return
            except httpx.TransportError:
                await asyncio.sleep(0.02)


async def test_a_request_without_end_does_not_hold_the_drain(start: Callable[..., Running]) -> None:
    service = start(how="impatient")
    service.await_ready()
    async with httpx.AsyncClient(base_url=service.url) as client, client.stream("GET", "/endless") as answer:
        lines = answer.aiter_lines()  # kept: dropping it would close the answer
        await anext(lines)
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.process.wait, 60) == 0
        assert time.monotonic() - started > 1.5


async def test_a_second_signal_does_not_wait(start: Callable[..., Running]) -> None:
    service = start()
    service.await_ready()
    async with httpx.AsyncClient(base_url=service.url) as client, client.stream("GET", "/slow") as answer:
        lines = answer.aiter_lines()  # kept: dropping it would close the answer
        await anext(lines)
        service.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.2)
        service.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(service.process.wait, 20) == 0, "it would drain for 30 s"
    assert service.was_cleaned


def test_a_crash_in_the_background_ends_the_process(start: Callable[..., Running]) -> None:
    service = start(how="crash")
    assert service.process.wait(60) == 1
    assert service.was_cleaned
    (line,) = (line for line in service.logs() if line["message"] == "service crashed")
    assert "the background task crashed" in str(line["exception"])


def test_a_taken_port_is_told_in_one_line(start: Callable[..., Running], tmp_path: Path) -> None:
    first = start()
    first.await_ready()
    arguments = [str(first.port), "", "", "", "second", str(tmp_path)]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, check=False)
    assert done.returncode == 1
    line = json.loads(done.stdout)
    assert (line["message"], line["code"]) == ("service stopped", "unavailable")
    assert str(first.port) in line["problem"]


def test_a_wrong_setting_is_told_though_nothing_logs_yet() -> None:
    program = """
import sys
from mint_common.errors import SettingInvalid
from mint_common.runtime.service import run_process

def main():
    raise SettingInvalid(name="MINT_X_PORT", problem="is required; it is not set")

sys.exit(run_process(main))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Setting MINT_X_PORT: is required; it is not set\n"


def test_one_trace_runs_through_two_processes(start: Callable[..., Running]) -> None:
    with OtlpReceiver() as receiver:
        below = start(otlp=receiver.endpoint, name="below")
        above = start(otlp=receiver.endpoint, name="above", peer=below.url)
        above.await_ready()
        below.await_ready()
        answer = httpx.get(f"{above.url}/internal/work", headers=TOKEN)
        assert answer.json() == {"below": {"below": None}}
        trace_id = answer.headers["x-mint-trace-id"]
        for service in (above, below):
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(20) == 0
        spans = [span for span in receiver.spans if span.trace_id == trace_id]

    by_place = {(span.service, span.name): span for span in spans}
    outer = by_place["above", "GET /internal/work"]
    call = by_place["above", "http GET"]
    inner = by_place["below", "GET /internal/work"]
    assert len(spans) == 3
    assert (outer.parent_id, call.parent_id, inner.parent_id) == ("", outer.span_id, call.span_id)
    assert inner.attributes["http.response.status_code"] == "200"
    for service in (above, below):
        (line,) = (line for line in service.logs() if line["message"] == "working")
        assert line["trace_id"] == trace_id


def test_a_dead_collector_stops_neither_work_nor_exit(start: Callable[..., Running]) -> None:
    service = start(otlp="http://127.0.0.1:9")
    service.await_ready()
    assert httpx.get(f"{service.url}/internal/work", headers=TOKEN).status_code == 200
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0
