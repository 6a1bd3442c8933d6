"""The waiters of a load: one future shared by all requests for a revision."""

import asyncio
import contextvars
from dataclasses import dataclass, field

from mint_common.claims import RevisionRef
from mint_common.ids import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """One who asked. ``claims``: a request, which has claimed the adapter from the moment the load ends."""

    revision: RevisionRef
    tenant_id: TenantId
    ready: asyncio.Future[None]
    claims: bool


@dataclass(slots=True, kw_only=True)
class PendingLoad:
    """Everybody who waits for one revision. The load runs on behalf of the first, in its trace context."""

    revision: RevisionRef
    tenant_id: TenantId
    cause: str
    asked_at: float
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    waiters: list[Waiter] = field(default_factory=list)

    def join(self, revision: RevisionRef, tenant_id: TenantId, *, claims: bool) -> Waiter:
        """Add one who asked."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(revision=revision, tenant_id=tenant_id, ready=ready, claims=claims)
        self.waiters.append(waiter)
        return waiter

    def present(self) -> list[Waiter]:
        """Return who has not gone away meanwhile."""
        return [waiter for waiter in self.waiters if not waiter.ready.done()]

    def tenants(self) -> dict[TenantId, RevisionRef]:
        """Return for whom the load is: those who wait, or who asked first when all have gone."""
        present = {waiter.tenant_id: waiter.revision for waiter in self.present()}
        return present or {self.tenant_id: self.revision}

    def succeed(self) -> None:
        """Notify all waiters that the adapter is in host memory."""
        for waiter in self.present():
            waiter.ready.set_result(None)

    def fail(self, error: Exception) -> None:
        """Raise the error in everybody."""
        for waiter in self.present():
            waiter.ready.set_exception(error)
