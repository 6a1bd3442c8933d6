"""The parts of the gateway that the routes of the Tinker API use, and the caller's own sessions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from mint_common.errors import NotFound
from mint_common.ids import TenantId
from mint_common.line_budget import LineBudget
from mint_common.runtime.clock import Clock
from services.gateway.adapters.other_gateways import OtherGateways
from services.gateway.adapters.sampling_sessions_postgres import PostgresSamplingSessions
from services.gateway.adapters.tinker_checkpoints import TrainedCheckpoints
from services.gateway.adapters.tinker_operations import TrainingFutures
from services.gateway.adapters.tinker_postgres import PostgresTinkerRuns
from services.gateway.adapters.tinker_samples import EngineSamples
from services.gateway.core.tinker.downloads import TicketSigner
from services.gateway.core.tinker.ids import check_session_id
from services.gateway.core.tinker.records import ClientSession
from services.gateway.http.edge.context import StatePart
from services.gateway.http.mint.context import CatalogParts


@dataclass(frozen=True, slots=True, kw_only=True)
class Tinker:
    """Made by app.py. ``futures`` maps the prefix of a request id to its answers, ``tokenizers`` a base to
    the hub id or folder of its tokenizer for clients. ``public_url`` is the address of the gateway for
    clients; empty: the Host of each request.
    """

    clock: Clock
    catalog: CatalogParts
    report_lines: LineBudget
    max_answer_bytes: int
    runs: PostgresTinkerRuns
    futures: Mapping[str, TrainingFutures | EngineSamples]
    tokenizers: Mapping[str, str]
    signer: TicketSigner
    public_url: str
    samples: EngineSamples
    other_gateways: OtherGateways
    sampling_sessions: PostgresSamplingSessions
    checkpoints: TrainedCheckpoints

    async def session(self, session_id: str, tenant_id: TenantId) -> ClientSession:
        """Return a tenant's session. Raises NotFound, also for another tenant's."""
        found = await self.runs.session(check_session_id(session_id))
        if found is None or found.tenant_id != tenant_id:
            raise NotFound(kind="session", name=session_id)
        return found


TINKER: StatePart[Tinker] = StatePart("tinker")
TinkerDep = Annotated[Tinker, Depends(TINKER)]
