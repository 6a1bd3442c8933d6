"""A stand-in for the package verifiers: what an environment of one answer needs, with nothing to install."""

import asyncio
import importlib
import json
import urllib.request
from typing import Any


class OpenAIChatCompletionsClient:
    """Asks a model over the address of an OpenAI client."""

    def __init__(self, client: Any) -> None:
        self.base_url = client.base_url

    async def ask(self, messages: list[Any], model: str, sampling: dict[str, Any]) -> str:
        body = json.dumps({"model": model, "messages": messages, **sampling}).encode()
        asked = urllib.request.Request(
            f"{self.base_url}/chat/completions", body, {"content-type": "application/json"}
        )
        answer = await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(asked)))
        return answer["choices"][0]["message"]["content"]


class Environment:
    """One answer to each row, scored by `reward`."""

    max_turns = -1
    score_rollouts = True

    def __init__(self, rows: int = 5) -> None:
        self.rubric = self
        self._rows = [{"example_id": n, "prompt": [{"role": "user", "content": str(n)}]} for n in range(rows)]

    def get_dataset(self) -> list[Any]:
        return self._rows

    get_eval_dataset = get_dataset

    async def rollout(self, row: Any, client: Any, model: str, sampling: dict[str, Any]) -> dict[str, Any]:
        answer = await client.ask(row["prompt"], model, sampling)
        return {
            "row": row,
            "answer": answer,
            "metrics": {"length": len(answer)},
            "stop_condition": "answered",
        }

    async def score_rollout(self, state: dict[str, Any]) -> None:
        state["reward"] = self.reward(state["row"], state["answer"])

    async def score_group(self, states: list[dict[str, Any]]) -> None:
        for rank, state in enumerate(states):
            state["reward"] = float(rank)

    async def cleanup(self, state: dict[str, Any]) -> None:
        pass

    def reward(self, row: Any, answer: str) -> float:
        raise NotImplementedError


def load_environment(name: str, **args: Any) -> Environment:
    return importlib.import_module(name.replace("-", "_")).load_environment(**args)
