"""`mint up` on a folder: what it tells, what it refuses, and that nothing of it survives a kill -9."""

import asyncio
import contextlib

import httpx
import psutil
import pytest
from e2e.stack import RunningStack, mint

from tests.processes import until_ended

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_a_stack_answers_and_refuses_a_second_one(stack: RunningStack) -> None:
    models = stack.http.get("/v1/models").json()
    assert "tiny" in [model["id"] for model in models["data"]]
    url = f"http://127.0.0.1:{stack.port}/v1/models"
    assert httpx.get(url, trust_env=False).status_code == 401

    root = str(stack.folder)
    status = mint("status", "--dir", root)
    assert status.returncode == 0
    assert "loader-tiny" in status.stdout
    second = mint("up", "--dir", root)
    assert second.returncode == 1
    assert f"already (pid {stack.process.pid})" in second.stderr
    busy = mint("up", "--dir", f"{root}-other", "--base", "tiny", "--port", str(stack.port))
    assert busy.returncode == 1
    assert f"Port {stack.port} is taken by" in busy.stderr


def test_its_parts_listen_on_loopback_alone(stack: RunningStack) -> None:
    listening = []
    for process in psutil.Process(stack.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a child may end between the two calls
            sockets = process.net_connections(kind="tcp")
            listening += [socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN]
    assert len(listening) >= len({"postgres", "nats", "registry", "trainer", "loader", "rollout", "gateway"})
    assert set(listening) == {"127.0.0.1"}


def test_kill_9_leaves_no_process_and_status_says_so(stack: RunningStack) -> None:
    """The last test on the shared stack (`tests/spreading.py`)."""
    family = psutil.Process(stack.process.pid).children(recursive=True)
    assert any("EngineCore" in process.name() for process in family)
    stack.process.kill()
    stack.process.wait()
    asyncio.run(until_ended(family, seconds=10))
    status = mint("status", "--dir", str(stack.folder))
    assert status.returncode == 1
    assert "No stack runs on" in status.stderr
