"""A policy's training session as the database knows it, and what to do with a wave that arrives."""

from dataclasses import dataclass, replace

from mint_common.claims import Claim
from mint_common.errors import AlreadyHandled, Unavailable
from mint_common.events import LoraSpec, WaveCompleted
from mint_common.ids import BaseName, Digest, PolicyId, TenantId
from services.trainer.core.refusals import WaveForeign


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """``step`` counts the policy's optimizer steps; ``checkpoint`` is None until the first.

    ``digest`` is the latest export and ``parent`` the one that it was trained from.
    """

    policy_id: PolicyId
    tenant_id: TenantId
    base: BaseName
    lora: LoraSpec
    step: int = 0
    checkpoint: Claim | None = None
    digest: Digest | None = None
    parent: Digest | None = None
    waves: int = 0

    def at(self, *, digest: Digest, step: int, checkpoint: Claim) -> "Session":
        """Return the session moved to a revision that it did not export last."""
        return replace(self, step=step, checkpoint=checkpoint, digest=digest, parent=None)

    def at_start(self) -> "Session":
        """Return the session moved back to before its first step."""
        return replace(self, step=0, checkpoint=None, digest=None, parent=None)

    def after(self, *, step: int, checkpoint: Claim | None, digest: Digest) -> "Session":
        """Return the session after a wave. Exporting the same bytes again leaves the lineage alone."""
        parent = self.parent if digest == self.digest else self.digest
        return replace(
            self, step=step, checkpoint=checkpoint, digest=digest, parent=parent, waves=self.waves + 1
        )


def open_session(wave: WaveCompleted) -> Session:
    """Return the session of a policy that was never trained."""
    return Session(policy_id=wave.policy_id, tenant_id=wave.tenant_id, base=wave.base, lora=wave.lora)


def is_elsewhere(session: Session, wave: WaveCompleted) -> bool:
    """Return whether a wave was sampled by other weights than the session's.

    So it is after an export that was rejected or belongs to a job that was cancelled, and when a revision was
    uploaded or restored since: a job begins at the policy's newest published revision, and so does its
    training. A wave without a revision, which the bare base answered, says so in a job's first step only.
    """
    sampled = wave.revision.digest if wave.revision else None
    return sampled != session.digest and (sampled is not None or wave.step == 1)


def check_turn(session: Session, wave: WaveCompleted, *, trained_step: int) -> None:
    """Raise unless the wave is this session's next one; ``trained_step`` is the job's last trained step.

    A wave from the future waits for its predecessors (Unavailable). One of the past was trained while this
    copy of it was on its way (AlreadyHandled): the ledger repeats what came of it.
    """
    if (wave.tenant_id, wave.base) != (session.tenant_id, session.base):
        raise WaveForeign(problem=f"policy {wave.policy_id} is not of {wave.tenant_id} on {wave.base}")
    if wave.lora != session.lora:
        raise WaveForeign(problem=f"LoRA {wave.lora} is not the policy's {session.lora}")
    if wave.step > trained_step + 1:
        problem = f"job {wave.job_id} has trained step {trained_step}, step {wave.step} is not due"
        raise Unavailable(what="the training session", problem=problem)
    if wave.step <= trained_step:
        raise AlreadyHandled(cause=wave.id)
