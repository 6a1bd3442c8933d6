"""Sessions and training runs of Tinker clients in memory."""

from collections.abc import Sequence
from dataclasses import replace

from mint_common.ids import BaseName, TenantId
from services.gateway.core.tinker.records import ClientSession, FinishReason, TrainingRun


class MemoryTinkerRuns:
    """See `services.gateway.ports.TinkerRuns`."""

    def __init__(self) -> None:
        self._sessions: dict[str, ClientSession] = {}
        self._runs: dict[str, TrainingRun] = {}

    async def add_session(self, session: ClientSession) -> None:
        """Keep a session, unless there is one of that id."""
        self._sessions.setdefault(session.session_id, session)

    async def session(self, session_id: str) -> ClientSession | None:
        """Return a session."""
        return self._sessions.get(session_id)

    async def see_session(self, session_id: str, *, now: float) -> None:
        """Note that its client lives."""
        if session_id in self._sessions:
            self._sessions[session_id] = replace(self._sessions[session_id], seen_at=now)

    async def finish_session(self, session_id: str, reason: FinishReason, detail: str | None) -> None:
        """Note how it ended; the first word stands."""
        found = self._sessions.get(session_id)
        if found is not None and found.finish is None:
            self._sessions[session_id] = replace(found, finish=reason, finish_detail=detail)

    async def set_project(self, session_id: str, project_id: str) -> None:
        """Move a session to a project."""
        if session_id in self._sessions:
            self._sessions[session_id] = replace(self._sessions[session_id], project_id=project_id)

    async def sessions(
        self, tenant_id: TenantId, *, limit: int, offset: int = 0, before: tuple[float, str] | None = None
    ) -> Sequence[ClientSession]:
        """Return a tenant's sessions, newest first."""
        found = [each for each in self._sessions.values() if each.tenant_id == tenant_id]
        found.sort(key=lambda each: (each.created_at, each.session_id), reverse=True)
        if before is not None:
            found = [each for each in found if (each.created_at, each.session_id) < before]
        return found[offset : offset + limit]

    async def add_run(self, run: TrainingRun) -> TrainingRun:
        """Keep a training run, or return the one of that id."""
        return self._runs.setdefault(run.model_id, run)

    async def run(self, model_id: str) -> TrainingRun | None:
        """Return a training run."""
        return self._runs.get(model_id)

    async def run_of_policy(self, policy_id: str) -> TrainingRun | None:
        """Return the training run of a policy."""
        return next((run for run in self._runs.values() if run.policy_id == policy_id), None)

    async def runs(
        self, tenant_id: TenantId, *, limit: int, offset: int = 0, project_id: str | None = None
    ) -> tuple[Sequence[TrainingRun], int]:
        """Return a tenant's runs, newest first, and how many there are in all."""
        found = [run for run in self._runs.values() if run.tenant_id == tenant_id]
        if project_id is not None:
            projects = {each.session_id: each.project_id for each in self._sessions.values()}
            found = [run for run in found if projects.get(run.session_id) == project_id]
        found.sort(key=lambda run: (run.created_at, run.model_id), reverse=True)
        return found[offset : offset + limit], len(found)

    async def runs_of_session(self, session_id: str) -> Sequence[TrainingRun]:
        """Return a session's runs, oldest first."""
        found = [run for run in self._runs.values() if run.session_id == session_id]
        return sorted(found, key=lambda run: (run.created_at, run.model_id))

    async def bases(self, tenant_id: TenantId) -> Sequence[BaseName]:
        """Return the bases that a tenant has runs over."""
        return sorted({run.base for run in self._runs.values() if run.tenant_id == tenant_id})

    async def owners(self) -> Sequence[tuple[TenantId, BaseName]]:
        """Return every tenant with each base that it has runs over."""
        return sorted({(run.tenant_id, run.base) for run in self._runs.values()})
