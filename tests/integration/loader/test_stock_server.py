"""vLLM's own server in an installation with MinT does what it does without MinT's plugin."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from mint_common.adapters_format import BaseFacts
from tests.integration.loader.conftest import BASE_DIR, random_adapter

pytestmark = [pytest.mark.integration, pytest.mark.slow]
pytest.importorskip("vllm")

READY_SECONDS = 300.0
ENVIRON = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_COMPILE_DISABLE": "1",
}


def answers(adapter: Path, plugins: str | None) -> list[tuple[int, Any]]:
    """Return what a stock server answers, 0 where it does not; ``plugins`` None: what it finds, as usual."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if name != "VLLM_PLUGINS"}
    environ |= ENVIRON | ({} if plugins is None else {"VLLM_PLUGINS": plugins})
    arguments = [
        *("--model", BASE_DIR, "--served-model-name", "tiny", "--port", port, "--host", "127.0.0.1"),
        *("--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", 64 << 20, "--seed", 1),
        *("--enable-lora", "--max-lora-rank", 8, "--lora-modules", f"mine={adapter}"),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *map(str, arguments)],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                _wait_until_ready(http, server)
                return [_answer(http, body) for body in _BODIES]
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # its engine as well


_ASKED = {"prompt": "one two three", "max_tokens": 8, "temperature": 0, "logprobs": 1}
_BODIES: list[dict[str, Any]] = [
    {"model": "tiny", **_ASKED},
    {"model": "mine", **_ASKED},
    {"model": "tiny", **_ASKED, "prompt_logprobs": 1},
    {"model": "mine", **_ASKED, "prompt_logprobs": 1},
]


def _wait_until_ready(http: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if http.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError("the server is not ready")


def _answer(http: httpx.Client, body: dict[str, Any]) -> tuple[int, Any]:
    try:
        answer = http.post("/v1/completions", json=body)
    except httpx.TransportError:
        return 0, None
    if answer.status_code != 200:
        return answer.status_code, None
    [choice] = answer.json()["choices"]
    return 200, (choice["text"], choice["logprobs"], choice["prompt_logprobs"])


def test_a_stock_server_answers_as_without_mints_plugin(facts: BaseFacts, tmp_path: Path) -> None:
    """At the first prompt_logprobs its engine died in a repair of MinT's, which is for MinT's engines."""
    files = random_adapter(facts, seed=1, rank=4)
    for name, content in files.files.items():
        (tmp_path / name).write_bytes(content)
    stock = answers(tmp_path, "")
    assert [status for status, _ in stock[:2]] == [200, 200]
    assert answers(tmp_path, None) == stock
