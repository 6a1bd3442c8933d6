"""The checkpoints that clients named: list, copy, publish, expire, delete."""

import msgspec

from mint_common.blobs.port import Blobs
from mint_common.errors import InvalidField, NotFound
from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.clock import Clock
from mint_common.training import CheckpointRecord, CheckpointRef
from services.trainer.core.operation_check import check_name, check_ttl
from services.trainer.ports.operations import CheckpointRows


class CheckpointAdmin:
    """What clients do with checkpoints outside the order of operations. All but `page` raise NotFound."""

    def __init__(self, *, rows: CheckpointRows, blobs: Blobs, clock: Clock) -> None:
        self._rows = rows
        self._blobs = blobs
        self._clock = clock

    async def page(
        self, tenant_id: TenantId, *, policy_id: PolicyId | None, limit: int, after: str | None
    ) -> list[CheckpointRecord]:
        """Return a tenant's, newest first. Raises InvalidField for an unknown cursor."""
        now = self._clock.now()
        return await self._rows.page(tenant_id, policy_id=policy_id, limit=limit, after=after, now=now)

    async def get(self, ref: CheckpointRef) -> CheckpointRecord:
        """Return one, of any tenant."""
        return await self._rows.get(ref, now=self._clock.now())

    async def delete(self, ref: CheckpointRef) -> None:
        """Remove one, and its bytes when nothing else uses them."""
        for claim in await self._rows.delete(ref, now=self._clock.now()):
            await self._blobs.delete(claim.uri)

    async def expire(self, ref: CheckpointRef, *, ttl_seconds: int | None) -> CheckpointRecord:
        """Let one live so long from now on, None for ever."""
        check_ttl(ttl_seconds)
        now = self._clock.now()
        return await self._rows.expire(ref, expires_at=_expiry(ttl_seconds, now), now=now)

    async def publish(self, ref: CheckpointRef, *, is_public: bool) -> CheckpointRecord:
        """Let other tenants read one, or no longer."""
        return await self._rows.publish(ref, is_public=is_public, now=self._clock.now())

    async def copy(
        self, source: CheckpointRef, target: CheckpointRef, *, tenant_id: TenantId, ttl_seconds: int | None
    ) -> CheckpointRecord:
        """Give one a second row, of a policy of a tenant who may read it. Raises AlreadyExists."""
        check_name(target.name, field="target")
        check_ttl(ttl_seconds)
        if target.kind != source.kind:
            raise InvalidField(
                field="target", problem=f"a {source.kind} checkpoint is copied to {target.kind}"
            )
        now = self._clock.now()
        found = await self._rows.get(source, now=now)
        if found.tenant_id != tenant_id and not found.is_public:
            raise NotFound(kind="checkpoint", name=f"{source.policy_id}/{source.kind}/{source.name}")
        record = msgspec.structs.replace(
            found,
            policy_id=target.policy_id,
            tenant_id=tenant_id,
            name=target.name,
            created_at=now,
            expires_at=_expiry(ttl_seconds, now),
            is_public=False,
        )
        return await self._rows.copy(source, record, now=now)


def _expiry(ttl_seconds: int | None, now: float) -> float | None:
    return None if ttl_seconds is None else now + ttl_seconds
