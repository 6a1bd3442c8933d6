"""What can stand between a client and an engine: our gateway, a raw server, nginx, LiteLLM's proxy.

Each serves from one process, which is kept on one core. nginx and LiteLLM are measured where PATH has them
(`apt install nginx-light`, `uv tool install 'litellm[proxy]'`), and are no dependencies of the project.

``python -m benches.relays NAME PORT ENGINE_PORT`` serves as one of our two until it is killed.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp

from benches.machine import ROOT
from benches.relay_stub import BASE, serve_bare
from benches.stacks import scratch_folder
from mint_common.authority import Authority, Caller
from mint_common.catalog import Resolution
from mint_common.client.directory import EngineDirectory
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.fair_gate import LoopGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.key_checks import KeyChecks
from services.gateway.core.callers import KeyMemory
from services.gateway.http.public import build_http

KEY = "sk-bench"
OWN = ("gateway", "raw")
FOREIGN = ("nginx", "litellm")
"""Relays of others, by their commands."""
_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 256; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""
_LITELLM = """
model_list:
  - model_name: {base}
    litellm_params: {{model: openai/{base}, api_base: "http://127.0.0.1:{engine_port}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
"""
_LITELLM_LOGS = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"uvicorn.access": {"level": "ERROR"}},
}
"""Without a line for each request, as our services have it."""
_LITELLM_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}


def is_here(name: str) -> bool:
    """Return whether PATH has a relay of others."""
    return shutil.which(name) is not None


@contextlib.contextmanager
def open_relay(name: str, *, port: int, engine_port: int) -> Iterator[int]:
    """Start a relay and yield its process's id; it answers in a while. Ends it."""
    with scratch_folder() as folder, (folder / "log").open("wb") as log:
        with _one_core():
            process = subprocess.Popen(
                _command(name, folder, port, engine_port),
                cwd=ROOT if name in OWN else folder,
                env={**os.environ, **_LITELLM_ENVIRONMENT},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process.pid
        except BaseException:
            print((folder / "log").read_text(errors="replace")[-3000:])
            raise
        finally:
            process.terminate()
            process.wait(60)


def _command(name: str, folder: Path, port: int, engine_port: int) -> list[str]:
    if name in OWN:
        return [sys.executable, "-m", "benches.relays", name, str(port), str(engine_port)]
    command = shutil.which(name)
    assert command is not None, f"PATH has no {name}"
    config = folder / "config.yaml"
    text = {"nginx": _NGINX, "litellm": _LITELLM}[name]
    config.write_text(text.format(folder=folder, port=port, engine_port=engine_port, base=BASE, key=KEY))
    if name == "nginx":
        return [command, "-c", str(config)]
    logs = folder / "logs.json"
    logs.write_text(json.dumps(_LITELLM_LOGS))
    place = ("--host", "127.0.0.1", "--port", str(port))
    return [command, "--config", str(config), "--log_config", str(logs), *place]


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Keep what is started meanwhile to one core."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(own)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _gateway(port: int, engine_port: int) -> None:
    """Serve the gateway's HTTP over ports that know one key and one model."""
    clock = SystemClock()
    http = build_http(ready=lambda: True)
    keys = KeyMemory(ttl_seconds=1e9, capacity=10)
    authority = Authority(tenant_id=TenantId("t"), key_id="k", scopes=frozenset({"infer"}))
    keys.put(KEY, Caller(authority=authority, name="bench"), now=clock.monotonic())
    target = Resolution(base=BASE, policy_id=None, policy_name=None, revision=None)

    async def resolve(_tenant_id: TenantId, _model: str) -> Resolution:
        return target

    http.state.edge = http.state.inference = http.state.catalog = SimpleNamespace(
        clock=clock,
        keys=KeyChecks(SimpleNamespace(), keys, clock),  # the registry is never asked
        engines=EngineDirectory([f"http://127.0.0.1:{engine_port}"], token="t"),
        resolver=SimpleNamespace(resolve=resolve),
        in_hand=TenantBudget(what="requests", limit=10_000),
        open_prompts=TenantBudget(what="prompts", limit=10_000),
        max_answer_bytes=32 << 20,
        open_answers=TenantBudget(),
        bodies=TenantBudget(total=1 << 30, share=1),
        key_bodies=TenantBudget(),
        cold_admission=LoopGate(share=0.12),
        body_admission=LoopGate(share=0.04),
        admission=LoopGate(free=1),
        is_warm=lambda _tenant_id, _model: True,
    )
    serve_bare(http, port)


def _raw(port: int, engine_port: int) -> None:
    """Pass requests on with the same server and client, and nothing between."""
    sessions: list[aiohttp.ClientSession] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI has no types
        if not sessions:
            sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=512)))
        body = (await receive())["body"]
        url = f"http://127.0.0.1:{engine_port}{scope['path']}"
        async with sessions[0].post(url, data=body) as answer:
            kind = answer.headers["content-type"].encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            async for part in answer.content.iter_any():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    serve_bare(app, port)


if __name__ == "__main__":
    {"gateway": _gateway, "raw": _raw}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
