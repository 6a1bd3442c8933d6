"""Shared parts of the handlers of operations: ports, settings, and a term's fencing token."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from weakref import WeakValueDictionary

import msgspec

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import MintError, Unavailable
from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.training import CheckpointRecord, CheckpointRef, Done, Outcome, Refused, Result
from services.trainer.adapters.checkpoint_rows_postgres import PostgresCheckpointRows
from services.trainer.adapters.operations_postgres import PostgresOperations
from services.trainer.adapters.policies.resident_policies import ResidentPolicies
from services.trainer.adapters.states.stored_states import BlobStates
from services.trainer.core.algorithms.algorithm import ManagedAlgorithms
from services.trainer.core.operations import Packed, TrainingSession, check_readable
from services.trainer.core.pool import Holder
from services.trainer.handlers.backlog import Backlog
from services.trainer.handlers.counted_reads import CountedReads

KEPT_BYTES = 64 * 1024 * 1024
MAX_OUTCOMES = 2048
"""Maximum outcomes in memory, those of some seconds: clients wait for theirs. A small one takes several times
its bytes."""

Key = tuple[PolicyId, int]

_log = logging.getLogger(__name__)
_MAX_UNREMOVED = 10_000
INLINE_BYTES = 256 * 1024
"""Maximum size of a payload in its row. A larger one is a blob, and the row has its claim."""


@dataclass(slots=True)
class Outcomes:
    """The newest outcomes, encoded, and the requests that wait for one, so that few ask the database.

    A waiter is woken by its own operation only; the cached outcomes are limited in number and bytes.
    """

    kept: OrderedDict[Key, bytes] = field(default_factory=OrderedDict)
    size_bytes: int = 0
    waiters: WeakValueDictionary[Key, asyncio.Event] = field(default_factory=WeakValueDictionary)

    def find(self, key: Key) -> bytes | None:
        """Return an outcome that is here."""
        return self.kept.get(key)

    def put(self, key: Key, outcome: bytes) -> None:
        """Cache an outcome and wake its waiters."""
        self.size_bytes += len(outcome) - len(self.kept.pop(key, b""))
        self.kept[key] = outcome
        while len(self.kept) > 1 and (self.size_bytes > KEPT_BYTES or len(self.kept) > MAX_OUTCOMES):
            self.size_bytes -= len(self.kept.popitem(last=False)[1])
        if event := self.waiters.get(key):
            event.set()

    async def wait(self, key: Key, *, seconds: float) -> None:
        """Wait until an outcome is put, but not longer."""
        event = self.waiters.setdefault(key, asyncio.Event())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationSettings:
    """Retention times and limits of operations."""

    hold_seconds: float = 3.0
    snapshot_seconds: float = 5.0
    idle_seconds: float = 60.0
    """Idle time after which a policy may leave memory: the policy of a client that only thinks stays in
    it."""
    result_seconds: float = 86_400.0
    """Results can be asked for during a day: longer than a client that lost its connection needs."""
    tenant_operations: int = 4096
    """Waiting operations of a tenant: hours of small steps, a few MB of rows."""
    tenant_seconds: float = 0.0
    """Seconds of trainers that a tenant's clients may take on a day; 0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationParts:
    """Dependencies of a base's operations. Any: connections are the adapters' own.

    ``noted`` are the unfinished operations whose rows count an attempt of this process, ``reading`` a read.
    """

    policies: ResidentPolicies
    states: BlobStates
    store: PostgresOperations
    rows: PostgresCheckpointRows
    ledger: PostgresLedger
    blobs: Blobs
    clock: Clock
    settings: OperationSettings
    algorithms: ManagedAlgorithms
    reads: CountedReads
    outcomes: Outcomes = field(default_factory=Outcomes)
    unremoved: list[str] = field(default_factory=list)
    noted: set[tuple[PolicyId, int]] = field(default_factory=set)
    reading: set[tuple[PolicyId, int]] = field(default_factory=set)

    async def readable(self, ref: CheckpointRef, tenant_id: TenantId) -> CheckpointRecord:
        """Return a checkpoint that a tenant may read. Raises NotFound, also for one that is not public."""
        record = await self.rows.get(ref, now=self.clock.now())
        check_readable(record, tenant_id)
        return record

    async def discard(self, claims: Sequence[Claim]) -> None:
        """Remove bytes that no row names; those that the store fails to remove wait in ``unremoved``."""
        for claim in claims:
            try:
                await self.blobs.delete(claim.uri)
            except Unavailable as error:
                _log.warning("blob not removed", extra={"uri": claim.uri, "problem": str(error)})
                if len(self.unremoved) < _MAX_UNREMOVED:
                    self.unremoved.append(claim.uri)

    async def discard_again(self) -> None:
        """Remove what could not be removed before. Raises Unavailable at the first that still cannot."""
        while self.unremoved:
            await self.blobs.delete(self.unremoved[-1])
            self.unremoved.pop()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerm(OperationParts):
    """A time during which this process is a trainer of the base's pool; ``holder`` fences its commits.

    An operation that is computed alone holds ``apart``: see `handlers/attempts.py`.
    """

    holder: Holder
    apart: asyncio.Lock = field(default_factory=asyncio.Lock)
    backlog: Backlog = field(default_factory=Backlog)

    @classmethod
    def begun(cls, parts: OperationParts, holder: Holder) -> "LeaseTerm":
        """Return the term of a membership."""
        return cls(holder=holder, **{each.name: getattr(parts, each.name) for each in fields(OperationParts)})


