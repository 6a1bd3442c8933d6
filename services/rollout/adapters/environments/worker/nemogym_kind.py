"""Environments of NeMo-Gym: their resources server and their agent run in the worker, on its loopback.

Each episode has an agent of its own, whose model server is the episode's address.
"""

import asyncio
import importlib
import json
import socket
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

_HOST = "127.0.0.1"
_START_SECONDS = 120.0
_DATASETS = {"train": "train", "eval": "validation", "valid": "validation", "test": "validation"}
"""The type of a dataset in the package's configuration, by split."""
_EXAMPLE = "example"
_RESOURCES, _MODEL, _AGENT = "resources", "model", "agent"


class _Loaded(NamedTuple):
    """A resources server's name and port, the class and settings of its agent, and rows by split."""

    name: str
    port: int
    agent: Any
    settings: dict[str, Any]
    rows: dict[str, list[Any]]
    turns: int


def load(setup: dict[str, Any], args: dict[str, Any], turns: int) -> _Loaded:
    """Serve the resources server that ``args`` name (server), with its own settings and ``config`` over them.

    An entry, MODULE:NAME, is the class of a resources server of the package's own. ``rows``, a list or one
    per split, replace the datasets of its configuration.
    """
    from nemo_gym.base_resources_server import SimpleResourcesServer
    from nemo_gym.base_responses_api_agent import SimpleResponsesAPIAgent

    given = dict(args)
    rows, changes = given.pop("rows", None), given.pop("config", {})
    own: dict[str, Any] = {}
    agent: dict[str, Any] = {"simple_agent": {}}
    if setup["entry"]:
        module, _, name = setup["entry"].partition(":")
        server = getattr(importlib.import_module(module), name)
    else:
        name = given.pop("server", None) or _missing_server()
        server = _class_of(f"resources_servers.{name}.app", SimpleResourcesServer)
        own, agent = _configuration(name)
    if given:
        raise TypeError(f"unknown arguments: {', '.join(given)}")
    settings = {**own, **changes}
    if "responses_api_models" in json.dumps(settings):
        raise TypeError(f"{name} asks a model of its own, such as a judge: an episode has one model")
    ((agent_name, agent_settings),) = agent.items()
    agent_class = _class_of(f"responses_api_agents.{agent_name}.app", SimpleResponsesAPIAgent)
    by_split = _rows(name, rows, agent_settings.pop("datasets", None) or [])
    listening = socket.create_server((_HOST, 0))
    config = _config(server, settings, name=name, port=listening.getsockname()[1])
    app = _app(server(config=config, server_client=_client({})))
    _serve(app, listening, lifespan="on")
    urllib.request.urlopen(f"http://{_HOST}:{config.port}/", timeout=_START_SECONDS).close()
    return _Loaded(name, config.port, agent_class, agent_settings, by_split, turns)


def about(environment: _Loaded) -> tuple[str, bool]:
    """Return a description, and that episodes are rewarded one by one."""
    return f"NeMo-Gym {environment.name}", False


def tasks(environment: _Loaded, split: str) -> Sequence[Any]:
    """Return the rows of a split."""
    if split not in environment.rows:
        raise LookupError(f"{split!r} is none of {', '.join(environment.rows)}")
    return environment.rows[split]


async def run(
    environment: _Loaded, row: dict[str, Any], episodes: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run the episode of a row: its agent's `/run`."""
    import aiohttp

    (episode,) = episodes
    agents, token = _agents(), episode["path"].rpartition("/")[2]
    address = f"http://{_HOST}:{agents.port}/{token}"
    client = _client(
        {
            _RESOURCES: f"http://{_HOST}:{environment.port}",
            _MODEL: episode["root_url"],
            _AGENT: address,
        }
    )
    named = {
        **environment.settings,
        "resources_server": {"type": "resources_servers", "name": _RESOURCES},
        "model_server": {"type": "responses_api_models", "name": _MODEL},
        "max_steps": environment.turns,
    }
    config = _config(environment.agent, named, name=_AGENT, port=agents.port)
    agents.apps[token] = _app(environment.agent(config=config, server_client=client))
    sampling = {
        "model": episode["model"],
        "temperature": episode["temperature"],
        "max_output_tokens": episode["max_new_tokens"],
    }
    asked = {**row, "responses_create_params": {**row["responses_create_params"], **sampling}}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as session,
            session.post(f"{address}/run", json=asked) as answer,
        ):
            text = await answer.text()
            if answer.status != 200:
                raise RuntimeError(f"/run: {answer.status}: {text}")
    finally:
        del agents.apps[token]
    return [_report(json.loads(text))]


def _report(verified: dict[str, Any]) -> dict[str, Any]:
    """Return the report of a verified row; its numbers beside the reward are scores."""
    response = verified["response"]
    asked = sum(each["type"] == "function_call" for each in response["output"])
    ended = response["output"][-1]["type"] if response["output"] else ""
    incomplete = bool(response.get("incomplete_details"))
    scores = {name: float(each) for name, each in verified.items() if isinstance(each, int | float)}
    reward = scores.pop("reward")
    is_truncated = incomplete or ended == "function_call_output"
    stop = "incomplete" if incomplete else "max_turns" if is_truncated else "done"
    return {
        "reward": reward,
        "scores": {**scores, "tool_calls": float(asked)},
        "stop": stop,
        "is_truncated": is_truncated,
    }


