"""A managed job's wave as operations of its policy's log: a pass over its record, a step, an export.

A wave with several epochs or minibatches has a pass and a step for each of them, in turn; one whose step is
validated has another, measuring pass after it.

The translation is a pure function of the event, the policy's session and the trainer's rule for mismatch. A
wave sampled with other weights than the session's begins with loading them; one without
a gradient has no step. The operations of a wave end with its export, and are refused together.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from statistics import fmean

import msgspec

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import AlreadyHandled, Unavailable
from mint_common.events import JobSpec, LoraSpec, PolicyGradient, WaveCompleted
from mint_common.ids import BaseName, Digest, EventId, JobId, PolicyId, TenantId, WaveId, derive_id
from mint_common.training import (
    LAST_SEQ,
    UNNUMBERED,
    Close,
    Distill,
    Load,
    Open,
    Operation,
    Pass,
    Passed,
    Result,
    Resumption,
    Step,
    Stepped,
)
from services.trainer.core.operations import NewOperation, Packed, StoredOperation, TrainingSession
from services.trainer.core.refusals import WaveForeign

BETAS, EPSILON = (0.9, 0.95), 1e-8
"""AdamW's coefficients in managed jobs."""


class LoadRevision(msgspec.Struct, frozen=True, tag="load_revision", omit_defaults=True):
    """Continue from a published revision's weights; the moments stay unless ``resets_moments``.

    None: return to the state before the first step. ``anew``: the state before is not needed and
    may be lost; the optimizer's state is new.
    """

    revision: RevisionRef | None
    anew: bool = False
    resets_moments: bool = False


class WavePass(msgspec.Struct, frozen=True, tag="wave_pass", omit_defaults=True):
    """Add the gradient of an algorithm's loss on a rollout record; ``config`` are the loss's numbers.

    A record in which nothing can be learnt is only compared with its sampler. ``pulls``: see
    `ManagedAlgorithm`; a pass that an earlier version logged has no such rows. ``gradient`` is
    the job's, with its ``max_new_tokens``. It is on the ``minibatch`` of that number, of ``minibatches``, in
    an ``epoch``, all counted from 0. For the other two see `WaveBatch`.
    """

    record: Claim
    algorithm: str
    config: dict[str, float]
    backward: bool = True
    is_file: bool = False
    pulls: bool = False
    gradient: PolicyGradient | None = None
    max_new_tokens: int = 1
    epoch: int = 0
    minibatch: int = 0
    minibatches: int = 1


class WaveExport(msgspec.Struct, frozen=True, tag="wave_export", omit_defaults=True):
    """Export the weights as the revision that a wave led to; ``measured`` are its passes and its steps.

    ``cause`` is the id of the wave's event. ``is_stale``: earlier weights than the pass's sampled the wave,
    so its ratios say nothing of how well sampler and trainer agree. It was trained on ``epochs`` times.
    """

    wave_id: WaveId
    job_id: JobId
    cause: EventId
    learning_rate: float
    measured: tuple[int, ...]
    is_stale: bool = False
    epochs: int = 1


LoggedOperation = Operation | LoadRevision | WavePass | WaveExport
"""Whatever a log may have; clients ask for the first kinds only."""


def is_full_reset(operation: LoggedOperation) -> bool:
    """Return whether an operation needs nothing of the state before it."""
    return isinstance(operation, Open | Close) or (
        isinstance(operation, LoadRevision) and (operation.anew or operation.revision is None)
    )


def changes_state(operation: LoggedOperation) -> bool:
    """Return whether an operation may change the state: a wave's pass that only measures does not."""
    if isinstance(operation, WavePass):
        return operation.backward
    return isinstance(operation, Pass | Step | Distill | Open | Load | LoadRevision)


def rest_of_wave(operations: Mapping[int, LoggedOperation | StoredOperation], seq: int) -> list[int]:
    """Return an operation of a wave and its later ones, none for a client's operation."""
    behind = sorted(one for one in operations if one >= seq)
    rest = list(takewhile(lambda one: not isinstance(operations[one], WaveExport), behind))
    return behind[: len(rest) + 1] if len(rest) < len(behind) else []


def passes_of(operations: Mapping[int, object], wave_id: WaveId) -> list[int]:
    """Return the numbers of a wave's passes that are among the operations."""
    exports = [one for one in operations.values() if isinstance(one, WaveExport) and one.wave_id == wave_id]
    measured = exports[0].measured if exports else ()
    return [seq for seq in measured if isinstance(operations.get(seq), WavePass)]


def has_stepped(export: WaveExport, seq: int) -> bool:
    """Return whether a step of a wave comes before one of its operations: first a pass, then its step."""
    return seq > export.measured[0] + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWave:
    """A wave to append to its policy's log, which it begins if there is none."""

    wave_id: WaveId
    job_id: JobId
    job_step: int
    policy_id: PolicyId
    tenant_id: TenantId
    base: BaseName
    lora: LoraSpec
    submitted_at: float
    operations: Mapping[int, LoggedOperation]

    def stored(self) -> list[NewOperation]:
        """Return the operations as rows."""
        return [
            NewOperation(
                policy_id=self.policy_id,
                seq=seq,
                tenant_id=self.tenant_id,
                kind=str(operation.__struct_config__.tag),
                digest=hashlib.sha256(encoded).digest(),
                payload=Packed(data=encoded),
                submitted_at=self.submitted_at,
            )
            for seq, operation in self.operations.items()
            for encoded in [msgspec.msgpack.encode(operation)]
        ]


