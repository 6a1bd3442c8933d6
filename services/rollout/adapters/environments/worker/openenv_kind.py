"""Environments of OpenEnv: their server runs in the worker; the loop of observation and action is here."""

import asyncio
import importlib
import json
import socket
import threading
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

_START_SECONDS = 60.0
_DATA = ("done", "reward", "metadata")
"""Fields of an observation that are not for the model."""


class _Served(NamedTuple):
    """The server's port and name, the schema of its actions, and most turns of an episode."""

    port: int
    name: str
    action: dict[str, Any]
    turns: int


def load(setup: dict[str, Any], args: dict[str, Any], turns: int) -> _Served:
    """Serve the entry, MODULE:NAME: an application, with ``args`` a function that returns one."""
    import uvicorn

    if not setup["entry"]:
        raise TypeError("the environment was added without --entry MODULE:NAME of its application")
    module, _, name = setup["entry"].partition(":")
    app = getattr(importlib.import_module(module), name)
    server = uvicorn.Server(uvicorn.Config(app(**args) if args else app, log_level="error", ws="websockets"))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/schema", timeout=_START_SECONDS) as answer:
        schema = json.load(answer)
    return _Served(port, setup["package"], schema["action"], turns)


def about(environment: _Served) -> tuple[str, bool]:
    """Return a description, and that episodes are rewarded one by one."""
    return f"OpenEnv {environment.name}", False


def tasks(environment: _Served, split: str) -> Sequence[Any] | None:  # noqa: ARG001  # a kind's
    """Return that tasks have no end: each is a seed of `reset`."""
    return None


async def run(environment: _Served, entry: Any, episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the episode of a seed; its reward is its steps' sum. An action that is refused costs a turn."""
    import websockets

    (episode,) = episodes
    address = f"ws://127.0.0.1:{environment.port}/ws"
    async with websockets.connect(address, max_size=16 << 20, proxy=None) as session:
        seen = await _exchange(session, "reset", {"seed": entry["seed"], "episode_id": episode["episode_id"]})
        if seen["type"] == "error":
            raise RuntimeError(f"reset: {seen['data']}")
        messages = [{"role": "user", "content": f"{_told(environment.action)}\n\n{_shown(seen)}".strip()}]
        reward, refused, turns = 0.0, 0, 0
        while not seen["data"].get("done") and turns < environment.turns:
            text = await asyncio.to_thread(episode["ask"], messages)
            seen = await _exchange(session, "step", _action(text, environment.action))
            turns += 1
            refused += seen["type"] == "error"
            reward += float(seen["data"].get("reward") or 0.0)
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": _shown(seen)}]
        with suppress(websockets.ConnectionClosed):
            await session.send(json.dumps({"type": "close"}))
    done = bool(seen["data"].get("done"))
    scores = {"turns": float(turns), "refused_actions": float(refused)}
    stop = "done" if done else "max_turns"
    return [{"reward": reward, "scores": scores, "stop": stop, "is_truncated": not done}]


async def _exchange(session: Any, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    await session.send(json.dumps({"type": kind, "data": data}))
    seen: dict[str, Any] = json.loads(await session.recv())
    return seen


def _shown(seen: dict[str, Any]) -> str:
    """Return an observation as the model reads it: its one text, or JSON."""
    if seen["type"] == "error":
        return f"This action is refused: {seen['data'].get('message', seen['data'])}"
    found = seen["data"]["observation"]
    fields = {name: value for name, value in found.items() if name not in _DATA}
    values = list(fields.values())
    return values[0] if len(values) == 1 and isinstance(values[0], str) else json.dumps(fields)


def _fields(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in schema.get("properties", {}).items() if name not in _DATA}


def _is_text(schema: dict[str, Any]) -> bool:
    fields = list(_fields(schema).values())
    return len(fields) == 1 and fields[0].get("type") == "string"


def _told(schema: dict[str, Any]) -> str:
    """Return the first message's instruction about actions; empty for an action of one text."""
    return "" if _is_text(schema) else f"Answer with an action, a JSON object: {json.dumps(_fields(schema))}"


def _action(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the action of an answer: the text itself, or the last JSON object in it, {} without one."""
    if _is_text(schema):
        return {next(iter(_fields(schema))): text}
    action: dict[str, Any] = {}
    at = text.find("{")
    while at >= 0:
        try:
            action, end = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        at = text.find("{", end)
    return action
