"""Environments of `verifiers` with its first interface, `load_environment(**args)`: versions 0.1 to 0.3."""

import asyncio
import importlib
import importlib.metadata
import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any


def kind() -> str:
    """Return the kind of the installed version: from 0.4 it is another, which has no `load_environment`."""
    try:
        version = importlib.metadata.version("verifiers")
    except importlib.metadata.PackageNotFoundError:
        return "verifiers"
    numbers = tuple(int(each) for each in re.findall(r"\d+", version)[:2])
    return "verifiers" if numbers < (0, 4) else "verifiers_v1"


def load(setup: dict[str, Any], args: dict[str, Any], turns: int) -> Any:
    """Return an environment: what the entry returns, of an installation without one what its id names."""
    import verifiers

    if setup["entry"]:
        module, _, name = setup["entry"].partition(":")
        environment = getattr(importlib.import_module(module), name)(**args)
    else:
        environment = verifiers.load_environment(setup["package"], **args)
    if not isinstance(environment, verifiers.Environment):
        raise TypeError(f"{type(environment).__name__} is no verifiers.Environment")
    if not 0 < getattr(environment, "max_turns", turns) <= turns:
        environment.max_turns = turns
    return environment


def about(environment: Any) -> tuple[str, bool]:
    """Return a description, and whether a group's episodes are rewarded together."""
    kind = type(environment)
    lines = (kind.__doc__ or "").strip().splitlines()
    description = f"{kind.__name__}: {lines[0]}" if lines else kind.__name__
    return description, bool(getattr(environment, "requires_group_rollouts", False))


def tasks(environment: Any, split: str) -> Sequence[Any]:
    """Return the rows of a split: train, or those of evaluation."""
    if split not in ("train", "eval", "test", "valid"):
        raise LookupError(f"{split!r} is none of train, eval, test, valid")
    found: Sequence[Any] = environment.get_dataset() if split == "train" else environment.get_eval_dataset()
    return found


async def run(environment: Any, row: Any, episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run episodes of a row, each with a model of its own; of several the rubric scores them together."""
    states = await asyncio.gather(*(_rolled_out(environment, row, episode) for episode in episodes))
    rubric, scores = environment.rubric, environment.score_rollouts
    if len(states) > 1 or getattr(environment, "requires_group_rollouts", False):
        await (rubric.score_group if scores else rubric.dummy_score_group)(states)
    else:
        await (rubric.score_rollout if scores else rubric.dummy_score_rollout)(states[0])
    for state in states:
        await rubric.cleanup(state)
    return [_report(state) for state in states]


async def _rolled_out(environment: Any, row: Any, episode: dict[str, Any]) -> Any:
    import verifiers

    model = verifiers.OpenAIChatCompletionsClient(_connections().with_options(base_url=episode["base_url"]))
    sampling = {"temperature": episode["temperature"], "max_tokens": episode["max_new_tokens"]}
    return await environment.rollout(row, model, episode["model"], sampling)


@cache
def _connections() -> Any:
    """Return the client whose connections all episodes share: a client of its own takes 50 ms to make."""
    import openai

    return openai.AsyncOpenAI(api_key="episode", base_url="http://127.0.0.1", max_retries=4, timeout=3600.0)


def _report(state: Any) -> dict[str, Any]:
    """Return the report of an ended episode. With an error its state has reward 0, which is none."""
    metrics = state.get("metrics") or {}
    told: dict[str, Any] = {
        "scores": {name: float(value) for name, value in metrics.items() if _is_number(value)},
        "stop": str(state.get("stop_condition") or ""),
        "is_truncated": bool(state.get("is_truncated")),
    }
    if (error := state.get("error")) is not None:
        cause = getattr(error, "__cause__", None)
        return {**told, "error": f"{type(error).__name__}: {error}" + (f" from {cause!r}" if cause else "")}
    return {**told, "reward": float(state["reward"])}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