def plan_resumption(
    session: TrainingSession, resumption: Resumption, *, now: float
) -> tuple[NewOperation, LoadRevision]:
    """Return what lets a policy go on from a revision; a repetition is the same, see `Resumption`."""
    revision = resumption.revision
    operation = LoadRevision(revision=revision, anew=True)
    cause = resumption.cause or session.position
    name = hashlib.sha256(f"resume/{revision.digest}/{cause}".encode()).digest()
    seq = UNNUMBERED + (int.from_bytes(name[:8], "big") >> 2)
    return _new_operation(session, seq, operation, now=now), operation


def plan_close(session: TrainingSession, *, now: float) -> tuple[NewOperation, Close]:
    """Return what ends a policy's session after all that has arrived; a repetition is the same."""
    operation = Close()
    return _new_operation(session, LAST_SEQ, operation, now=now), operation


def _new_operation(
    session: TrainingSession, seq: int, operation: LoadRevision | Close, *, now: float
) -> NewOperation:
    encoded = msgspec.msgpack.encode(operation)
    return NewOperation(
        policy_id=session.policy_id,
        seq=seq,
        tenant_id=session.tenant_id,
        kind=str(operation.__struct_config__.tag),
        digest=hashlib.sha256(encoded).digest(),
        payload=Packed(data=encoded),
        submitted_at=now,
    )


def intake_of(wave_id: WaveId) -> str:
    """Return the ledger cause under which a wave is accepted, once."""
    return derive_id("intake", derive_id("evt", WaveCompleted.type, wave_id))


def check_turn(session: TrainingSession | None, wave: WaveCompleted, *, taken_step: int) -> None:
    """Raise unless the wave is its job's next one; ``taken_step`` is the last that was accepted.

    A wave from the future waits for its predecessors (Unavailable). One of the past was accepted before
    this copy of it arrived (AlreadyHandled): the ledger repeats its outcome.
    """
    if session is not None and (wave.tenant_id, wave.base) != (session.tenant_id, session.base):
        raise WaveForeign(problem=f"policy {wave.policy_id} is not of {wave.tenant_id} on {wave.base}")
    if session is not None and wave.lora != session.lora:
        raise WaveForeign(problem=f"LoRA {wave.lora} is not the policy's {session.lora}")
    if wave.step > taken_step + 1:
        problem = f"job {wave.job_id} has trained step {taken_step}, step {wave.step} is not due"
        raise Unavailable(what="the training session", problem=problem)
    if wave.step <= taken_step:
        raise AlreadyHandled(cause=wave.id)


def is_elsewhere(latest: Digest | None, wave: WaveCompleted) -> bool:
    """Return whether a wave was sampled by other weights than the latest export's.

    So it is after an export that was rejected or belongs to a job that was cancelled, and when a revision was
    uploaded or restored since: a job begins at the policy's newest published revision, and so does its
    training. A wave without a revision, which the bare base answered, says so in a job's first step only. So
    does every wave of a job whose sampling runs ahead: its later ones continue from the step before,
    whichever of the job's revisions sampled them.
    """
    sampled = wave.revision.digest if wave.revision else None
    if wave.spec.staleness and wave.step > 1:
        return False
    return sampled != latest and (sampled is not None or wave.step == 1)


def is_stale(latest: Digest | None, wave: WaveCompleted) -> bool:
    """Return whether a wave was sampled by an earlier revision of its job than the latest."""
    sampled = wave.revision.digest if wave.revision else None
    return bool(wave.spec.staleness) and wave.step > 1 and sampled != latest


