"""The internal training protocol: requests of the gateway to a trainer, and its answers, in msgpack.

An operation is durable, pollable and idempotent: it is named by its policy and its sequence number there, so
that a repeated submission is the same operation. Every field is explicit. Arrays travel as raw little-endian
bytes, row-major; nothing here needs numpy or torch.
"""

from typing import Literal

import msgspec

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import MintError
from mint_common.events.job import LoraSpec
from mint_common.ids import BaseName, Digest, PolicyId, TenantId

LAST_SEQ = 2**31 - 1
"""The greatest sequence number: of a `Close` that its client did not number."""

UNNUMBERED = LAST_SEQ + 1
"""Numbers from here on are of operations that their client did not number: see `Submission`."""

JsonScalar = str | int | float | bool | None


class OperationConflict(MintError):
    """Operation {seq} of policy {policy_id!r} was submitted before with other content."""

    code = "operation_conflict"
    http_status = 422


class SessionClosed(MintError):
    """The training session of policy {policy_id!r} is closed."""

    code = "session_closed"
    http_status = 422


class PolicyTaken(MintError):
    """Policy {policy_id!r} is trained by {by}: a policy has one writer."""

    code = "policy_taken"
    http_status = 422


class Array(msgspec.Struct, frozen=True):
    """A dense array: ``data`` has prod(shape) elements of ``dtype``."""

    dtype: Literal["int64", "float32"]
    shape: tuple[int, ...]
    data: bytes


class Datum(msgspec.Struct, frozen=True):
    """One sequence: ``tokens`` are int32; position i predicts ``inputs["target_tokens"][i]``.

    The caller has shifted the targets. Which other inputs there are depends on the loss; all have the
    targets' length, ``target_tokens`` and ``weights`` may have a second dimension (targets per position).
    """

    tokens: bytes
    inputs: dict[str, Array]


LossName = Literal["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"]
"""Sums over tokens; each is a module of this name in `services/trainer/core/losses`."""


class CheckpointRef(msgspec.Struct, frozen=True):
    """A stored checkpoint, by the policy that it was saved from, its kind and its name there."""

    policy_id: PolicyId
    kind: Literal["training", "sampler"]
    name: str


class Ingredient(msgspec.Struct, frozen=True):
    """A checkpoint of a mixture, and what its weights are multiplied by."""

    checkpoint: CheckpointRef
    coefficient: float


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Begin the policy's training session, as its LoRA initialises it or from a checkpoint. Always seq 0.

    With ``mixture`` it begins at a weighted sum of checkpoints of its own shape, tensor by tensor.
    """

    base: BaseName
    lora: LoraSpec
    checkpoint: CheckpointRef | None = None
    with_optimizer: bool = False
    metadata: dict[str, JsonScalar] = {}
    mixture: tuple[Ingredient, ...] = ()


class Pass(msgspec.Struct, frozen=True, tag="pass"):
    """Forward, and with ``backward`` add the gradient of the loss to the policy's.

    ``config`` holds the loss's numbers (``clip_low_threshold``, ``beta``, ...). Passes that follow
    one another may be computed as one batch: gradients add up.
    """

    data: tuple[Datum, ...]
    loss: LossName
    config: dict[str, float]
    backward: bool


class Lesson(msgspec.Struct, frozen=True):
    """A completion after two prompts, one for the policy and one for the teacher.

    Prompts are int32 token ids; ``target_tokens`` and ``weights`` have one dimension and the same length.
    """

    student_tokens: bytes
    teacher_tokens: bytes
    target_tokens: Array
    weights: Array


class Distill(msgspec.Struct, frozen=True, tag="distill"):
    """Forward and backward towards a teacher: add the gradient of the reverse KL to the policy's.

    The teacher is a checkpoint over the same base, of any rank and targets.
    """

    data: tuple[Lesson, ...]
    teacher: CheckpointRef
    temperature: float


class Step(msgspec.Struct, frozen=True, tag="step"):
    """Take an AdamW step on the gradient and clear it. ``clip_norm`` 0 does not clip."""

    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float


class Save(msgspec.Struct, frozen=True, tag="save"):
    """Save the training state with its optimizer under a name. ``overwrite`` replaces an existing one."""

    name: str
    overwrite: bool
    ttl_seconds: int | None
    metadata: dict[str, JsonScalar]


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Load the weights of a checkpoint, and with ``with_optimizer`` its moments and step as well."""

    checkpoint: CheckpointRef
    with_optimizer: bool


class Export(msgspec.Struct, frozen=True, tag="export"):
    """Export the weights as a revision, and with ``name`` also save it as a sampler checkpoint."""

    name: str | None
    ttl_seconds: int | None
    metadata: dict[str, JsonScalar]


class Close(msgspec.Struct, frozen=True, tag="close"):
    """End the training session: its memory is freed, its checkpoints stay."""


