"""The parts of the gateway that the inference routes take."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from mint_common.client.directory import EngineDirectory
from mint_common.client.registry import RegistryClient
from mint_common.ids import TenantId
from mint_common.runtime.fair_gate import LoopGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.resolver import CachedResolver
from services.gateway.http.edge.context import StatePart


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceParts:
    """What finds engines and models, and the limits of a tenant's answers."""

    registry: RegistryClient
    resolver: CachedResolver
    engines: EngineDirectory
    max_answer_bytes: int
    open_prompts: TenantBudget
    open_answers: TenantBudget
    cold_admission: LoopGate

    def is_warm(self, tenant_id: TenantId, model: str) -> bool:
        """Return whether the last resolution of a name is known to be in an engine's memory."""
        known = self.resolver.known(tenant_id, model)
        if known is None:
            return False
        return known.revision is None or self.engines.holds(known.base, known.revision.digest)


INFERENCE: StatePart[InferenceParts] = StatePart("inference")
InferenceDep = Annotated[InferenceParts, Depends(INFERENCE)]
