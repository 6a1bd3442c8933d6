"""Operations of clients: durable before the answer, driven by the trainer of the pool that holds the policy.

Invariants: an operation is stored before it is acknowledged, and then handed to its policy's driver whether
or not its sender still waits; a trainer that the pool counts as gone commits nothing more of what others have
taken, and drops its policies from memory.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec

from mint_common.bounds import DAY_SECONDS
from mint_common.client.trainer import TrainerClient
from mint_common.errors import AlreadyHandled, MintError, NotFound, Overloaded
from mint_common.events import Event, PolicyRemoved
from mint_common.ids import PolicyId, TenantId, WaveId
from mint_common.quotas import QuotaUse, check_quota, quota_use
from mint_common.runtime.periodic import run_periodically
from mint_common.training import (
    Distill,
    Export,
    Open,
    Pass,
    Pending,
    PoolTrainer,
    Resumption,
    SessionClosed,
    Submission,
    TrainerInfo,
)
from services.trainer.core.operation_check import check_submission
from services.trainer.core.operations import NewOperation, Packed
from services.trainer.core.pool import HolderAway
from services.trainer.core.wave_operations import WavePass, intake_of
from services.trainer.handlers.drivers import Drivers
from services.trainer.handlers.executor import read_operation
from services.trainer.handlers.lease_term import (
    INLINE_BYTES,
    OperationParts,
    operation_key,
    pack,
    unpack,
)
from services.trainer.handlers.terms import TERM_SECONDS, Terms
from services.trainer.handlers.wave_exports import export_id_of

# A repetition may name its inputs in another order: protobuf maps have none, and each process draws its own.
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_PRUNE_SECONDS = 3600.0
KEEP_ROWS_SECONDS = 30 * DAY_SECONDS
"""Retention of operations that no snapshot needs, and of waves that newer ones followed: longer than the bus
retains what may repeat them."""
_POLL_SECONDS = 1.0
_LOOK_SECONDS = 0.2


class Operations:
    """Accepts and answers the operations of one base, which the drivers of ``terms`` execute."""

    def __init__(self, parts: OperationParts, terms: Terms) -> None:
        self._parts = parts
        self._terms = terms

    @property
    def info(self) -> TrainerInfo:
        """Return which base is trained here, and whether it is now."""
        return TrainerInfo(self._parts.policies.facts.name, has_lease=self._terms.is_serving)

    async def pool(self, tenant_id: TenantId) -> list[PoolTrainer]:
        """Return the trainers of the pool: see `TrainerClient.pool`. Raises Unavailable."""
        return await (await self._terms.drivers()).held.describe(tenant_id)

    async def submit(self, submission: Submission, *, is_sent_on: bool = False) -> None:
        """Return when an operation is durable. Idempotent: see `TrainerClient.submit`."""
        check_submission(submission, self._parts.policies.facts, layout=self._parts.policies.layout)
        await self._terms.at_holder(
            submission.policy_id,
            lambda drivers: self._submit(drivers, submission),
            lambda client: client.submit(submission, is_sent_on=True),
            opens=isinstance(submission.operation, Open),
            is_sent_on=is_sent_on,
        )

    async def _submit(self, drivers: Drivers, submission: Submission) -> None:
        if drivers.waiting(submission.tenant_id) >= self._parts.settings.tenant_operations:
            depth = self._parts.settings.tenant_operations
            raise Overloaded(what="the training queue of the tenant", depth=depth, retry_after_seconds=1)
        encoded = _ENCODER.encode(submission.operation)
        with drivers.backlog.admitted(submission.tenant_id, len(encoded)):
            await self._store(drivers, submission, encoded)

    async def _store(self, drivers: Drivers, submission: Submission, encoded: bytes) -> None:
        digest = hashlib.sha256(encoded).digest()
        operation = submission.operation
        key = operation_key(submission.policy_id, submission.seq, digest)
        new = NewOperation(
            policy_id=submission.policy_id,
            seq=submission.seq,
            tenant_id=submission.tenant_id,
            kind=str(operation.__struct_config__.tag),
            digest=digest,
            payload=Packed(data=encoded),
            submitted_at=self._parts.clock.now(),
            opens=operation if isinstance(operation, Open) else None,
        )
        outcome: bool | MintError = True
        is_limited = self._parts.settings.tenant_seconds > 0 and isinstance(operation, Pass | Distill)
        if is_limited or len(encoded) > INLINE_BYTES:  # a blob that no row would name is not stored
            outcome = await self._parts.store.check(new)
        if outcome is True and is_limited:
            await self._check_quota(submission.tenant_id)
        if outcome is True:
            new = replace(new, payload=await pack(self._parts.blobs, key, encoded))
            outcome = await drivers.add(new, operation)
        if isinstance(outcome, MintError):
            raise outcome
        if not outcome and isinstance(operation, Export):
            # A repeated export may be due to an event that the bus has lost.
            await self._parts.ledger.repeat(export_id_of(submission.policy_id, submission.seq))

    async def _check_quota(self, tenant_id: TenantId) -> None:
        used = await self._parts.store.seconds(tenant_id, now=self._parts.clock.now())
        limit, what = self._parts.settings.tenant_seconds, "seconds of training since midnight UTC"
        check_quota(used, limit=limit, what=what, remedy="send it after the next midnight")

    async def usage(self, tenant_id: TenantId) -> QuotaUse:
        """Return the seconds that a tenant's clients have taken since midnight UTC, and may take."""
        used = await self._parts.store.seconds(tenant_id, now=self._parts.clock.now())
        return quota_use("client_seconds", used, limit=self._parts.settings.tenant_seconds)

    async def skip(
        self, policy_id: PolicyId, tenant_id: TenantId, seq: int, *, is_sent_on: bool = False
    ) -> None:
        """Let nothing wait for a number: see `TrainerClient.skip`. Between two terms nothing does."""
        if self._terms.current is None:
            return  # without a driver nothing waits
        await self._terms.at_holder(
            policy_id,
            lambda drivers: self._skip(drivers, policy_id, tenant_id, seq),
            lambda client: client.skip(policy_id, tenant_id, seq, is_sent_on=True),
            is_sent_on=is_sent_on,
        )

    async def _skip(self, drivers: Drivers, policy_id: PolicyId, tenant_id: TenantId, seq: int) -> None:
        session = await self._parts.store.session(policy_id)
        is_theirs = session is not None and session.tenant_id == tenant_id and not session.is_managed
        if session is not None and is_theirs and session.closed_at is None:
            await drivers.skip(policy_id, seq)

    async def repeat_export(self, policy_id: PolicyId, seq: int) -> None:
        """Say again that an export was made: see `TrainerClient.repeat_export`."""
        await self._parts.ledger.repeat(export_id_of(policy_id, seq))

    async def outcome(
        self, policy_id: PolicyId, seq: int, *, wait_seconds: float, is_sent_on: bool = False
    ) -> bytes:
        """Return an operation's outcome, encoded; Pending when it is not there in time. Raises NotFound."""
        key, deadline = (policy_id, seq), self._parts.clock.monotonic() + wait_seconds
        while True:
            found = self._parts.outcomes.find(key)
            if found is None and not self._is_live(policy_id, seq):
                # It may be finished while the database is asked.
                found = await self._stored(policy_id, seq) or self._parts.outcomes.find(key)
            left = deadline - self._parts.clock.monotonic()
            if found is not None:
                return found
            if left <= 0:
                return msgspec.msgpack.encode(Pending(reason=self._reason(policy_id, seq)))
            found = await self._elsewhere(policy_id, seq, wait_seconds=left) if not is_sent_on else None
            if found is not None:
                return found
            # What another trainer commits is seen by looking again.
            await self._parts.outcomes.wait(key, seconds=min(left, _POLL_SECONDS))

    async def _elsewhere(self, policy_id: PolicyId, seq: int, *, wait_seconds: float) -> bytes | None:
        """Return the outcome that the policy's holder answers, None where it is held here or it is away."""
        drivers = self._terms.current
        holder = await drivers.held.holder_elsewhere(policy_id) if drivers else None
        if holder is None:
            return None
        with suppress(HolderAway):
            outcome = await self._terms.peers.ask(
                holder,
                lambda client: client.outcome(policy_id, seq, wait_seconds=wait_seconds, is_sent_on=True),
            )
            return msgspec.msgpack.encode(outcome)
        return None

    async def resume(self, resumption: Resumption, *, is_sent_on: bool = False) -> bytes:
        """Let a policy go on from a revision: see `TrainerClient.resume`. Return the outcome, encoded."""

        async def there(client: TrainerClient) -> bytes:
            return msgspec.msgpack.encode(await client.resume(resumption, is_sent_on=True))

        return await self._terms.at_holder(
            resumption.policy_id,
            lambda drivers: self._resume(drivers, resumption),
            there,
            is_sent_on=is_sent_on,
        )

    async def _resume(self, drivers: Drivers, resumption: Resumption) -> bytes:
        policy_id = resumption.policy_id
        session = await self._parts.store.session(policy_id)
        if session is None or session.tenant_id != resumption.tenant_id:
            raise NotFound(kind="training session", name=policy_id)
        seq = await drivers.resume(session, resumption)
        deadline = self._parts.clock.monotonic() + TERM_SECONDS
        while not (found := await self._parts.store.results(policy_id, [seq])):
            if self._parts.clock.monotonic() > deadline:
                return msgspec.msgpack.encode(Pending(reason=self._reason(policy_id, seq)))
            await self._parts.clock.sleep(_LOOK_SECONDS)
        return await unpack(self._parts.blobs, found[0])

    async def on_policy_removed(self, event: PolicyRemoved) -> Sequence[Event]:
        """End the session of a removed policy: its state and its last revisions may go."""
        drivers = await self._terms.drivers()
        session = await self._parts.store.session(event.policy_id)
        is_open = session is not None and session.closed_at is None
        if session is not None and is_open and session.tenant_id == event.tenant_id:
            with suppress(SessionClosed):
                await drivers.close(session)
        return ()

    async def release_records(
        self, policy_id: PolicyId, waves: Sequence[WaveId], *, is_sent_on: bool = False
    ) -> list[str]:
        """Let records of ended jobs go: see `TrainerClient.release_records`."""
        for wave_id in waves:
            with suppress(AlreadyHandled):  # taken in: its passes are in the log until a snapshot covers them
                async with self._parts.ledger.transaction(intake_of(wave_id)):
                    pass
        needed = []
        for packed in await self._parts.store.needed_passes(policy_id):
            operation = read_operation(await unpack(self._parts.blobs, packed))
            assert isinstance(operation, WavePass), operation
            needed.append(operation.record.uri)
        if needed and self._terms.current is not None:

            async def there(client: TrainerClient) -> None:
                await client.release_records(policy_id, waves, is_sent_on=True)

            await self._terms.at_holder(
                policy_id, lambda drivers: drivers.cover(policy_id), there, is_sent_on=is_sent_on
            )
        return needed

    async def prune(self) -> None:
        """Delete old rows until cancelled, in a term or not."""

        async def prune() -> None:
            await self._parts.store.prune(before=self._parts.clock.now() - KEEP_ROWS_SECONDS)

        await run_periodically(
            prune, name="prune operations", every_seconds=_PRUNE_SECONDS, clock=self._parts.clock
        )

    async def _stored(self, policy_id: PolicyId, seq: int) -> bytes | None:
        packed = await self._parts.store.result(policy_id, seq)
        return None if packed is None else await unpack(self._parts.blobs, packed)

    def _is_live(self, policy_id: PolicyId, seq: int) -> bool:
        driver = self._terms.current.find(policy_id) if self._terms.current else None
        return driver is not None and driver.knows(seq)

    def _reason(self, policy_id: PolicyId, seq: int) -> str:
        driver = self._terms.current.find(policy_id) if self._terms.current else None
        if driver is not None and driver.parking.parked is not None:
            return driver.parking.parked.reason
        held_by = driver.held_by(seq) if driver else None
        return "" if held_by is None else f"operation {held_by} of this policy has not arrived yet"
