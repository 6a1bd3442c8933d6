"""All environments: installed ones, and those that agents elsewhere are."""

from collections.abc import Sequence

from mint_common.events import EnvironmentSpec
from mint_common.ids import TenantId
from services.rollout.core.environment import (
    EnvironmentInfo,
    Environments,
    EnvironmentTask,
    EpisodeCall,
    EpisodeReport,
)
from services.rollout.handlers.agents import Agents


class EnvironmentsByKind:
    """`Environments`: those of kind ``session`` are agents with tasks of their own, others are installed."""

    def __init__(self, installed: Environments, agents: Agents) -> None:
        self._installed = installed
        self._agents = agents

    async def describe(
        self, environment: EnvironmentSpec, split: str, *, tenant_id: TenantId
    ) -> EnvironmentInfo:
        """Describe an environment."""
        if environment.is_session:
            return EnvironmentInfo(description="agents of the tenant that claim episodes", tasks=None)
        return await self._installed.describe(environment, split, tenant_id=tenant_id)

    async def draw(
        self, environment: EnvironmentSpec, split: str, n: int, seed: int, *, tenant_id: TenantId
    ) -> list[EnvironmentTask]:
        """Draw tasks."""
        if environment.is_session:
            return [EnvironmentTask(key=str(number), entry="") for number in range(n)]
        return await self._installed.draw(environment, split, n, seed, tenant_id=tenant_id)

    async def run(
        self,
        environment: EnvironmentSpec,
        task: EnvironmentTask,
        episodes: Sequence[EpisodeCall],
        *,
        tenant_id: TenantId,
    ) -> list[EpisodeReport]:
        """Run episodes."""
        if environment.is_session:
            return [await self._agents.run(environment, each, tenant_id=tenant_id) for each in episodes]
        return await self._installed.run(environment, task, episodes, tenant_id=tenant_id)