def plan_wave(
    wave: WaveCompleted,
    *,
    latest: Digest | None,
    first_seq: int,
    can_learn: bool,
    config: dict[str, float],
    pulls: bool,
    minibatches: int = 1,
    now: float,
) -> NewWave:
    """Return a wave's operations, numbered from ``first_seq``; ``latest`` is the policy's last export.

    ``can_learn`` says whether the record has rows to train on, which are cut into ``minibatches``;
    ``config`` and ``pulls``: see `WavePass`.
    """
    spec = wave.spec
    learning_rate = learning_rate_at(spec, wave.step)
    operations: list[LoggedOperation] = []
    resets_moments = spec.optimizer == "reset" and wave.step == 1 and wave.revision is not None
    if resets_moments or is_elsewhere(latest, wave):
        operations.append(LoadRevision(revision=wave.revision, resets_moments=resets_moments))
    begin = first_seq + len(operations)
    epochs = spec.gradient.epochs if spec.gradient and can_learn else 1
    whole = WavePass(
        record=wave.record,
        algorithm=spec.algorithm,
        config=config,
        is_file=spec.data is not None and not spec.is_sampled,
        pulls=pulls,
        gradient=spec.gradient,
        max_new_tokens=spec.max_new_tokens if spec.gradient else 1,
        minibatches=minibatches,
    )
    for epoch, minibatch in product(range(epochs), range(minibatches)):
        operations.append(msgspec.structs.replace(whole, epoch=epoch, minibatch=minibatch))
        if can_learn:
            operations.append(adam_step(learning_rate=learning_rate, clip_norm=spec.clip_norm))
    if wave.validation is not None:
        operations.append(
            WavePass(
                record=wave.validation,
                algorithm=spec.algorithm,
                config=config,
                backward=False,
                is_file=True,
            )
        )
    operations.append(
        WaveExport(
            wave_id=wave.wave_id,
            job_id=wave.job_id,
            cause=wave.id,
            learning_rate=learning_rate,
            measured=tuple(range(begin, first_seq + len(operations))),
            is_stale=is_stale(latest, wave),
            epochs=epochs,
        )
    )
    return NewWave(
        wave_id=wave.wave_id,
        job_id=wave.job_id,
        job_step=wave.step,
        policy_id=wave.policy_id,
        tenant_id=wave.tenant_id,
        base=wave.base,
        lora=wave.lora,
        submitted_at=now,
        operations=dict(enumerate(operations, first_seq)),
    )


def learning_rate_at(spec: JobSpec, step: int) -> float:
    """Return the learning rate of a step, which counts from 1; it is transformers' of `get_scheduler`.

    With k = step - 1 steps before it, W = ``warmup_steps`` and T = ``steps``, the job's ``learning_rate`` is
    multiplied by k / W while k < W, and then, with p = (k - W) / (T - W), by 1 (constant), 1 - p (linear) or
    (1 + cos(pi p)) / 2 (cosine). A warm-up begins at 0, and a decay would reach 0 at the step after the last.
    """
    before, warmup = step - 1, spec.warmup_steps
    if before < warmup:
        return spec.learning_rate * (before / warmup)
    left, whole = spec.steps - before, max(1, spec.steps - warmup)
    match spec.schedule:
        case "constant":
            return spec.learning_rate
        case "linear":
            return spec.learning_rate * max(0.0, left / whole)
        case "cosine":
            share = (before - warmup) / whole
            return spec.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * share)))


def adam_step(*, learning_rate: float, clip_norm: float) -> Step:
    """Return the optimizer step of a managed job."""
    return Step(
        learning_rate=learning_rate,
        beta1=BETAS[0],
        beta2=BETAS[1],
        eps=EPSILON,
        weight_decay=0.0,
        clip_norm=clip_norm,
    )


AGREEMENT = ("ratio_max_error", "sampler_kl")
"""The metrics that say how well sampler and trainer agree, where the weights are the same.

Of stale samples, ``lag_kl`` is what ``sampler_kl`` is of fresh ones: how far the policy has moved since.
"""
PASS_SECONDS = ("step_seconds", "valid_seconds")
"""The metrics that say how long a wave's passes took: the one with the step, and the one that measures."""


def export_metrics(
    export: WaveExport, results: Sequence[Result], *, export_seconds: float
) -> dict[str, float]:
    """Return a step's metrics as its revision has them, given the results of its passes and its steps.

    Of several passes, sums of tokens and groups are those of one epoch, and seconds those of all; `AGREEMENT`
    is the first one's, whose weights sampled the wave.
    """
    passed = _merged([one.metrics for one in results if isinstance(one, Passed)], epochs=export.epochs)
    norms = [one.metrics["grad_norm:mean"] for one in results if isinstance(one, Stepped)]
    if export.is_stale:
        lag = {"lag_kl": passed["sampler_kl"]} if "sampler_kl" in passed else {}
        passed = {**{name: value for name, value in passed.items() if name not in AGREEMENT}, **lag}
    return {
        "loss": passed.pop("loss", 0.0),
        "grad_norm": fmean(norms) if norms else 0.0,
        "learning_rate": export.learning_rate,
        **passed,
        "seconds": sum(passed.get(name, 0.0) for name in PASS_SECONDS) + export_seconds,
    }


def _merged(passes: Sequence[Mapping[str, float]], *, epochs: int) -> dict[str, float]:
    """Return the metrics of several passes by name, each reduced as its name says."""
    found: dict[str, list[float]] = {}
    for metrics in passes:
        for name, value in metrics.items():
            found.setdefault(name, []).append(value)
    return {name.partition(":")[0]: _reduced(name, values, epochs) for name, values in found.items()}


def _reduced(name: str, values: Sequence[float], epochs: int) -> float:
    name, _, reduction = name.partition(":")
    if name in AGREEMENT:
        return values[0]
    match reduction:
        case "sum":
            return sum(values) / (1 if name in PASS_SECONDS else epochs)
        case "max":
            return max(values)
        case _:
            return fmean(values)
