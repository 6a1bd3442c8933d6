"""The rollout service with one environment of the tests, in its own process: `python <this file>`.

Its agent is OpenAI's client at the episode's socket, as a worker's would be.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import openai

from mint_common.errors import InvalidField, NotFound
from mint_common.events import EnvironmentSpec
from mint_common.ids import TenantId
from mint_common.runtime.service import run_main, run_service
from services.rollout.app import open_rollout
from services.rollout.core.environment import (
    EnvironmentInfo,
    EnvironmentTask,
    EpisodeCall,
    EpisodeReport,
)
from services.rollout.settings import RolloutSettings


class LetterGame:
    """Asks for something, then for more; a reward grows with the letters of both answers, modulo 5.

    Each episode appends what its agent saw to the file ``log`` of its arguments.
    """

    async def describe(
        self, environment: EnvironmentSpec, split: str, *, tenant_id: TenantId
    ) -> EnvironmentInfo:
        """Describe the one environment that there is."""
        if environment.id != "letters":
            raise NotFound(kind="environment", name=environment.id)
        if set(environment.args) != {"log"}:
            raise InvalidField(field="environment.args", problem="takes log alone")
        return EnvironmentInfo(description="letters", tasks=None)

    async def draw(
        self, environment: EnvironmentSpec, split: str, n: int, seed: int, *, tenant_id: TenantId
    ) -> list[EnvironmentTask]:
        """Return tasks."""
        return [EnvironmentTask(key=str(at), entry=json.dumps(f"{seed % 97} {at} ")) for at in range(n)]

    async def run(
        self,
        environment: EnvironmentSpec,
        task: EnvironmentTask,
        episodes: Sequence[EpisodeCall],
        *,
        tenant_id: TenantId,
    ) -> list[EpisodeReport]:
        """Run episodes of two turns; to an environment, what a call raises is an error of its own."""
        try:
            return [await self._run(environment, task, call) for call in episodes]
        except openai.APIError as error:
            return [EpisodeReport(reward=None, error=str(error)) for _ in episodes]

    async def _run(
        self, environment: EnvironmentSpec, task: EnvironmentTask, call: EpisodeCall
    ) -> EpisodeReport:
        messages: list[Any] = [{"role": "user", "content": json.loads(task.entry)}]
        texts: list[str] = []
        transport = httpx.AsyncHTTPTransport(uds=call.socket)
        async with httpx.AsyncClient(transport=transport) as http:
            url = f"http://localhost{call.path}/v1"
            client = openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http)
            for _ in range(2):
                answer = await client.chat.completions.create(
                    model=call.model, messages=messages, extra_body={"return_token_ids": True}
                )
                said = answer.choices[0].message
                texts.append(said.content or "")
                messages += [said.model_dump(exclude_none=True), {"role": "user", "content": "more "}]
        reward = sum(map(len, texts)) % 5 / 4
        seen = answer.model_dump()
        tokens = [*seen["prompt_token_ids"], *seen["choices"][0]["token_ids"]]
        told = {"episode_id": call.episode_id, "texts": texts, "tokens": tokens, "reward": reward}
        with Path(environment.args["log"]).open("a") as log:  # a line
            log.write(json.dumps(told) + "\n")
        return EpisodeReport(reward=reward, scores={"letters": float(len(texts[-1]))}, stop="two turns")


async def _run(settings: RolloutSettings) -> None:
    async with open_rollout(settings, LetterGame()) as rollout:
        await run_service(rollout.http, settings, rollout.background)


if __name__ == "__main__":
    sys.exit(run_main(RolloutSettings, _run, service="rollout"))
