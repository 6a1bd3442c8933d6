"""Environments of `verifiers` with its second interface, tasksets of `verifiers.v1`: versions from 0.4.

The package's own conversation with tools, its harness `null`, runs in this process: as a program of its own
it would install its packages at run time and take a second of a processor for each episode.
"""

import asyncio
import inspect
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

AT_ONCE_WITH_TOOLS = 3
"""Episodes of a worker at a time where each starts servers of tools: a process of 250 MiB each."""
_HARNESS = "mint_chat"
_PROGRAM = "mint_chat_program"
_ENDLESS_TASKS = 4096
"""Tasks that are drawn of a taskset without end: its first ones."""
_SPLITS = ("train", "eval", "test", "valid")


class _Loaded:
    """An environment by split, and its tasks; ``splits`` without settings of their own share one."""

    def __init__(self, package: str, args: dict[str, Any], turns: int) -> None:
        self._package = package
        self._turns = turns
        self._own = dict(args.pop("splits", None) or {})
        self._args = args
        if unknown := set(self._own) - set(_SPLITS):
            raise ValueError(f"splits: {', '.join(sorted(unknown))} is none of {', '.join(_SPLITS)}")
        self._made: dict[str, _Environment] = {}
        self._making = threading.Lock()

    def of(self, split: str) -> "_Environment":
        """Return the environment of a split. Raises LookupError."""
        if split not in _SPLITS:
            raise LookupError(f"{split!r} is none of {', '.join(_SPLITS)}")
        name = split if split in self._own else ""
        with self._making:
            if name not in self._made:
                settings = _merged(self._args, self._own.get(name) or {})
                self._made[name] = _Environment(_config(self._package, settings, self._turns))
            return self._made[name]


class _Environment:
    """An environment, the tasks of its taskset, and the servers that its episodes share."""

    def __init__(self, config: Any) -> None:
        import verifiers.v1 as vf

        self.env = vf.load_environment(config)
        taskset = self.env.taskset
        self.tasks = list(taskset if taskset.bounded else taskset.take(_ENDLESS_TASKS))
        self.task_type = type(taskset).task_type()
        self._serving: asyncio.Future[None] | None = None
        self._held: asyncio.Task[None] | None = None

    @property
    def has_tools(self) -> bool:
        """Return whether each episode starts servers of tools."""
        return bool(self.task_type.toolsets(self.env.config.taskset.task))

    def task(self, data: dict[str, Any]) -> Any:
        """Return a task of its data, as the package's own server does."""
        return self.task_type(self.task_type.data_type().model_validate(data), self.env.config.taskset.task)

    async def served(self) -> None:
        """Wait until the shared servers are there; they stay until the worker ends."""
        if self._serving is None or (self._serving.done() and self._serving.exception() is not None):
            self._serving = asyncio.get_running_loop().create_future()
            self._held = asyncio.create_task(self._hold(self._serving))
        await asyncio.shield(self._serving)

    async def _hold(self, serving: "asyncio.Future[None]") -> None:
        try:
            async with self.env.serving():
                serving.set_result(None)
                await asyncio.Event().wait()
        except Exception as error:
            if serving.done():
                raise
            serving.set_exception(error)


def load(setup: dict[str, Any], args: dict[str, Any], turns: int) -> _Loaded:
    """Return the environment of a taskset; ``args`` are the settings that the package calls `env`.

    The taskset is the package's unless they name another. ``splits`` of them are settings of single splits.
    """
    if setup["entry"]:
        raise TypeError("a taskset is found by its package's name: add the environment without --entry")
    _register_harness()
    loaded = _Loaded(setup["package"], dict(args), turns)
    loaded.of("train")
    return loaded


def about(environment: _Loaded) -> tuple[str, bool]:
    """Return a description, and that episodes are rewarded one by one."""
    kind = type(environment.of("train").env.taskset)
    return f"{kind.__name__}: {(inspect.getdoc(kind) or '').partition(chr(10))[0]}".rstrip(": "), False


def at_once(environment: _Loaded) -> int | None:
    """Return how many episodes a worker may have at a time; None: as many as of any environment."""
    return AT_ONCE_WITH_TOOLS if environment.of("train").has_tools else None


class _Entries(Sequence[Any]):
    """The tasks of a split as JSON, each made when it is drawn."""

    def __init__(self, split: str, tasks: Sequence[Any]) -> None:
        self._split = split
        self._tasks = tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, number: Any) -> Any:
        data = self._tasks[number].data.model_dump(mode="json", exclude_none=True)
        return {"split": self._split, "task": data}


def tasks(environment: _Loaded, split: str) -> Sequence[Any]:
    """Return the tasks of a split; without settings of its own it has those of training."""
    return _Entries(split, environment.of(split).tasks)


