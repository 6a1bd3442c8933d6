"""Training sessions and the operations that drive them, as the database knows them."""

import re
from dataclasses import dataclass

import msgspec

from mint_common.claims import Claim
from mint_common.errors import InvalidField, MintError, NotFound
from mint_common.events import LoraSpec
from mint_common.ids import BaseName, Digest, PolicyId, TenantId, WaveId
from mint_common.training import CheckpointRecord, CheckpointRef, JsonScalar, Open


class Fenced(MintError):
    """Another trainer has taken over {base!r}: what this one computed is not committed."""

    code = "fenced"
    retryable = True
    http_status = 503


class NotResident(MintError):
    """Policy {policy_id!r} is not in memory: its state has to be restored first."""

    code = "not_resident"
    retryable = True
    http_status = 503


class ExecutionFailed(MintError):
    """The operation could not be computed: {problem}"""

    code = "execution_failed"


class Unreadable(MintError):
    """This version of the trainer cannot read {what}: {problem}"""

    code = "unreadable"
    retryable = True  # by a trainer of the version that stored it
    http_status = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSession:
    """``position`` counts the executed operations; ``snapshot`` is the state after some of them.

    Without a snapshot the session begins as its LoRA initialises it. ``digest`` is the latest export and
    ``parent`` the one before it. ``is_managed``: its operations are those of managed jobs, not a client's.
    ``next_seq`` is the number after the greatest that is finished, of those that their senders gave.
    """

    policy_id: PolicyId
    tenant_id: TenantId
    base: BaseName
    lora: LoraSpec
    metadata: dict[str, JsonScalar]
    created_at: float
    last_operation_at: float
    step: int = 0
    position: int = 0
    snapshot: Claim | None = None
    snapshot_position: int = 0
    digest: Digest | None = None
    parent: Digest | None = None
    closed_at: float | None = None
    is_managed: bool = False
    next_seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Bytes in a row: themselves, or with ``is_claim`` the claim of the blob that has them."""

    data: bytes
    is_claim: bool = False

    @property
    def size_bytes(self) -> int:
        """Return how many bytes they are, wherever they are."""
        return msgspec.msgpack.decode(self.data, type=Claim).size_bytes if self.is_claim else len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOperation:
    """An operation to store. ``digest`` identifies repetitions; ``opens`` creates a session."""

    policy_id: PolicyId
    seq: int
    tenant_id: TenantId
    kind: str
    digest: bytes
    payload: Packed
    submitted_at: float
    opens: Open | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOperation:
    """An operation that waits, or with ``position`` one that was executed and may have to be replayed.

    ``attempts`` counts the processes that began to compute it and have not said that they ended well,
    ``reads`` those that began to read it or to restore its policy. The
    ``payload`` of one that waits is None where it is read when its turn comes, of ``size_bytes``.
    """

    policy_id: PolicyId
    seq: int
    tenant_id: TenantId
    payload: Packed | None
    size_bytes: int = 0
    position: int | None = None
    is_refused: bool = False
    attempts: int = 0
    reads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a policy after the operations up to ``position``."""

    policy_id: PolicyId
    position: int
    claim: Claim


STATE_PREFIX = "training/"
_STATE_KEY = re.compile(r"training/([^/]+)/(operations|results|snapshots|checkpoints)/(\d{1,18})(-[^/]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateKey:
    """Key of a policy's log or state bytes; ``number`` is an operation's, or a position."""

    key: str
    policy_id: PolicyId
    kind: str
    number: int


def read_state_key(key: str) -> StateKey | None:
    """Return the parts of a blob key, None if it is not of a policy's log or state."""
    if (found := _STATE_KEY.fullmatch(key)) is None:
        return None
    policy_id, kind, number, _ = found.groups()
    return StateKey(key=key, policy_id=PolicyId(policy_id), kind=kind, number=int(number))


UNEXPORTED = Digest("")
"""No revision's digest: the weights are those of a step whose export was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportLineage:
    """The policy's latest export, and the one before it; None, None: as initialised.

    `UNEXPORTED` after that: whatever the policy is trained on next begins with the loading of a revision.
    """

    digest: Digest | None
    parent: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedOperation:
    """The result of an operation, to be committed as a whole.

    ``checkpoint`` is a new row, ``replaces`` says whether it may replace an older one. ``refuses`` is the
    wave that is refused with it. ``seconds`` are the trainer's since the policy's operation before.
    """

    policy_id: PolicyId
    seq: int
    position: int
    result: Packed
    is_refused: bool
    step: int
    finished_at: float
    snapshot: Snapshot | None = None
    checkpoint: CheckpointRecord | None = None
    replaces: bool = False
    lineage: ExportLineage | None = None
    closes: bool = False
    refuses: WaveId | None = None
    seconds: float = 0.0

    @property
    def has_more(self) -> bool:
        """Return whether more than its result is to be committed."""
        return bool(self.checkpoint or self.snapshot or self.lineage or self.closes or self.refuses)


def missing_checkpoint(ref: CheckpointRef) -> NotFound:
    """Return the error where there is none, or none that may be read."""
    return NotFound(kind="checkpoint", name=f"{ref.policy_id}/{ref.kind}/{ref.name}")


def check_readable(record: CheckpointRecord, tenant_id: TenantId) -> None:
    """Raise NotFound unless a tenant may read a checkpoint: its own, and those that are public."""
    if record.tenant_id != tenant_id and not record.is_public:
        raise missing_checkpoint(record.ref)


def expiry_of(ttl_seconds: int | None, *, now: float) -> float | None:
    """Return when what lives so long from now on expires, None for never."""
    return None if ttl_seconds is None else now + ttl_seconds


def writer_of(*, is_managed: bool) -> str:
    """Return who trains a policy, in words."""
    return "managed jobs" if is_managed else "operations"


def read_cursor(cursor: str) -> tuple[float, str, str, str]:
    """Return the parts of a cursor over checkpoints: see `cursor_of`. Raises InvalidField."""
    created_at, *names = cursor.split("/")
    try:
        policy_id, kind, name = names
        return float(created_at), policy_id, kind, name
    except ValueError as error:
        raise InvalidField(field="after", problem=f"{cursor[:200]!r} is not a cursor of a list") from error
