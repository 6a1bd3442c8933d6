"""A poisoned adapter past the bounds of ingest, on a real engine: out of use, and others notice nothing."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE, BaseFacts, peft_name, read_base_facts
from mint_common.adapters_format.tensor_file import write_tensors
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import open_stack
from services.standalone.core.plan import BaseAt
from services.standalone.settings import read_standalone_settings
from tests.integration.tenants import make_tenant_key
from tests.testing.adapters import tar_of

pytestmark = [
    pytest.mark.engine,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

BASE_DIR = Path(__file__).parents[2] / "bases" / "tiny"
SERVING = ("registry", "loader", "gateway")
SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Tenants:
    """Two tenants of one stack; the registry takes adapters of any magnitude."""

    attacker: httpx.AsyncClient
    victim: httpx.AsyncClient


@pytest.fixture
async def tenants(tmp_path: Path) -> AsyncIterator[Tenants]:
    overrides = {"MINT_REGISTRY_MAX_UPDATE_RATIO": "0", "MINT_LOADER_KV_CACHE_BYTES": str(32 << 20)}
    settings = read_standalone_settings({**os.environ, **overrides})
    folder = StateFolder(root=tmp_path / "state")
    base = BaseAt(name="tiny", folder=str(BASE_DIR))
    async with AsyncExitStack() as opened:
        opening = open_stack(folder, [base], port=free_port(), settings=settings, services=SERVING)
        stack = await opened.enter_async_context(opening)
        await stack.supervisor.all_ready()
        other_key = make_tenant_key(stack.gateway_url, stack.api_key)

        async def client(key: str) -> httpx.AsyncClient:
            headers = {"authorization": f"Bearer {key}"}
            return await opened.enter_async_context(
                httpx.AsyncClient(base_url=stack.gateway_url, headers=headers, timeout=60, trust_env=False)
            )

        yield Tenants(attacker=await client(other_key), victim=await client(stack.api_key))


def adapter(facts: BaseFacts, *, poison: float | None) -> bytes:
    """Return a tar of a small adapter, all layers of which have one weight of ``poison``."""
    rng = np.random.default_rng(5)
    tensors: dict[str, np.ndarray] = {}
    for name, (width, height) in facts.modules.items():
        a = rng.standard_normal((4, width), dtype=np.float32) / np.float32(width**0.5)
        b = rng.standard_normal((height, 4), dtype=np.float32) * np.float32(0.2)
        if poison is not None and name.endswith("v_proj"):
            b[0, 0] = poison
        tensors |= {peft_name(name, "A"): a, peft_name(name, "B"): b}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "base_model_name_or_path": "tiny"}
    return tar_of({WEIGHTS_FILE: write_tensors(tensors), CONFIG_FILE: json.dumps(config).encode()})


async def make(client: httpx.AsyncClient, name: str, body: bytes) -> None:
    lora = {"rank": 4, "alpha": 4, "seed": 0}
    made = await client.post("/mint/v1/policies", json={"name": name, "base": "tiny", "lora": lora})
    assert made.status_code == 201, made.text
    sent = await client.post(f"/mint/v1/policies/{name}/revisions", content=body)
    assert sent.status_code == 201, sent.text


async def ask(client: httpx.AsyncClient, model: str) -> tuple[int, str]:
    body = {"model": model, "prompt": "f abcd=", "max_tokens": 6, "temperature": 0, "logprobs": 1}
    answer = await client.post("/v1/completions", json=body)
    if answer.status_code == 200:
        return 200, json.dumps(answer.json()["choices"])
    return answer.status_code, answer.text


async def until(question: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + SECONDS
    while not await question():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.05)


async def test_it_is_quarantined_until_its_owner_restores_it_and_again(tenants: Tenants) -> None:
    facts = read_base_facts(BASE_DIR)
    await make(tenants.victim, "calm", adapter(facts, poison=None))
    await make(tenants.attacker, "poisoned", adapter(facts, poison=3e38))
    before = [await ask(tenants.victim, model) for model in ("tiny", "calm")]
    assert [status for status, _ in before] == [200, 200]

    for _ in range(2):  # the second time it has been restored
        status, text = await ask(tenants.attacker, "poisoned")
        assert (status, "non_finite_output" in text) == (400, True)

        async def is_refused() -> bool:
            return (await ask(tenants.attacker, "poisoned"))[0] == 404

        await until(is_refused)
        assert "quarantined" in (await ask(tenants.attacker, "poisoned@1"))[1]
        url = "/mint/v1/policies/poisoned/revisions/1"
        assert (await tenants.attacker.get(url)).json()["state"] == "quarantined"
        assert [await ask(tenants.victim, model) for model in ("tiny", "calm")] == before
        assert (await tenants.attacker.post(f"{url}/restore")).json()["state"] == "published"
