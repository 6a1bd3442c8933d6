"""Questions to the rollout service over internal HTTP."""

from contextlib import suppress
from typing import TypeVar

from mint_common.client.http import InternalHttp, named, path_of
from mint_common.errors import NotFound
from mint_common.ids import JobId, TenantId
from mint_common.json_types import JsonObject
from services.gateway.core.fine_tuning.records import TunedJob, Verb
from services.gateway.core.mint.job_warnings import TaskLengths

T = TypeVar("T")


class RolloutHttp:
    """The rollout service. Raises its MintErrors (NotFound names the task or job), or Unavailable.

    What it says of jobs on files: see `services.gateway.ports.jobs.Rollout`.
    """

    def __init__(self, http: InternalHttp) -> None:
        self._http = http
        self._read = http.read

    async def tasks(self) -> object:
        """Return every task."""
        return await self._http.get("/internal/tasks")

    async def task(self, name: str) -> JsonObject:
        """Return one task, with the ``defaults`` that it recommends for jobs."""
        return self._read(await self._http.get(path_of("internal", "tasks", named("task", name))), JsonObject)

    async def draw_prompts(self, task: str, body: JsonObject) -> object:
        """Return prompts of a task's split. Pure: the same seed gives the same prompts."""
        path = path_of("internal", "tasks", named("task", task), "prompts")
        return await self._http.post(path, body, patient=True)  # rollout says how long it may take

    async def score(self, task: str, body: JsonObject) -> object:
        """Return the rewards of texts."""
        path = path_of("internal", "tasks", named("task", task), "score")
        return await self._http.post(path, body, patient=True)

    async def lengths(self, task: str, *, base: str, n: int, seed: int) -> TaskLengths:
        """Measure ``n`` prompts that a job with this seed begins with."""
        path = path_of("internal", "tasks", named("task", task), "lengths")
        answer = await self._http.post(path, {"base": base, "n": n, "seed": seed}, patient=True)
        return self._read(answer, TaskLengths)

    async def evaluate(self, tenant_id: TenantId, run: JsonObject) -> JsonObject:
        """Begin an evaluation run, which is durable then; one of the same ``run_id`` is the same run."""
        path = path_of("internal", "tenants", tenant_id, "evaluations")
        return self._read(await self._http.post(path, run), JsonObject)

    async def compare(self, tenant_id: TenantId, sides: JsonObject) -> JsonObject:
        """Begin two evaluation runs, ``run`` and ``baseline``, or none of both; else as `evaluate`."""
        path = path_of("internal", "tenants", tenant_id, "evaluations", "comparison")
        return self._read(await self._http.post(path, sides), JsonObject)

    async def evaluations(self, tenant_id: TenantId, *, limit: int) -> list[JsonObject]:
        """Return a tenant's newest evaluation runs, newest first."""
        path = path_of("internal", "tenants", tenant_id, "evaluations")
        return self._read(await self._http.get(path, {"limit": limit}), list[JsonObject])

    async def evaluation(self, tenant_id: TenantId, run_id: str) -> JsonObject:
        """Return one evaluation run."""
        path = path_of("internal", "tenants", tenant_id, "evaluations", named("evaluation run", run_id))
        return self._read(await self._http.get(path), JsonObject)

    async def evaluation_rows(
        self, tenant_id: TenantId, run_id: str, *, limit: int, after: int
    ) -> list[JsonObject]:
        """Return answers of one run behind row ``after``, by row."""
        named_run = named("evaluation run", run_id)
        path = path_of("internal", "tenants", tenant_id, "evaluations", named_run, "rows")
        return self._read(await self._http.get(path, {"limit": limit, "after": after}), list[JsonObject])

    async def comparison(self, tenant_id: TenantId, run_id: str, *, baseline: str, rows: int) -> JsonObject:
        """Return two runs, and how they compare once both have succeeded. Raises InvalidField."""
        named_run = named("evaluation run", run_id)
        path = path_of("internal", "tenants", tenant_id, "evaluations", named_run, "comparison")
        return self._read(await self._http.get(path, {"baseline": baseline, "rows": rows}), JsonObject)

    async def cancel_evaluation(self, tenant_id: TenantId, run_id: str) -> JsonObject:
        """Stop an evaluation run. Idempotent."""
        named_run = named("evaluation run", run_id)
        path = path_of("internal", "tenants", tenant_id, "evaluations", named_run, "cancel")
        return self._read(await self._http.post(path, {}), JsonObject)

    async def check_job_quotas(self, tenant_id: TenantId) -> None:
        """Refuse another job of a tenant that has as much as it may. Raises QuotaExceeded."""
        with suppress(NotFound):  # a rollout of the version before has no quotas
            await self._http.get(path_of("internal", "tenants", tenant_id, "quotas", "jobs"))

    async def jobs(self, tenant_id: TenantId, *, limit: int) -> list[JsonObject]:
        """Return a tenant's newest jobs, newest first."""
        path = path_of("internal", "tenants", tenant_id, "jobs")
        return self._read(await self._http.get(path, {"limit": limit}), list[JsonObject])

    async def job(self, tenant_id: TenantId, job_id: str) -> JsonObject:
        """Return one job with its steps."""
        path = path_of("internal", "tenants", tenant_id, "jobs", named("job", job_id))
        return self._read(await self._http.get(path), JsonObject)

    async def progress(self, tenant_id: TenantId, job_id: JobId, *, steps: bool) -> TunedJob:
        """Return how far a job is."""
        path = path_of("internal", "tenants", tenant_id, "jobs", job_id)
        return self._read(await self._http.get(path, {"steps": str(steps).lower()}), TunedJob)

    async def delete_file(self, tenant_id: TenantId, file_id: str) -> None:
        """Have erased what was made of a file."""
        await self._http.delete(path_of("internal", "tenants", tenant_id, "files", file_id))

    async def steer(self, tenant_id: TenantId, job_id: str, verb: Verb, shape: type[T]) -> T:
        """Stop a job, let it rest, or go on."""
        path = path_of("internal", "tenants", tenant_id, "jobs", named("job", job_id), verb)
        return self._read(await self._http.post(path, {}), shape)
