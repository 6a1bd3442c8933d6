"""Dependencies of routes: the parts, the tenant of a path, the caller, and the request's cause."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Header, Path, Request

from mint_common.authority import CALLER_HEADER, CAUSE_HEADER, Caller, read_caller
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.graders.runner import GraderRunner
from mint_common.tenant_budget import TenantBudget
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.adapters.handover_postgres import PostgresHandover
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.adapters.tenant_jobs_postgres import PostgresTenantJobs
from services.rollout.handlers.agent_calls import AgentCalls
from services.rollout.handlers.evaluation_requests import EvaluationMaker
from services.rollout.handlers.file_job_requests import FileJobMaker
from services.rollout.handlers.file_uploads import UploadKeeper
from services.rollout.handlers.files import FileKeeper
from services.rollout.handlers.job_admission import JobAdmission
from services.rollout.handlers.jobs import JobHandlers
from services.rollout.handlers.rollouts import Rollouts
from services.rollout.handlers.task_job_requests import TaskJobMaker
from services.rollout.http.door import DoorCalls


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantParts:
    """Parts called by routes about tenants' jobs, files and evaluation runs; created by app.py.

    ``trials`` test graders. ``previewing`` and ``comparing`` limit a tenant's concurrent computations.
    """

    of_jobs: JobHandlers
    admission: JobAdmission
    on_tasks: TaskJobMaker
    on_files: FileJobMaker
    keeper: FileKeeper
    uploads: UploadKeeper
    runs: PostgresEvaluationRuns
    evaluations: EvaluationMaker
    rollouts: Rollouts
    trials: GraderRunner
    trainers: TrainerDirectory
    previewing: TenantBudget
    comparing: FairGate
    handover: PostgresHandover
    agents: AgentCalls
    door_calls: DoorCalls

    @property
    def jobs(self) -> PostgresJobs:
        """Return the jobs."""
        return self.admission.store

    @property
    def tenant_jobs(self) -> PostgresTenantJobs:
        """Return the jobs as their tenants make and read them."""
        return self.admission.jobs

    @property
    def registry(self) -> RegistryClient:
        """Return the registry."""
        return self.admission.registry

    @property
    def clock(self) -> Clock:
        """Return the clock."""
        return self.admission.clock


async def _parts(request: Request) -> TenantParts:
    return cast(TenantParts, request.app.state.parts)


PartsDep = Annotated[TenantParts, Depends(_parts)]
Tenant = Annotated[TenantId, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


async def _caller(said: Annotated[str, Header(alias=CALLER_HEADER)]) -> Caller:
    return read_caller(said)


CallerDep = Annotated[Caller, Depends(_caller)]
"""The caller, as the gateway has verified it."""
Cause = Annotated[str, Header(alias=CAUSE_HEADER, min_length=1, max_length=200)]
"""Names the request: what is made of it has ids that derive from this."""
RepeatedCause = Annotated[str | None, Header(alias=CAUSE_HEADER, min_length=1, max_length=200)]
"""The same of a request that may come again; None for another one."""
