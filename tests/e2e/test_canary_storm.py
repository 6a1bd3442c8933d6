"""Canary adapters under load: every answer names the revision asked for, and is what that one says."""

import asyncio
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from e2e.stack import RunningStack

from mint_common.adapters_format import peft_name, read_base_facts
from mint_common.adapters_format.tensor_file import write_tensors
from tests.testing.adapters import tar_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

BASE = Path(__file__).parents[2] / "bases/tiny"
CANARIES, RANK = 24, 8
"""More adapters than an engine has slots."""
FEW, MANY = 300, 10_000
AT_ONCE = 16
PROMPT, TOKENS = "f abcd=", 4


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A policy, the digest of its one revision, and what that says."""

    model: str
    digest: str
    text: str


def test_a_few_hundred_answers(stack: RunningStack, canaries: list[Canary]) -> None:
    asyncio.run(_storm(stack, canaries, FEW))


@pytest.mark.slow
def test_ten_thousand_answers(stack: RunningStack, canaries: list[Canary]) -> None:
    asyncio.run(_storm(stack, canaries, MANY))


@pytest.fixture(scope="module")
def canaries(stack: RunningStack) -> list[Canary]:
    made = [_make(stack, seed) for seed in range(CANARIES)]
    assert len({canary.text for canary in made}) > CANARIES // 2, (
        "canaries must be told apart by what they say"
    )
    return made


def _make(stack: RunningStack, seed: int) -> Canary:
    name = f"canary-{seed}"
    stack.make_policy(name)
    draw = np.random.default_rng(seed)
    tensors = {}
    for module, (width, height) in read_base_facts(BASE).modules.items():
        tensors[peft_name(module, "A")] = draw.normal(size=(RANK, width)).astype(np.float32) * 0.3
        tensors[peft_name(module, "B")] = draw.normal(size=(height, RANK)).astype(np.float32) * 0.3
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "base_model_name_or_path": "tiny"}
    files = {
        "adapter_model.safetensors": write_tensors(tensors),
        "adapter_config.json": json.dumps(config).encode(),
    }
    answer = stack.http.post(f"/mint/v1/policies/{name}/revisions", content=tar_of(files))
    assert answer.status_code == 201, answer.text
    told = stack.http.post("/v1/completions", json=_asked("completions", name)).raise_for_status()
    return Canary(model=name, digest=answer.json()["digest"], text=told.json()["choices"][0]["text"])


def _asked(api: str, model: str) -> dict[str, Any]:
    # tiny's chat template joins the contents: a chat asks what a completion does.
    prompt = (
        {"prompt": PROMPT} if api == "completions" else {"messages": [{"role": "user", "content": PROMPT}]}
    )
    return {"model": model, **prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


async def _storm(stack: RunningStack, canaries: list[Canary], count: int) -> None:
    draw = random.Random(count)
    calls = iter([(draw.choice(canaries), draw.choice(("chat", "completions")), n % 2) for n in range(count)])
    wrong: list[str] = []
    answered = 0
    headers = {"authorization": f"Bearer {stack.api_key}"}
    async with httpx.AsyncClient(
        base_url=stack.http.base_url, headers=headers, timeout=120, trust_env=False
    ) as http:

        async def work() -> None:
            nonlocal answered
            for canary, api, streams in calls:
                path = "/v1/chat/completions" if api == "chat" else "/v1/completions"
                body = _asked(api, canary.model) | ({"stream": True} if streams else {})
                try:
                    answer = await http.post(path, json=body)
                except httpx.HTTPError as error:
                    wrong.append(f"{canary}: {api} {streams}: {error!r}")
                    continue
                found = _read(answer, api) if answer.status_code == 200 else (answer.text, "", "")
                answered += answer.status_code == 200
                if found != (canary.digest, canary.digest, canary.text):
                    wrong.append(f"{canary}: {api} {streams}: {found}")

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:20])
    assert answered == count


def _read(answer: httpx.Response, api: str) -> tuple[str, str, str]:
    """Return the digest of the header, that of the body, and the text."""
    header = answer.headers["x-mint-revision"]
    if answer.headers["content-type"].startswith("text/event-stream"):
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        events = [json.loads(line) for line in lines if line != "[DONE]"]
        choices = [choice for event in events for choice in event["choices"]]
        texts = [each["delta"].get("content") if api == "chat" else each["text"] for each in choices]
        return header, events[0]["system_fingerprint"], "".join(text or "" for text in texts)
    told = answer.json()
    choice = told["choices"][0]
    return (
        header,
        told["system_fingerprint"],
        choice["message"]["content"] if api == "chat" else choice["text"],
    )
