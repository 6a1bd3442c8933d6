"""What HTTP asks of the service: see `mint_common.client.trainer.TrainerClient`, whose other end this is."""

from typing import Protocol

from mint_common.ids import BaseName, Digest, PolicyId, TenantId
from mint_common.training import CheckpointRecord, CheckpointRef, SessionRecord, Submission


class OperationDesk(Protocol):
    """Takes operations and answers for them."""

    @property
    def base(self) -> BaseName:
        """Return which base is trained here."""
        ...

    async def submit(self, submission: Submission) -> None:
        """Return when an operation is durable. Idempotent."""
        ...

    async def skip(self, policy_id: PolicyId, tenant_id: TenantId, seq: int) -> None:
        """Let nothing wait for a place whose operation was refused. What is no session is left alone."""
        ...

    async def repeat_export(self, policy_id: PolicyId, seq: int) -> None:
        """Say again that an export was made, if there is such a one."""
        ...

    async def outcome(self, policy_id: PolicyId, seq: int, *, wait_seconds: float) -> bytes:
        """Return an operation's outcome, encoded; Pending when it is not there in time. Raises NotFound."""
        ...

    async def session(self, policy_id: PolicyId) -> SessionRecord:
        """Return a policy's session. Raises NotFound."""
        ...

    async def held_revisions(self) -> list[Digest]:
        """Return the revisions that open sessions exported last, or checkpoints are."""
        ...


class CheckpointDesk(Protocol):
    """Answers for the checkpoints that clients named. All but `page` raise NotFound."""

    async def page(
        self, tenant_id: TenantId, *, policy_id: PolicyId | None, limit: int, after: str | None
    ) -> list[CheckpointRecord]:
        """Return a tenant's, newest first. Raises InvalidField for a place that is none."""
        ...

    async def get(self, ref: CheckpointRef) -> CheckpointRecord:
        """Return one, whoever's it is."""
        ...

    async def delete(self, ref: CheckpointRef) -> None:
        """Remove one, and its bytes when nothing else uses them."""
        ...

    async def expire(self, ref: CheckpointRef, *, ttl_seconds: int | None) -> CheckpointRecord:
        """Let one live so long from now on, None for ever."""
        ...

    async def publish(self, ref: CheckpointRef, *, is_public: bool) -> CheckpointRecord:
        """Let other tenants read one, or no longer."""
        ...

    async def copy(
        self, source: CheckpointRef, target: CheckpointRef, *, tenant_id: TenantId, ttl_seconds: int | None
    ) -> CheckpointRecord:
        """Give one a second row, of a policy of a tenant who may read it. Raises AlreadyExists."""
        ...
