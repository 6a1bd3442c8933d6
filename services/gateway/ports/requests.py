"""What the gateway needs for any request: what names mean, first answers, the audit log."""

from collections.abc import Sequence
from typing import Protocol

from mint_common.catalog import Resolution
from mint_common.ids import TenantId
from services.gateway.core.audit import AuditRow
from services.gateway.core.idempotency import KeyedRequest, StoredAnswer


class Resolver(Protocol):
    """Resolves model names, once per request; an answer may be cached.

    It is used until an event reports a change, and at most `resolution_lease_seconds`. After a move the
    former revision may answer for `switch_seconds`, while it is ready and the new one is not.
    """

    async def resolve(self, tenant_id: TenantId, model: str) -> Resolution:
        """Return what answers in a name. Raises NotFound, Unavailable; never falls back to the base."""
        ...

    def known(self, tenant_id: TenantId, model: str) -> Resolution | None:
        """Return what answered last, if it is cached; it may be stale."""
        ...

    def forget(self, tenant_id: TenantId, policy: str) -> None:
        """Mark the names of a policy, given by id or name, as stale."""
        ...

    def withdraw(self, tenant_id: TenantId, policy: str) -> None:
        """Do the same, and let no former revision answer."""
        ...


class Requests(Protocol):
    """Requests that change something: their first answers, for a day, and the audit log."""

    async def begin(self, request: KeyedRequest) -> StoredAnswer | None:
        """Take a request's key, or return the first answer of the same request.

        Raises IdempotencyConflict when the key came with other content, RequestAtWork while there is no
        answer yet; a key without an answer is free again a minute after `begin` or the last `keep`.
        """
        ...

    async def find(self, tenant_id: TenantId, *, prefix: str, sha256: str, since: float) -> str | None:
        """Return the newest key that begins so, of a request with this content that came since then."""
        ...

    async def keep(self, request: KeyedRequest) -> None:
        """Extend the lease of the request that took the key."""
        ...

    async def finish(self, request: KeyedRequest, answer: StoredAnswer) -> None:
        """Store the answer to the request that took the key, unless another one has it by now."""
        ...

    async def release(self, request: KeyedRequest) -> None:
        """End the lease of a request without an answer: the key is free, and `find` still finds it."""
        ...

    async def abandon(self, request: KeyedRequest) -> None:
        """Give back a key whose request changed nothing."""
        ...

    async def prune(self) -> None:
        """Forget answers that are older than a day."""
        ...

    async def log(self, tenant_id: TenantId, row: AuditRow) -> None:
        """Append to a tenant's audit log."""
        ...

    async def audit(self, tenant_id: TenantId, *, limit: int, before: int | None) -> Sequence[AuditRow]:
        """Return a tenant's audit log, newest first, from below a row's ``place``."""
        ...
