"""The parts of the gateway that the inference routes take beside the catalog: limits of answers."""

from dataclasses import dataclass

from mint_common.runtime.fair_gate import LoopGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.http.edge.context import StatePart


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceParts:
    """Limits of a tenant's answers, and the queue of requests whose adapter is in no engine's memory."""

    max_answer_bytes: int
    open_prompts: TenantBudget
    open_answers: TenantBudget
    cold_admission: LoopGate


INFERENCE: StatePart[InferenceParts] = StatePart("inference")
