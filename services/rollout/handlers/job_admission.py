"""Checks of every request for a job, for any training data."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mint_common.algorithms import Algorithms
from mint_common.bounds import DAY_SECONDS
from mint_common.client.directory import EngineDirectory
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import InvalidField, Unavailable
from mint_common.generation import EngineLimits
from mint_common.ids import BaseName, TenantId
from mint_common.quotas import QuotaUse
from mint_common.runtime.clock import Clock
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.adapters.tenant_jobs_postgres import PostgresTenantJobs
from services.rollout.core.quotas import JobQuotas, JobUsage

LIMITS_SECONDS = 5.0
"""Time that a request waits for the limits of engines."""
TRAINERS_SECONDS = 1.0
"""Time that a look at jobs waits for trainers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAdmission:
    """Quotas, trainers, engines and algorithms; ``jobs`` stores admitted jobs."""

    registry: RegistryClient
    jobs: PostgresTenantJobs
    store: PostgresJobs
    quotas: JobQuotas
    trainers: TrainerDirectory
    engines: EngineDirectory
    algorithms: Algorithms
    clock: Clock

    async def check_quotas(self, tenant_id: TenantId) -> None:
        """Refuse another job of a tenant at its quota. Raises QuotaExceeded."""
        self.quotas.check(await self._usage(tenant_id))

    async def uses(self, tenant_id: TenantId) -> Sequence[QuotaUse]:
        """Return what a tenant's jobs use, and may use."""
        return self.quotas.uses(await self._usage(tenant_id))

    async def _usage(self, tenant_id: TenantId) -> JobUsage:
        return await self.store.usage(tenant_id, since=self.clock.now() - DAY_SECONDS)

    async def limits(self, base: BaseName) -> EngineLimits | None:
        """Return what every known engine of a base takes; None while none answers."""
        try:
            async with asyncio.timeout(LIMITS_SECONDS):
                return await self.engines.limits(base)
        except (Unavailable, TimeoutError):
            return None


async def check_started(trainers: TrainerDirectory, base: BaseName, *, field: str) -> None:
    """Raise InvalidField, naming where a request has the base, if all trainers have other bases."""
    others = await trainers.other_bases(base)
    if others:
        raise InvalidField(field=field, problem=_not_started(base, others))


async def bases_not_started(trainers: TrainerDirectory, bases: Collection[BaseName]) -> dict[BaseName, str]:
    """Return why jobs of some bases wait, in a sentence: all trainers have other bases.

    A base is left out if a trainer has it, or does not answer in time.
    """
    found = dict[BaseName, str]()
    with suppress(TimeoutError):
        async with asyncio.timeout(TRAINERS_SECONDS):
            for base in sorted(bases):
                if others := await trainers.other_bases(base):
                    found[base] = _not_started(base, others)
    return found


def _not_started(base: BaseName, others: Sequence[BaseName]) -> str:
    command = " ".join(["mint up", *(f"--base {each}" for each in (*others, base))])
    return (
        f"base {base} is not started: this stack trains {', '.join(others)};"
        f" its operator starts it with `{command}`"
    )