async def run(environment: _Loaded, entry: Any, episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the episode of a task."""
    import verifiers.v1 as vf

    (episode,) = episodes
    made = await asyncio.to_thread(environment.of, entry["split"])
    await made.served()
    context = vf.ModelContext(
        client=vf.EvalClientConfig(base_url=episode["base_url"], api_key_var="MINT_NO_KEY"),
        model=episode["model"],
        sampling=vf.SamplingConfig(temperature=episode["temperature"], max_tokens=episode["max_new_tokens"]),
    )
    (slot,) = made.env.slots(made.task(entry["task"]))
    return [_report(await made.env.run_slot(slot, context))]


def _report(episode: Any) -> dict[str, Any]:
    """Return the report of an ended episode; rewards that no scorer set are none."""
    if not episode.ok:
        errors = [*episode.errors, *(each for trace in episode.traces for each in trace.errors)]
        told = "; ".join(f"{each.type}: {each.message}" for each in errors)
        return {"error": told or "the episode did not complete"}
    if len(episode.traces) != 1:
        return {"error": f"the episode has {len(episode.traces)} runs of its agent: one is trained"}
    (trace,) = episode.traces
    rewards = {name: each.value for name, each in trace.rewards.items() if each is not None}
    metrics = {name: value for name, value in trace.metrics.items() if value is not None}
    return {
        "reward": float(trace.reward),
        "scores": {name: float(value) for name, value in {**metrics, **rewards}.items()},
        "stop": str(trace.stop_condition or ""),
        "is_truncated": bool(trace.is_truncated),
    }


def _config(package: str, settings: dict[str, Any], turns: int) -> Any:
    """Return the settings of an environment, whose one agent runs here."""
    from verifiers.v1.configs.agent import AgentConfig
    from verifiers.v1.utils.loaders import (
        builtin_harness_ids,
        default_harness_id,
        env_config_type,
        resolve_env_config,
    )

    taskset = {"id": package, **(settings.get("taskset") or {})}
    if taskset["id"] == "verifiers":
        raise ValueError('taskset.id is missing: the name of a taskset, such as {"taskset": {"id": "..."}}')
    fields = env_config_type(taskset["id"], settings.get("id") or "").model_fields
    agents = [name for name, field in fields.items() if isinstance(field.default, AgentConfig)]
    if len(agents) != 1:
        raise TypeError(f"it has the agents {', '.join(agents)}: environments of one agent are trained")
    (name,) = agents
    given = dict(settings.get(name) or {})
    own = default_harness_id(taskset["id"])
    harness = {"id": "null" if own == "bash" else own, **(given.get("harness") or {})}
    if harness["id"] == "null":
        harness["id"] = _HARNESS
    elif harness["id"] in builtin_harness_ids():
        problem = "installs its program at run time: choose null, or a harness of the taskset's package"
        raise ValueError(f"{name}.harness.id: {harness['id']} {problem}")
    agent = {
        **given,
        "harness": harness,
        "runtime": {"type": "subprocess"},
        "max_turns": min(turns, given.get("max_turns") or turns),
    }
    return resolve_env_config({**settings, "taskset": taskset, name: agent})


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those of ``second`` over them, at every depth."""
    result = dict(first)
    for name, value in second.items():
        before = result.get(name)
        is_merged = isinstance(before, dict) and isinstance(value, dict)
        result[name] = _merged(before or {}, value) if is_merged else value
    return result


@cache
def _register_harness() -> None:
    """Make a harness known: `null`, whose program runs in this process (`Harness.launch` allows it)."""
    import verifiers.v1 as vf
    from verifiers.v1.harnesses.null import NullHarness

    class ChatHarness(NullHarness):  # type: ignore[misc]  # the package has no types here
        """A conversation with the task's tools."""

        async def setup(self, runtime: Any) -> None:
            """Prepare nothing: the program's packages are those of this process."""

        async def launch(self, ctx: Any, trace: Any, runtime: Any, *given: Any, **named: Any) -> Any:
            """Run the program."""
            return await super().launch(ctx, trace, _Here(runtime, vf.ProgramResult), *given, **named)

    module = ModuleType(_HARNESS)
    module.ChatHarness = ChatHarness  # type: ignore[attr-defined]
    module.__all__ = ["ChatHarness"]  # type: ignore[attr-defined]
    sys.modules[_HARNESS] = module


class _Here:
    """A runtime to the program of `null`: it writes to an episode's folder, and runs the program here."""

    def __init__(self, runtime: Any, result: Any) -> None:
        self._runtime = runtime
        self._result = result

    async def write(self, path: str, data: bytes) -> None:
        """Write a file of the episode's folder."""
        await self._runtime.write(path, data)

    async def prepare_uv_script(self, *_: Any, **__: Any) -> list[str]:
        """Return the command before the program's arguments: none."""
        return []

    async def run_program(self, arguments: list[str], _environment: dict[str, str]) -> Any:
        """Run the program until it ends."""
        file, folder = "--initial-messages-file=", Path(self._runtime.workdir)
        arguments = [
            f"{file}{folder / each.removeprefix(file)}" if each.startswith(file) else each
            for each in arguments
        ]
        main = _program().main
        sys.argv = [_PROGRAM, *arguments]  # read before the program's first wait
        try:
            await main()
        except SystemExit as error:
            return self._result(int(error.code or 0), "", traceback.format_exc())
        except Exception:  # noqa: BLE001  # the program's; as its own process it would end with status 1
            return self._result(1, "", traceback.format_exc())
        return self._result(0, "", "")


@cache
def _program() -> Any:
    """Return the program of `null` as a module."""
    from verifiers.v1.harnesses.utils.launch import CHAT_PROGRAM_SOURCE

    module = ModuleType(_PROGRAM)
    sys.modules[_PROGRAM] = module
    exec(compile(CHAT_PROGRAM_SOURCE, f"{_PROGRAM}.py", "exec"), module.__dict__)  # noqa: S102  # the package's
    return module
