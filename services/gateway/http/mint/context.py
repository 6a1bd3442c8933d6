"""The parts of the gateway that MinT's routes use, by topic."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from mint_common.bus.port import EventLog
from mint_common.client.directory import EngineDirectory
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import InvalidField, Unavailable
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.resolver import CachedResolver
from services.gateway.adapters.revision_files import BlobRevisionFiles
from services.gateway.adapters.rollout import RolloutClient
from services.gateway.adapters.webhooks_postgres import PostgresWebhooks
from services.gateway.core.episode_keys import EpisodeKeys
from services.gateway.http.edge.context import StatePart


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardLimits:
    """Limits of a tenant's concurrent requests to a service: short ones wait, long ones are refused."""

    short: FairGate
    long: TenantBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogParts:
    """The registry, and the places of its revisions: files, engines and trainers."""

    registry: RegistryClient
    limits: ForwardLimits
    resolver: CachedResolver
    engines: EngineDirectory
    trainers: TrainerDirectory
    revision_files: BlobRevisionFiles
    downloads: TenantBudget

    def is_warm(self, tenant_id: TenantId, model: str) -> bool:
        """Return whether the last resolved revision of a name is known to be in an engine's memory."""
        known = self.resolver.known(tenant_id, model)
        if known is None:
            return False
        return known.revision is None or self.engines.holds(known.base, known.revision.digest)

    async def only_base(self) -> str:
        """Return the base that answers a request without a model. Raises InvalidField if several are up."""
        known = set(self.engines.contexts()) or {engine.base for engine in await self.engines.engines()}
        bases = sorted(known | {engine.base for engine, _ in self.engines.restarting()})
        if not bases:
            raise Unavailable(what="the engines", problem="none answers")
        if len(bases) > 1:
            raise InvalidField(field="model", problem=f"is required: {', '.join(bases)} can answer")
        return bases[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParts:
    """Rollout, which owns jobs and files. ``arriving`` limits a tenant's concurrent bodies of files.

    ``of_agents`` limits a tenant's agents. ``public_url`` is the address of the gateway for clients, empty if
    it is that of each request.
    """

    rollout: RolloutClient
    limits: ForwardLimits
    of_agents: ForwardLimits
    episode_keys: EpisodeKeys
    public_url: str
    arriving: TenantBudget
    downloads: TenantBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class EventParts:
    """The event log, and the number of a tenant's streams."""

    log: EventLog
    streams: TenantBudget
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookParts:
    """The webhooks of all tenants. ``allow_private``: they may point at private addresses, and over http."""

    store: PostgresWebhooks
    allow_private: bool
    clock: Clock


CATALOG: StatePart[CatalogParts] = StatePart("catalog")
JOBS: StatePart[JobParts] = StatePart("jobs")
EVENTS: StatePart[EventParts] = StatePart("events")
WEBHOOKS: StatePart[WebhookParts] = StatePart("webhooks")
CatalogDep = Annotated[CatalogParts, Depends(CATALOG)]
JobsDep = Annotated[JobParts, Depends(JOBS)]
EventsDep = Annotated[EventParts, Depends(EVENTS)]
WebhooksDep = Annotated[WebhookParts, Depends(WEBHOOKS)]