def begin_task(group: asyncio.TaskGroup, work: Coroutine[object, object, None]) -> None:
    """Begin a task of the term. Raises Unavailable while the term ends; stored work is the next term's."""
    try:
        group.create_task(work)
    except RuntimeError as error:  # the group takes no more tasks
        work.close()
        raise Unavailable(what="the trainer", problem="its term ends") from error


async def pack(blobs: Blobs, key: str, data: bytes) -> Packed:
    """Return bytes as a row has them."""
    if len(data) <= INLINE_BYTES:
        return Packed(data=data)
    claim = await blobs.put(key, data)
    return Packed(data=msgspec.msgpack.encode(claim), is_claim=True)


async def unpack(blobs: Blobs, packed: Packed) -> bytes:
    """Return the bytes of a row. Raises BlobMissing, BlobCorrupt."""
    if not packed.is_claim:
        return packed.data
    return await blobs.get(msgspec.msgpack.decode(packed.data, type=Claim))


def outcome_of(result: Result | MintError) -> Outcome:
    """Return the outcome of a result, as clients see it."""
    if isinstance(result, MintError):
        return Refused(error=msgspec.convert(result.to_payload(), dict), is_users=result.http_status < 500)
    return Done(result=result)


def operation_key(policy_id: PolicyId, seq: int, digest: bytes) -> str:
    """Return where the payload of an operation is stored when it is big."""
    return f"training/{policy_id}/operations/{seq}-{digest.hex()[:16]}"


def result_key(policy_id: PolicyId, seq: int) -> str:
    """Return where the outcome of an operation is stored when it is big."""
    return f"training/{policy_id}/results/{seq}"


def state_key(policy_id: PolicyId, kind: str, seq: int, sha256: str) -> str:
    """Return where the bytes of a state are stored."""
    return f"training/{policy_id}/{kind}/{seq}-{sha256[:16]}.safetensors"


async def prune_snapshots(term: LeaseTerm, session: TrainingSession) -> None:
    """Remove snapshots older than the session's own that a crash left, if the store lists them now."""
    prefix = f"training/{session.policy_id}/snapshots/"
    with suppress(Unavailable):
        keys = [key async for key in term.blobs.list(prefix)]
        for key in keys:
            if int(key.removeprefix(prefix).partition("-")[0]) < session.snapshot_position:
                await term.blobs.delete(key)
