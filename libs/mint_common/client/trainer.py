"""Client of one trainer: operations, sessions and checkpoints."""

from collections.abc import Sequence

import msgspec

from mint_common.claims import Claim
from mint_common.client.http import MSGPACK, InternalHttp, path_of
from mint_common.client.relayed import Relayed
from mint_common.datasets import Rendering, RenderRequest
from mint_common.errors import AlreadyHandled
from mint_common.ids import Digest, PolicyId, TenantId, WaveId
from mint_common.quotas import QuotaUse
from mint_common.training import (
    CheckpointRecord,
    CheckpointRef,
    MergeRequest,
    Outcome,
    PolicySummary,
    PoolTrainer,
    Resumption,
    Submission,
    TrainerInfo,
)

_OPERATIONS = "/internal/operations"


class TrainerClient:
    """One trainer over internal HTTP. Methods raise the trainer's own MintErrors, or Unavailable."""

    def __init__(self, http: InternalHttp) -> None:
        self._http = http
        self._read = http.unpack

    async def describe(self) -> TrainerInfo:
        """Return which base it trains on, and whether it does now."""
        return self._read(await self._http.exchange("GET", "/internal/base"), TrainerInfo)

    async def pool(self, tenant_id: TenantId) -> list[PoolTrainer]:
        """Return the trainers of its base, with which of a tenant's policies are at work on each."""
        answer = await self._http.exchange("GET", "/internal/pool", params={"tenant_id": tenant_id})
        return self._read(answer, list[PoolTrainer])

    async def render(self, request: RenderRequest) -> Rendering:
        """Return rows rendered as token ids. Raises InvalidField, Overloaded."""
        body = msgspec.msgpack.encode(request)
        return self._read(await self._http.exchange("POST", "/internal/render", body), Rendering)

    async def merged(self, tenant_id: TenantId, manifest: Claim, *, begin: int) -> Relayed:
        """Return the tar of the base with a revision merged into it, from a byte on, once it has begun.

        The caller closes it, which ends the computation. Raises BlobMissing, BlobCorrupt, AdapterInvalid,
        RangeBeyond, Overloaded, and InvalidField if the trainer computes none.
        """
        body = msgspec.msgpack.encode(MergeRequest(tenant_id=tenant_id, manifest=manifest, begin=begin))
        return await self._http.relay("/internal/merged", body, {"content-type": MSGPACK})

    async def submit(self, submission: Submission, *, is_sent_on: bool = False) -> None:
        """Return when the operation is durable. Idempotent.

        Raises InvalidField if a check fails (nothing is stored then), OperationConflict when another
        operation has its number, NotFound when it does not open a session and there is none, SessionClosed,
        PolicyTaken when managed jobs train the policy, Overloaded when too many of the tenant's operations
        wait.
        """
        body = msgspec.msgpack.encode(submission)
        await self._http.exchange("POST", _OPERATIONS, body, _sent_on(is_sent_on=is_sent_on))

    async def skip(
        self, policy_id: PolicyId, tenant_id: TenantId, seq: int, *, is_sent_on: bool = False
    ) -> None:
        """Report that the operation of a number was refused, so that later ones do not wait for it.

        It is a hint: if the trainer's process loses it, they wait their bounded time.
        """
        path = path_of("internal", "operations", policy_id, seq, "skip")
        params = {"tenant_id": tenant_id, **_sent_on(is_sent_on=is_sent_on)}
        await self._http.exchange("POST", path, params=params)

    async def repeat_export(self, policy_id: PolicyId, seq: int) -> None:
        """Emit ``revision.exported`` again, so that the registry repeats its verdict. Idempotent."""
        await self._http.exchange("POST", path_of("internal", "operations", policy_id, seq, "repeat"))

    async def outcome(
        self, policy_id: PolicyId, seq: int, *, wait_seconds: float, is_sent_on: bool = False
    ) -> Outcome:
        """Return an operation's outcome, Pending if it is not finished in time. Raises NotFound."""
        path = path_of("internal", "operations", policy_id, seq)
        params = {"wait_seconds": wait_seconds, **_sent_on(is_sent_on=is_sent_on)}
        answer = await self._http.exchange("GET", path, params=params)
        return self._read(answer, Outcome)  # type: ignore[arg-type]  # mypy does not accept a union as a type

    async def summaries(self, policies: Sequence[PolicyId]) -> dict[PolicyId, PolicySummary]:
        """Return what lists show of policies; one that the trainer knows nothing of is left out."""
        body = msgspec.msgpack.encode(policies)
        answer = await self._http.exchange("POST", "/internal/training/summaries", body)
        return self._read(answer, dict[PolicyId, PolicySummary])

    async def usage(self, tenant_id: TenantId) -> QuotaUse:
        """Return what a tenant's clients use of all trainers, and may use."""
        answer = await self._http.exchange("GET", "/internal/usage", params={"tenant_id": tenant_id})
        return self._read(answer, QuotaUse)

    async def resume(self, resumption: Resumption, *, is_sent_on: bool = False) -> Outcome:
        """Let a policy go on from a revision, and return the result; Pending while it is not done.

        Idempotent: see `Resumption`. Raises NotFound when it has no training session,
        SessionClosed.
        """
        body = msgspec.msgpack.encode(resumption)
        params = _sent_on(is_sent_on=is_sent_on)
        answer = await self._http.exchange("POST", "/internal/training/resume", body, params)
        return self._read(answer, Outcome)  # type: ignore[arg-type]  # mypy does not accept a union as a type

    async def digests(self) -> frozenset[Digest]:
        """Return the exports that the trainer's sessions go on from, and those that its checkpoints are."""
        held: set[Digest] = set()
        after = ""
        while True:
            answer = await self._http.exchange("GET", "/internal/held", params={"after": after})
            page = self._read(answer, list[Digest])
            if not page:
                return frozenset(held)
            held.update(page)
            after = page[-1]

    async def release_records(
        self, policy_id: PolicyId, waves: Sequence[WaveId], *, is_sent_on: bool = False
    ) -> frozenset[str]:
        """Return the keys of the records that a policy's training may still read. Idempotent.

        ``waves`` belong to ended jobs: those not accepted yet never will be, so no other record
        of ended jobs is needed later. If a record is needed, the trainer starts a snapshot that covers it.
        """
        path = path_of("internal", "training", policy_id, "records", "release")
        body, params = msgspec.msgpack.encode(waves), _sent_on(is_sent_on=is_sent_on)
        answer = await self._http.exchange("POST", path, body, params)
        return self._read(answer, frozenset[str])

    async def take_in(self, event: bytes) -> None:
        """Have an encoded event handled by the trainer, which holds its policy. Raises AlreadyHandled."""
        answer = await self._http.exchange("POST", "/internal/pool/events", event)
        cause = self._read(answer, str | None)  # type: ignore[arg-type]  # as of `outcome`
        if cause is not None:
            raise AlreadyHandled(cause=cause)

    async def checkpoints(
        self,
        tenant_id: TenantId,
        *,
        policy_id: PolicyId | None = None,
        limit: int = 1000,
        after: str | None = None,
    ) -> list[CheckpointRecord]:
        """Return a tenant's unexpired checkpoints, newest first; ``after`` is an opaque cursor."""
        params = {"tenant_id": tenant_id, "policy_id": policy_id, "limit": limit, "after": after}
        answer = await self._http.exchange("GET", "/internal/checkpoints", params=params)
        return self._read(answer, list[CheckpointRecord])

    async def checkpoint(self, ref: CheckpointRef) -> CheckpointRecord:
        """Return a checkpoint of any tenant. Raises NotFound, also when it has expired."""
        return self._read(await self._http.exchange("GET", _path(ref)), CheckpointRecord)

    async def delete_checkpoint(self, ref: CheckpointRef) -> None:
        """Remove a checkpoint's row; its bytes go when nothing else uses them. Raises NotFound."""
        await self._http.exchange("DELETE", _path(ref))

    async def expire_checkpoint(self, ref: CheckpointRef, *, ttl_seconds: int | None) -> CheckpointRecord:
        """Set the remaining lifetime of a checkpoint, None for no expiry. Raises NotFound."""
        body = msgspec.msgpack.encode({"ttl_seconds": ttl_seconds})
        return self._read(await self._http.exchange("PUT", _path(ref, "ttl"), body), CheckpointRecord)

    async def publish_checkpoint(self, ref: CheckpointRef, *, is_public: bool) -> CheckpointRecord:
        """Publish a checkpoint to other tenants, or withdraw it. Raises NotFound."""
        body = msgspec.msgpack.encode({"is_public": is_public})
        return self._read(await self._http.exchange("PUT", _path(ref, "public"), body), CheckpointRecord)

    async def copy_checkpoint(
        self, source: CheckpointRef, target: CheckpointRef, *, tenant_id: TenantId, ttl_seconds: int | None
    ) -> CheckpointRecord:
        """Give a checkpoint a second row, of a policy of the tenant. Idempotent.

        Raises NotFound, AlreadyExists when another checkpoint has the name.
        """
        body = msgspec.msgpack.encode({"target": target, "tenant_id": tenant_id, "ttl_seconds": ttl_seconds})
        return self._read(await self._http.exchange("POST", _path(source, "copy"), body), CheckpointRecord)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.close()


def _sent_on(*, is_sent_on: bool) -> dict[str, bool | None]:
    """Return the parameter of what one trainer of a pool sends on to another, else none."""
    return {"is_sent_on": is_sent_on or None}


def _path(ref: CheckpointRef, *more: str) -> str:
    return path_of("internal", "checkpoints", ref.policy_id, ref.kind, ref.name, *more)