Operation = Open | Pass | Distill | Step | Save | Load | Export | Close


class Submission(msgspec.Struct, frozen=True):
    """An operation with its sequence number: 0 opens, then every operation has the next number.

    Numbers may arrive out of order, and one may never arrive (its client dropped it): a gap delays the
    operations after it for a bounded time, and not at all once its number was skipped. `LAST_SEQ` runs after
    all operations that have arrived, without waiting for gaps. A number from `UNNUMBERED` on runs after the
    operations of the policy that arrived before it, and delays none.
    """

    policy_id: PolicyId
    tenant_id: TenantId
    seq: int
    operation: Operation


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The session is open; ``step`` counts its optimizer steps so far."""

    step: int


class Passed(msgspec.Struct, frozen=True, tag="passed"):
    """``logprobs`` are float32, one array per datum, shaped like its targets.

    Metrics are named ``name:reduction``; ``loss:sum`` is always there.
    """

    logprobs: tuple[Array, ...]
    metrics: dict[str, float]


class Distilled(msgspec.Struct, frozen=True, tag="distilled"):
    """``losses`` has the loss of each lesson. Metrics are named ``name:reduction``."""

    losses: tuple[float, ...]
    metrics: dict[str, float]


class Stepped(msgspec.Struct, frozen=True, tag="stepped"):
    """The step was taken."""

    step: int
    metrics: dict[str, float]


class CheckpointRecord(msgspec.Struct, frozen=True):
    """The record of a checkpoint. Times are seconds since the epoch.

    ``revision`` is the digest of a sampler checkpoint's revision, None of a training checkpoint.
    """

    policy_id: PolicyId
    tenant_id: TenantId
    kind: Literal["training", "sampler"]
    name: str
    base: BaseName
    lora: LoraSpec
    step: int
    claim: Claim
    revision: Digest | None
    created_at: float
    expires_at: float | None
    is_public: bool
    metadata: dict[str, JsonScalar]

    @property
    def ref(self) -> CheckpointRef:
        """Return its name."""
        return CheckpointRef(policy_id=self.policy_id, kind=self.kind, name=self.name)


class CheckpointSummary(msgspec.Struct, frozen=True):
    """A policy's checkpoints of one kind: the newest, how many there are, and their size together."""

    newest: CheckpointRecord
    count: int
    size_bytes: int


class PolicySummary(msgspec.Struct, frozen=True):
    """A policy in lists. ``last_operation_at`` is None when no client has trained it."""

    last_operation_at: float | None = None
    checkpoints: tuple[CheckpointSummary, ...] = ()


def cursor_of(record: CheckpointRecord) -> str:
    """Return a checkpoint's cursor in a list, newest first."""
    return f"{record.created_at!r}/{record.policy_id}/{record.kind}/{record.name}"


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """The checkpoint is stored and its row committed."""

    checkpoint: CheckpointRecord


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The policy continues from there."""

    step: int


class Exported(msgspec.Struct, frozen=True, tag="exported"):
    """The adapter is stored and ``revision.exported`` emitted; the registry publishes or rejects it.

    ``export_id`` is the one in ``revision.published`` and ``revision.rejected``.
    """

    export_id: str
    digest: Digest
    step: int
    checkpoint: CheckpointRecord | None


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """The session has ended."""


Result = Opened | Passed | Distilled | Stepped | Saved | Loaded | Exported | Closed


class Pending(msgspec.Struct, frozen=True, tag="pending"):
    """Not finished yet; ``reason`` tells the user what it waits for, if known."""

    reason: str = ""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Finished: polling again gives the same result."""

    result: Result


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Failed permanently; ``error`` is a `MintError` payload. The next operations continue without it."""

    error: dict[str, str | float | bool | None]
    is_users: bool


Outcome = Pending | Done | Refused


class TrainerInfo(msgspec.Struct, frozen=True):
    """A trainer; without ``has_lease`` it waits for its base, or is of a version without the field."""

    base: BaseName
    has_lease: bool = False


class PoolTrainer(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer of a base's pool: ``held`` policies are at work on it, and ``room`` can be stepped together.

    ``policies`` are the asking tenant's among them, by id. One that is ``is_draining`` takes no others.
    """

    base: BaseName
    trainer_id: str
    held: int
    room: int
    is_draining: bool
    policies: tuple[PolicyId, ...]


class Resumption(msgspec.Struct, frozen=True):
    """Continue a policy from one of its revisions, with a new optimizer, regardless of its stored state.

    Repeats with one ``cause`` run once; those without one run until the policy has continued.
    """

    policy_id: PolicyId
    tenant_id: TenantId
    revision: RevisionRef
    cause: str = ""


class MergeRequest(msgspec.Struct, frozen=True):
    """Request the tar of the resident base with a revision merged into it, from byte ``begin`` on."""

    tenant_id: TenantId
    manifest: Claim
    begin: int
