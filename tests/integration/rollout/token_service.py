"""The rollout service with an environment of token ids, in its own process: `python <this file>`.

Its agent asks the door for tokens, as renderers do, so that an engine without a chat template will do.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

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
from tests.unit.rollout.world import tokens_of


class TokenGame:
    """Two turns; the reward is the seed's parity. Each episode that ends is a line of ``args["log"]``."""

    async def describe(
        self, environment: EnvironmentSpec, split: str, *, tenant_id: TenantId
    ) -> EnvironmentInfo:
        """Describe."""
        return EnvironmentInfo(description="tokens", tasks=None)

    async def draw(
        self, environment: EnvironmentSpec, split: str, n: int, seed: int, *, tenant_id: TenantId
    ) -> list[EnvironmentTask]:
        """Return tasks, of which each names its split and seed."""
        return [EnvironmentTask(key=f"{split} {seed} {at}", entry="{}") for at in range(n)]

    async def run(
        self,
        environment: EnvironmentSpec,
        task: EnvironmentTask,
        episodes: Sequence[EpisodeCall],
        *,
        tenant_id: TenantId,
    ) -> list[EpisodeReport]:
        """Run episodes."""
        return [await self._run(environment, task, call) for call in episodes]

    async def _run(
        self, environment: EnvironmentSpec, task: EnvironmentTask, call: EpisodeCall
    ) -> EpisodeReport:
        tokens = tokens_of(task.key)[-8:]
        transport = httpx.AsyncHTTPTransport(uds=call.socket)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
            for turn in range(2):
                asked = await http.post(
                    f"{call.path}/inference/v1/generate", json={"token_ids": list(tokens)}
                )
                if asked.status_code != 200:
                    return EpisodeReport(reward=None, error=asked.text)
                (choice,) = asked.json()["choices"]
                tokens = (*tokens, *choice["token_ids"], *tokens_of(str(turn)))
        told = {"episode_id": call.episode_id, "task": task.key, "tokens": tokens[:-1], "seed": call.seed}
        with Path(environment.args["log"]).open("a") as log:
            log.write(json.dumps(told) + "\n")
        return EpisodeReport(reward=float(call.seed % 2))


async def _run(settings: RolloutSettings) -> None:
    async with open_rollout(settings, TokenGame()) as rollout:
        await run_service(rollout.http, settings, rollout.background)


if __name__ == "__main__":
    sys.exit(run_main(RolloutSettings, _run, service="rollout"))
