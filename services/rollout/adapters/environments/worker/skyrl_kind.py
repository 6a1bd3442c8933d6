"""Environments of `skyrl_gym`: they take texts and answer with messages; the loop is here."""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple


class _Loaded(NamedTuple):
    """A name in the registry of skyrl_gym, its configuration, rows by split, and most turns."""

    name: str
    config: dict[str, Any]
    rows: dict[str, list[Any]]
    turns: int


def load(setup: dict[str, Any], args: dict[str, Any], turns: int) -> _Loaded:
    """Return the environment that ``args`` name: env_class, env_config, and rows (a list, or one per split).

    An entry, MODULE:NAME, is called with the other arguments and returns the rows.
    """
    import skyrl_gym

    importlib.import_module(setup["package"].replace("-", "_"))  # registers its environments
    given = dict(args)
    name, config = given.pop("env_class"), given.pop("env_config", {})
    if setup["entry"]:
        module, _, function = setup["entry"].partition(":")
        rows = getattr(importlib.import_module(module), function)(**given)
    else:
        rows = given.pop("rows")
        if given:
            raise TypeError(f"unknown arguments: {', '.join(given)}")
    skyrl_gym.spec(name)
    by_split = rows if isinstance(rows, dict) else {"train": rows, "eval": rows}
    for row in (row for part in by_split.values() for row in part):
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), list):
            raise TypeError("each row has a prompt, a list of messages")
    return _Loaded(name, config, by_split, turns)


def about(environment: _Loaded) -> tuple[str, bool]:
    """Return a description, and that episodes are rewarded one by one."""
    return f"skyrl_gym {environment.name}", False


def tasks(environment: _Loaded, split: str) -> Sequence[Any]:
    """Return the rows of a split."""
    if split not in environment.rows:
        raise LookupError(f"{split!r} is none of {', '.join(environment.rows)}")
    return environment.rows[split]


def run(environment: _Loaded, row: dict[str, Any], episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the episode of a row; its reward is the sum of its turns'."""
    import skyrl_gym

    (episode,) = episodes
    extras = {**row, "max_turns": environment.turns, "extra_info": row.get("extra_info") or {}}
    env = skyrl_gym.make(environment.name, env_config=environment.config, extras=extras)
    try:
        messages, _ = env.init(row["prompt"])
        reward, done, turns = 0.0, False, 0
        while not done and turns < environment.turns:
            text = episode["ask"](messages)
            stepped = env.step(text)
            action = stepped.get("postprocessed_action") or text
            messages = [*messages, {"role": "assistant", "content": action}, *stepped["observations"]]
            reward, done, turns = reward + float(stepped["reward"]), bool(stepped["done"]), turns + 1
        metrics = {name: value for name, value in env.get_metrics().items() if isinstance(value, int | float)}
    finally:
        env.close()
    stop = "done" if done else "max_turns"
    return [{"reward": reward, "scores": metrics, "stop": stop, "is_truncated": not done}]
