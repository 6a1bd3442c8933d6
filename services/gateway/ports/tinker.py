"""What the gateway needs for clients of the Tinker API."""

from typing import Protocol

from mint_common.ids import TenantId
from services.gateway.core.tinker.futures import FutureState


class TinkerFutures(Protocol):
    """Requests that were answered with a future, of one kind: request ids begin with what the kind says.

    Training operations (``op:``) are durable, samples (``smp_``) are lost with the process.
    """

    async def outcome(
        self, request_id: str, tenant_id: TenantId, *, wait_seconds: float, as_protobuf: bool
    ) -> FutureState:
        """Return a request's answer, FuturePending if it is not there in time. Repeatable.

        Raises FutureGone for one that is not known (any more), or another tenant's.
        """
        ...