def _missing_server() -> str:
    raise TypeError("server is missing: the name of a folder of resources_servers")


def _class_of(module: str, kind: type) -> Any:
    """Return the class of a kind that a module defines. Raises LookupError unless there is one."""
    found = importlib.import_module(module)
    own = [
        each
        for each in vars(found).values()
        if isinstance(each, type) and issubclass(each, kind) and each.__module__ == module
    ]
    if len(own) != 1:
        raise LookupError(f"{module} has {len(own)} classes of {kind.__name__}")
    return own[0]


def _configuration(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a resources server, and of its agent by the agent's type."""
    from nemo_gym import PARENT_DIR
    from omegaconf import OmegaConf

    file = PARENT_DIR / "resources_servers" / name / "configs" / f"{name}.yaml"
    blocks: dict[str, Any] = {}
    if file.exists():
        read = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        for block in read.values() if isinstance(read, dict) else ():
            blocks = {**block, **blocks} if isinstance(block, dict) else blocks
    own = (blocks.get("resources_servers") or {}).get(name) or {}
    return own, blocks.get("responses_api_agents") or {"simple_agent": {}}


def _rows(name: str, given: Any, datasets: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows by split: of the arguments, or of datasets; a dataset not shipped is the example's."""
    from nemo_gym import PARENT_DIR

    if isinstance(given, dict):
        by_split = given
    elif given is not None:
        by_split = dict.fromkeys(_DATASETS, given)
    else:
        files = {each["type"]: Path(PARENT_DIR, each["jsonl_fpath"]) for each in datasets}
        by_split = {}
        for split, kind in _DATASETS.items():
            present = [file for each in (kind, _EXAMPLE) if (file := files.get(each)) and file.exists()]
            if present:
                by_split[split] = [json.loads(line) for line in present[0].read_text().splitlines() if line]
    if not by_split:
        raise TypeError(f"{name} ships no rows: give them as rows")
    for row in (row for part in by_split.values() for row in part):
        if not isinstance(row, dict) or not isinstance(row.get("responses_create_params"), dict):
            raise TypeError("each row has responses_create_params, an object")
    return by_split


def _config(server: Any, settings: dict[str, Any], *, name: str, port: int) -> Any:
    """Return the configuration of a server, as its own class reads it."""
    kind = server.model_fields["config"].annotation
    place = {"entrypoint": "app.py", **settings, "name": name, "host": _HOST, "port": port}
    return kind.model_validate(place)


def _app(server: Any) -> Any:
    """Return the application of a server, as the package's own `run_webserver` makes it."""
    app = server.setup_webserver()
    server.setup_liveness(app)
    server.setup_exception_middleware(app)
    return app


def _client(addresses: dict[str, str]) -> Any:
    """Return the client of a server, which finds the other servers by name."""
    from nemo_gym.config_types import BaseServerConfig
    from nemo_gym.server_utils import ServerClient
    from omegaconf import OmegaConf

    class Client(ServerClient):  # type: ignore[misc]  # the package has no types here
        def _build_server_base_url(self, server_config_dict: Any) -> str:
            return str(server_config_dict.address)

    known = {name: {"servers": {name: {"address": each}}} for name, each in addresses.items()}
    head = BaseServerConfig(host=_HOST, port=1)  # asked for nothing
    return Client(head_server_config=head, global_config_dict=OmegaConf.create(known))


class _Agents:
    """The agents of running episodes, by the first part of the path; one port serves them all."""

    def __init__(self) -> None:
        self.apps: dict[str, Any] = {}
        listening = socket.create_server((_HOST, 0))
        self.port: int = listening.getsockname()[1]
        _serve(self._answer, listening, lifespan="off")

    async def _answer(
        self, scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        _, token, rest = scope["path"].split("/", 2)
        await self.apps[token]({**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}, receive, send)


@cache
def _agents() -> _Agents:
    return _Agents()


def _serve(app: Any, listening: socket.socket, *, lifespan: Literal["on", "off"]) -> None:
    """Serve an application for ever; connections wait until it has started."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan=lifespan, interface="asgi3"))
    asyncio.run_coroutine_threadsafe(server.serve([listening]), _servers())


@cache
def _servers() -> asyncio.AbstractEventLoop:
    """Return the loop of all servers, with the one client of connections that the package shares there."""
    from nemo_gym.server_utils import GlobalAIOHTTPAsyncClientConfig, set_global_aiohttp_client

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def connect() -> None:
        set_global_aiohttp_client(GlobalAIOHTTPAsyncClientConfig())

    asyncio.run_coroutine_threadsafe(connect(), loop).result(_START_SECONDS)
    return loop
