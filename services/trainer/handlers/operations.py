"""Operations of clients: durable before the answer, driven while this process holds the base's lease.

Invariants: an operation is stored before it is acknowledged, and then handed to its policy's driver whether
or not its sender still waits; a trainer that lost the lease commits nothing more and drops its policies from
memory.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec

from mint_common.bounds import DAY_SECONDS
from mint_common.errors import AlreadyHandled, MintError, NotFound, Overloaded, Unavailable
from mint_common.events import Event, PolicyRemoved
from mint_common.ids import PolicyId, TenantId, WaveId
from mint_common.quotas import check_quota
from mint_common.runtime.periodic import run_periodically
from mint_common.training import (
    Distill,
    Export,
    Open,
    Pass,
    Pending,
    Resumption,
    SessionClosed,
    Submission,
    TrainerInfo,
)
from mint_common.waiting import cancel_all, raise_if_cancelled, wait_for_event
from services.trainer import metrics
from services.trainer.adapters.lease_postgres import PostgresLease
from services.trainer.core.operation_check import check_submission
from services.trainer.core.operations import NewOperation, Packed
from services.trainer.core.parking import retry_seconds
from services.trainer.core.wave_operations import WavePass, intake_of
from services.trainer.handlers.attempts import forget_attempts
from services.trainer.handlers.committer import export_id_of
from services.trainer.handlers.drivers import Drivers
from services.trainer.handlers.executor import read_operation
from services.trainer.handlers.lease_term import (
    INLINE_BYTES,
    LeaseTerm,
    OperationParts,
    operation_key,
    pack,
    unpack,
)
from services.trainer.handlers.orphans import WALK_SECONDS, Orphans

_log = logging.getLogger(__name__)

# A repetition may name its inputs in another order: protobuf maps have none, and each process draws its own.
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_RETRY_SECONDS = 1.0
_RENEW_SECONDS = 2.0
_SWEEP_SECONDS = 2.0
_SWEPT_TOGETHER = 500
_PRUNE_SECONDS = 3600.0
KEEP_ROWS_SECONDS = 30 * DAY_SECONDS
"""Retention of operations that no snapshot needs, and of waves that newer ones followed: longer than the bus
retains what may repeat them."""
_FORGET_SECONDS = 2.0
_POLL_SECONDS = 1.0
_LOOK_SECONDS = 0.2
_TIMEOUT_SECONDS = 10.0
"""Time that a submission waits for the term to begin: its sender only sees a slower answer."""


class Operations:
    """Accepts, drives and answers the operations of one base.

    ``is_broken`` says whether this process ends because its compute parts have died.
    """

    def __init__(
        self, parts: OperationParts, lease: PostgresLease, *, is_broken: Callable[[], bool] = lambda: False
    ) -> None:
        self._is_broken = is_broken
        self._parts = parts
        self._lease = lease
        self._drivers: Drivers | None = None
        self._began = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def info(self) -> TrainerInfo:
        """Return which base is trained here, and whether it is now."""
        return TrainerInfo(self._parts.policies.facts.name, has_lease=self._began.is_set())

    async def submit(self, submission: Submission) -> None:
        """Return when an operation is durable. Idempotent: see `TrainerClient.submit`."""
        check_submission(submission, self._parts.policies.facts, layout=self._parts.policies.layout)
        drivers = await self.drivers()
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

    async def skip(self, policy_id: PolicyId, tenant_id: TenantId, seq: int) -> None:
        """Let nothing wait for a number: see `TrainerClient.skip`. Between two terms nothing does."""
        drivers = self._drivers
        if drivers is None:
            return  # without a driver nothing waits
        session = await self._parts.store.session(policy_id)
        is_theirs = session is not None and session.tenant_id == tenant_id and not session.is_managed
        if session is not None and is_theirs and session.closed_at is None:
            await drivers.skip(policy_id, seq)

    async def repeat_export(self, policy_id: PolicyId, seq: int) -> None:
        """Say again that an export was made: see `TrainerClient.repeat_export`."""
        await self._parts.ledger.repeat(export_id_of(policy_id, seq))

    async def outcome(self, policy_id: PolicyId, seq: int, *, wait_seconds: float) -> bytes:
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
            # What another trainer commits is seen by looking again.
            await self._parts.outcomes.wait(key, seconds=min(left, _POLL_SECONDS))

    async def resume(self, resumption: Resumption) -> bytes:
        """Let a policy go on from a revision: see `TrainerClient.resume`. Return the outcome, encoded."""
        policy_id = resumption.policy_id
        drivers = await self.drivers()
        session = await self._parts.store.session(policy_id)
        if session is None or session.tenant_id != resumption.tenant_id:
            raise NotFound(kind="training session", name=policy_id)
        seq = await drivers.resume(session, resumption)
        deadline = self._parts.clock.monotonic() + _TIMEOUT_SECONDS
        while not (found := await self._parts.store.results(policy_id, [seq])):
            if self._parts.clock.monotonic() > deadline:
                return msgspec.msgpack.encode(Pending(reason=self._reason(policy_id, seq)))
            await self._parts.clock.sleep(_LOOK_SECONDS)
        return await unpack(self._parts.blobs, found[0])

    async def on_policy_removed(self, event: PolicyRemoved) -> Sequence[Event]:
        """End the session of a removed policy: its state and its last revisions may go."""
        drivers = await self.drivers()
        session = await self._parts.store.session(event.policy_id)
        is_open = session is not None and session.closed_at is None
        if session is not None and is_open and session.tenant_id == event.tenant_id:
            with suppress(SessionClosed):
                await drivers.close(session)
        return ()

    async def run(self) -> None:
        """Hold the lease and drive operations until cancelled; a retryable error begins a new term."""
        while True:
            trouble: list[MintError] = []
            try:
                async with self._lease.held() as token:
                    await self._serve(token)
            except* MintError as group:
                trouble = _flat(group)
            raise_if_cancelled()
            if fatal := [error for error in trouble if not error.retryable]:
                raise fatal[0]
            _log.warning("term ended", extra={"problem": str(trouble[0])})
            await self._parts.clock.sleep(_RETRY_SECONDS)

    async def _serve(self, token: int) -> None:
        term = LeaseTerm.begun(self._parts, token)
        async with asyncio.TaskGroup() as group:
            drivers = Drivers(term, group)
            try:
                group.create_task(drivers.run())
                group.create_task(self._renew(token))
                group.create_task(self._sweep(term))
                group.create_task(self._collect(term))
                await self._forget_attempts()
                await drivers.load()
                self._drivers = drivers
                self._ended.clear()
                self._began.set()
                metrics.LEASE_HELD.set(1)
                await asyncio.Event().wait()
            finally:
                self._drivers = None
                self._began.clear()
                self._ended.set()
                metrics.LEASE_HELD.set(0)
                # What of it is committed is not known any more, and another trainer may go on.
                self._parts.policies.forget_all()
                with suppress(MintError, TimeoutError):  # else before the next term loads
                    async with asyncio.timeout(_FORGET_SECONDS):
                        await self._forget_attempts()

    async def _forget_attempts(self) -> None:
        if not self._is_broken():
            await forget_attempts(self._parts)

    async def _renew(self, token: int) -> None:
        while True:
            await self._parts.clock.sleep(_RENEW_SECONDS)
            await self._lease.renew(token)

    async def _sweep(self, term: LeaseTerm) -> None:
        """Delete expired data; retry later if a store fails."""
        failures = 0
        while True:
            try:
                await self._sweep_once(term)
                failures = 0
            except Unavailable as error:
                failures += 1
                _log.warning("not swept", extra={"problem": str(error), "failures": failures})
            await self._parts.clock.sleep(max(_SWEEP_SECONDS, retry_seconds(failures)))

    async def _sweep_once(self, term: LeaseTerm) -> None:
        """Delete expired checkpoints, and results past their retention."""
        now = self._parts.clock.now()
        await term.discard(await self._parts.rows.delete_expired(now=now, limit=_SWEPT_TOGETHER))
        before, forgotten = now - self._parts.settings.result_seconds, _SWEPT_TOGETHER
        while forgotten == _SWEPT_TOGETHER:
            forgotten, unused = await self._parts.store.forget_results(before=before, limit=_SWEPT_TOGETHER)
            await term.discard(unused)
        await term.discard_again()

    async def prune(self) -> None:
        """Delete old rows until cancelled, with or without the lease."""

        async def prune() -> None:
            await self._parts.store.prune(before=self._parts.clock.now() - KEEP_ROWS_SECONDS)

        await run_periodically(
            prune, name="prune operations", every_seconds=_PRUNE_SECONDS, clock=self._parts.clock
        )

    async def _collect(self, term: LeaseTerm) -> None:
        """Remove blobs that no row names, now and then."""
        orphans = Orphans(term)
        while True:
            await self._parts.clock.sleep(WALK_SECONDS)
            try:
                removed = await orphans.walk()
            except Unavailable as error:
                _log.warning("orphans not collected", extra={"problem": str(error)})
            else:
                _log.info("orphans collected", extra={"removed": removed})

    async def release_records(self, policy_id: PolicyId, waves: Sequence[WaveId]) -> list[str]:
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
        drivers = self._drivers
        if needed and drivers is not None:
            await drivers.cover(policy_id)
        return needed

    async def began(self) -> None:
        """Wait until this process holds the lease of its base."""
        await self._began.wait()

    async def while_held(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something while this process holds the lease of its base, in each term; until cancelled."""
        while True:
            await self.began()
            working, ended = asyncio.ensure_future(work()), asyncio.ensure_future(self._ended.wait())
            try:
                await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_all(working, ended)
            if not working.cancelled():
                working.result()

    async def drivers(self) -> Drivers:
        """Return the drivers of the term, which may be waited for a while. Raises Unavailable."""
        if self._drivers is None:
            await wait_for_event(self._began, clock=self._parts.clock, seconds=_TIMEOUT_SECONDS)
        if self._drivers is None:
            raise Unavailable(what="the trainer", problem="it does not hold the lease of its base")
        return self._drivers

    async def _stored(self, policy_id: PolicyId, seq: int) -> bytes | None:
        packed = await self._parts.store.result(policy_id, seq)
        return None if packed is None else await unpack(self._parts.blobs, packed)

    def _is_live(self, policy_id: PolicyId, seq: int) -> bool:
        driver = self._drivers.find(policy_id) if self._drivers else None
        return driver is not None and driver.knows(seq)

    def _reason(self, policy_id: PolicyId, seq: int) -> str:
        driver = self._drivers.find(policy_id) if self._drivers else None
        if driver is not None and driver.parking.parked is not None:
            return driver.parking.parked.reason
        held_by = driver.held_by(seq) if driver else None
        return "" if held_by is None else f"operation {held_by} of this policy has not arrived yet"


def _flat(group: BaseExceptionGroup[MintError]) -> list[MintError]:
    found: list[MintError] = []
    for error in group.exceptions:
        found += _flat(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
