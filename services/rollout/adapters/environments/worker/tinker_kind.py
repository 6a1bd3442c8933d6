"""Groups of environments of `tinker_cookbook`: token ids in, token ids out, rewarded together."""

import asyncio
import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any


class _Builders:
    """The group builders of a dataset of batches, by their number in all batches; each is made when asked."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._batch = 0 if not len(dataset) else len(dataset.get_batch(0))

    def __len__(self) -> int:
        return len(self._dataset) * self._batch

    def __getitem__(self, number: int) -> Any:
        batch, place = divmod(number, self._batch)
        return self._dataset.get_batch(batch)[place]


def load(setup: dict[str, Any], args: dict[str, Any], turns: int) -> dict[str, Any]:  # noqa: ARG001  # a kind's
    """Return group builders by split: of an RLDatasetBuilder, or of a function that returns builders.

    The entry, MODULE:NAME, is either's class or name.
    """
    from tinker_cookbook.rl.types import RLDatasetBuilder

    if not setup["entry"]:
        raise TypeError("the environment was added without --entry MODULE:NAME of its RLDatasetBuilder")
    module, _, name = setup["entry"].partition(":")
    made = getattr(importlib.import_module(module), name)(**args)
    if not isinstance(made, RLDatasetBuilder):
        return {"train": made, "eval": made}
    train, test = asyncio.run(made())
    return {"train": _Builders(train), "eval": _Builders(train if test is None else test)}


def about(environment: dict[str, Any]) -> tuple[str, bool]:
    """Return a description, and that a group's episodes are rewarded together."""
    builders = environment["train"]
    return f"tinker_cookbook {type(builders[0]).__name__}" if len(builders) else "tinker_cookbook", True


def tasks(environment: dict[str, Any], split: str) -> Sequence[Any]:
    """Return a task for each group builder of a split."""
    if split not in environment:
        raise LookupError(f"{split!r} is none of train, eval")
    return [{"split": split, "builder": number} for number in range(len(environment[split]))]


async def run(
    environment: dict[str, Any], entry: Any, episodes: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run a group; one of its environments that raises leaves it, and the others are rewarded."""
    from tinker_cookbook.rl.rollouts import do_single_rollout

    builder = environment[entry["split"]][entry["builder"]]
    try:
        envs = await builder.make_envs()
        if len(envs) != len(episodes):
            size = f"the builder makes groups of {len(envs)}, not of {len(episodes)}"
            raise ValueError(f"{size}: set group_size of the job, or samples of the evaluation, to it")
        rollouts = [
            do_single_rollout(_completer(each), env) for each, env in zip(episodes, envs, strict=True)
        ]
        ended = await asyncio.gather(*rollouts, return_exceptions=True)
        whole = [n for n, each in enumerate(ended) if not isinstance(each, BaseException)]
        rewards = await builder.compute_group_rewards([ended[n] for n in whole], [envs[n] for n in whole])
        final = dict(zip(whole, rewards, strict=True))
        return [_report(each, final.get(n)) for n, each in enumerate(ended)]
    finally:
        await builder.cleanup()


def _report(trajectory: Any, final: tuple[float, dict[str, Any]] | None) -> dict[str, Any]:
    if final is None:
        return {"error": f"{type(trajectory).__name__}: {trajectory}"}
    stop = str(trajectory.stop_reason or "")
    return {
        "reward": sum(float(each.reward) for each in trajectory.transitions) + float(final[0]),
        "scores": {name: float(value) for name, value in final[1].items()},
        "stop": stop,
        "is_truncated": stop in ("max_turns", "max_tokens", "max_sampled_tokens", "context_overflow"),
    }


def _completer(episode: dict[str, Any]) -> Any:
    """Return a policy that samples at the model of an episode."""
    from tinker_cookbook.completers import TokenCompleter, TokensWithLogprobs

    class Completer(TokenCompleter):  # type: ignore[misc]  # the package has no types here
        turns = 0

        async def __call__(self, model_input: Any, stop: Any, *, max_tokens: int | None = None) -> Any:
            self.turns += 1
            if self.turns > episode["max_turns"]:
                raise RuntimeError(f"it has more than {episode['max_turns']} turns")
            limit = episode["max_new_tokens"]
            sampling = {
                "temperature": episode["temperature"],
                "max_tokens": limit if max_tokens is None else min(limit, max_tokens),
                "logprobs": 1,
                "stop" if stop and isinstance(stop[0], str) else "stop_token_ids": list(stop),
            }
            asked = {
                "model": episode["model"],
                "token_ids": model_input.to_ints(),
                "sampling_params": sampling,
            }
            answer = await _connections().post(f"{episode['root_url']}/inference/v1/generate", json=asked)
            answer.raise_for_status()
            (choice,) = answer.json()["choices"]
            return TokensWithLogprobs(
                tokens=choice["token_ids"],
                maybe_logprobs=[each["logprob"] for each in choice["logprobs"]["content"]],
                stop_reason="length" if choice["finish_reason"] == "length" else "stop",
            )

    return Completer()


@cache
def _connections() -> Any:
    import httpx

    return httpx.AsyncClient(timeout=3600, limits=httpx.Limits(max_connections=None))
