"""An installed environment of tests, and a model that repeats what it is asked."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI, Request, Response

from mint_common.events import EnvironmentSpec
from mint_common.ids import JobId, WaveId
from services.rollout.core.door.answers import chat_events
from services.rollout.core.environment import EpisodeCall, EpisodePlace
from services.rollout.core.installed_environment import MANIFEST, VENV, InstalledEnvironment

PACKAGES = Path(__file__).parent / "environments"


def install_deeds(folder: Path, *, network: bool = False, python: str = sys.executable) -> None:
    """Install the environment ``deeds`` below a folder, without an index."""
    place = folder / "deeds"
    subprocess.run([python, "-m", "venv", "--without-pip", place / VENV], check=True)
    (site,) = place.glob(f"{VENV}/lib/python*/site-packages")
    shutil.copytree(PACKAGES, site, dirs_exist_ok=True)
    manifest = InstalledEnvironment(
        kind="verifiers",
        name="deeds",
        package="deeds",
        requirement="deeds==1",
        entry="",
        python="3",
        versions=("deeds==1",),
        sha256="0" * 64,
        network=network,
    )
    (place / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def deeds(deed: str = "", *, seconds: float = 20.0, **args: Any) -> EnvironmentSpec:
    """Return the settings of an environment that does a deed."""
    return EnvironmentSpec(
        kind="verifiers",
        id="deeds",
        args={"deed": deed, **args},
        split="train",
        max_turns=3,
        episode_seconds=seconds,
        min_group=1,
    )


def episode(name: str, door: str) -> EpisodeCall:
    """Return an episode whose token is its name."""
    place = EpisodePlace(
        job_id=JobId("job"),
        wave_id=WaveId("wave"),
        step=1,
        group=0,
        sample=0,
        group_size=1,
        index=0,
        seed=1,
    )
    return EpisodeCall(
        place=place,
        episode_id=name,
        path=f"/e/{name}",
        socket=door,
        model="m",
        temperature=0.7,
        max_new_tokens=8,
        max_turns=3,
        seed=1,
    )


def _asking(tool: dict[str, Any], question: dict[str, Any]) -> dict[str, Any]:
    """Return a call of a tool that has what a question asks for as its one argument."""
    function = tool["function"]
    (argument,) = function["parameters"]["properties"]
    asked = question["content"].removeprefix("What is ").removesuffix("?")
    call = {"name": function["name"], "arguments": json.dumps({argument: asked})}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": call}],
    }


def _response(body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer of Responses: a call of the first tool for each number to add, then a text."""
    told = body["input"][0]["content"]
    numbers = [int(each) for each in re.findall(r"add (\d+)", told)]
    done = sum(each.get("type") == "function_call_output" for each in body["input"])
    output: dict[str, Any] = {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "done", "annotations": []}],
    }
    if done < len(numbers):
        tool = body["tools"][0]
        (argument,) = tool["parameters"]["properties"]
        arguments = json.dumps({argument: numbers[done]})
        output = {
            "type": "function_call",
            "id": f"f{done}",
            "call_id": f"c{done}",
            "name": tool["name"],
            "arguments": arguments,
        }
    return {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": body["model"],
        "output": [output],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": body["tools"],
    }


@asynccontextmanager
async def open_door(path: Path) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """Answer OpenAI's API on a unix socket; yield the requests: token and body.

    The model repeats the last message; of a question with tools it asks the first one.
    """
    asked: list[tuple[str, dict[str, Any]]] = []
    http = FastAPI()

    @http.post("/e/{token}/v1/chat/completions", response_model=None)
    async def answer(token: str, request: Request) -> dict[str, Any] | Response:
        body = await request.json()
        asked.append((token, body))
        last = body["messages"][-1]
        message = {"role": "assistant", "content": last["content"]}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        if body.get("tools") and last["role"] == "user":
            choice |= {"message": _asking(body["tools"][0], last), "finish_reason": "tool_calls"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        told = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
        whole = {**told, "usage": usage, "choices": [choice]}
        if not body.get("stream"):
            return whole
        events = b"".join(chat_events(whole, with_usage=True))
        return Response(events, media_type="text/event-stream")

    @http.post("/e/{token}/v1/responses")
    async def respond(token: str, request: Request) -> dict[str, Any]:
        body = await request.json()
        asked.append((token, body))
        return _response(body)

    @http.post("/e/{token}/inference/v1/generate")
    async def generate(token: str, request: Request) -> dict[str, Any]:
        body = await request.json()
        asked.append((token, body))
        ids = [7, 8, 10]
        content = [{"token": f"token_id:{each}", "logprob": -0.5} for each in ids]
        choice = {"index": 0, "token_ids": ids, "finish_reason": "stop", "logprobs": {"content": content}}
        return {"request_id": "g", "choices": [choice]}

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    path.chmod(0o666)
    server = uvicorn.Server(uvicorn.Config(http, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield asked
    finally:
        server.should_exit = True
        await serving
