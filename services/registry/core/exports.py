"""The verdict on an exported adapter: checks against its policy, and the events of the verdict."""

from dataclasses import dataclass

from mint_common.adapters_format.manifest import Manifest
from mint_common.adapters_format.names import FUSED
from mint_common.adapters_format.refusal import Reason, refusal
from mint_common.catalog import PolicyRecord, RevisionRecord
from mint_common.claims import Claim, RevisionRef
from mint_common.events import (
    RevisionExported,
    RevisionPublished,
    RevisionRejected,
    RevisionRestored,
    RevisionRetired,
    WaveCancelled,
)
from mint_common.ids import EventId, derive_id

UNSTORED = Claim(uri="unstored", sha256="", size_bytes=0)
"""Placeholder for an adapter's claim until the adapter is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an export is not published: the code of the error and its text."""

    code: str
    reason: str


def check_export(export: RevisionExported, policy: PolicyRecord, manifest: Manifest) -> None:
    """Check that a manifest matches its export and its policy. Raises AdapterInvalid."""
    if export.base != policy.base:
        problem = f"exported over {export.base}, policy {policy.name!r} is over {policy.base}"
        raise refusal(Reason.WRONG_BASE, problem)
    if manifest.digest != export.digest:
        problem = f"the manifest says {manifest.digest}, the export {export.digest}"
        raise refusal(Reason.WRONG_DIGEST, problem)
    found = (manifest.policy_id, manifest.step, manifest.parent)
    if found != (export.policy_id, export.step, export.parent):
        expected = f"{export.policy_id} step {export.step} parent {export.parent}"
        problem = f"made for {manifest.policy_id!r} step {manifest.step} parent {manifest.parent}"
        raise refusal(Reason.WRONG_POLICY, f"{problem}, exported as {expected}")
    # The fused layout stacks the A of gate and up at twice the rank; the update is the same.
    is_doubled = manifest.layout == FUSED and manifest.rank == 2 * policy.lora.rank
    if manifest.rank != policy.lora.rank and not is_doubled:
        problem = f"rank {manifest.rank}, policy {policy.name!r} has {policy.lora.rank}"
        raise refusal(Reason.WRONG_RANK, problem)
    if manifest.targets != policy.lora.targets:
        targets = ", ".join(manifest.targets)
        problem = f"targets {targets}, policy {policy.name!r} has {', '.join(policy.lora.targets)}"
        raise refusal(Reason.WRONG_TARGETS, problem)


def export_of(policy: PolicyRecord, manifest: Manifest, *, export_id: str, claim: Claim) -> RevisionExported:
    """Return the export of an adapter that no job made; ``claim`` is of its manifest."""
    return RevisionExported(
        tenant_id=policy.tenant_id,
        base=manifest.base,
        export_id=export_id,
        policy_id=policy.policy_id,
        job_id=None,
        wave_id=None,
        digest=manifest.digest,
        manifest=claim,
        parent=manifest.parent,
        step=manifest.step,
        metrics={},
    )


def state_changed(
    policy: PolicyRecord, revision: RevisionRecord, *, sequence: int
) -> RevisionRetired | RevisionRestored:
    """Return the event of a retirement or a restoration."""
    if revision.state == "retired":
        return RevisionRetired(
            tenant_id=policy.tenant_id,
            base=policy.base,
            policy_id=policy.policy_id,
            digest=revision.digest,
            number=revision.number,
            sequence=sequence,
        )
    return RevisionRestored(
        tenant_id=policy.tenant_id,
        base=policy.base,
        policy_id=policy.policy_id,
        digest=revision.digest,
        revision=revision.ref,
        sequence=sequence,
    )


def export_cause_of(wave: WaveCancelled) -> EventId:
    """Return the id of the event of a wave's export: a managed export is named by its wave."""
    return EventId(derive_id("evt", RevisionExported.type, wave.policy_id, wave.wave_id))


def answer(export: RevisionExported, verdict: RevisionRef | Refusal) -> RevisionPublished | RevisionRejected:
    """Return the event of a verdict."""
    if isinstance(verdict, Refusal):
        return RevisionRejected(
            tenant_id=export.tenant_id,
            base=export.base,
            export_id=export.export_id,
            policy_id=export.policy_id,
            job_id=export.job_id,
            wave_id=export.wave_id,
            digest=export.digest,
            code=verdict.code,
            reason=verdict.reason,
        )
    return RevisionPublished(
        tenant_id=export.tenant_id,
        base=export.base,
        export_id=export.export_id,
        policy_id=export.policy_id,
        job_id=export.job_id,
        wave_id=export.wave_id,
        revision=verdict,
        parent=export.parent,
        step=export.step,
        metrics=export.metrics,
    )
