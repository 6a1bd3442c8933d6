"""Valid examples of everything that travels, for tests and for the docs."""

from collections.abc import Mapping

from mint_common.claims import Claim, RevisionRef
from mint_common.events import (
    AdapterEvicted,
    AdapterFailed,
    AdapterLoaded,
    AdapterNonFinite,
    AdapterWanted,
    AliasMoved,
    EvaluationRecorded,
    Event,
    JobFinished,
    JobSpec,
    JobSubmitted,
    LoraSpec,
    PolicyChanged,
    PolicyCreated,
    Retention,
    RevisionExported,
    RevisionHealed,
    RevisionLost,
    RevisionPublished,
    RevisionQuarantined,
    RevisionRejected,
    RevisionRestored,
    RevisionRetired,
    TrainingFailed,
    WaveCancelled,
    WaveCompleted,
    WaveRequested,
)
from mint_common.generation import AdapterStatus, EngineInfo
from mint_common.ids import (
    BaseName,
    EngineId,
    EvaluationId,
    JobId,
    PolicyId,
    TenantId,
    WaveId,
    derive_id,
    sha256_digest,
)

TENANT = TenantId("default")
BASE = BaseName("tiny")
POLICY = PolicyId(derive_id("pol", TENANT, "copy"))
JOB = JobId(derive_id("job", POLICY, 1))
WAVE = WaveId(derive_id("wave", JOB, 2))
ENGINE = EngineId("tiny-0")
DIGEST = sha256_digest(b"the second revision")
PARENT = sha256_digest(b"the first revision")

LORA = LoraSpec(rank=8, alpha=16.0, targets=("k_proj", "o_proj", "q_proj", "v_proj"), seed=1)
SPEC = JobSpec(
    algorithm="grpo",
    task="mode:copy",
    steps=60,
    prompts_per_step=8,
    group_size=8,
    max_new_tokens=6,
    temperature=1.0,
    learning_rate=0.01,
    kl_coefficient=0.0,
    clip_norm=1.0,
    seed=1,
)


EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
"""Rewards an answer that equals its row's."""


def make_claim(uri: str) -> Claim:
    """Return the claim of some bytes."""
    data = b"example"
    return Claim(uri=uri, sha256=sha256_digest(data).removeprefix("sha256:"), size_bytes=len(data))


MANIFEST = make_claim(f"revisions/{POLICY}/{DIGEST[7:9]}/{DIGEST[7:]}-{WAVE}/mint_manifest.json")
REVISION = RevisionRef(digest=DIGEST, number=2, manifest=MANIFEST)
METRICS = {"loss": 0.125, "ratio_max_error": 0.0, "reward_mean": 0.75}

_EVENTS: tuple[Event, ...] = (
    PolicyCreated(
        tenant_id=TENANT,
        base=BASE,
        policy_id=POLICY,
        name="copy",
        lora=LORA,
        description="",
        labels={"team": "search"},
        retention=Retention(),
    ),
    PolicyChanged(
        tenant_id=TENANT,
        base=BASE,
        policy_id=POLICY,
        changed=1,
        name="copy",
        description="Copies its prompt.",
        labels={"team": "search"},
        retention=Retention(keep_last=100, keep_days=30),
    ),
    JobSubmitted(tenant_id=TENANT, base=BASE, job_id=JOB, policy_id=POLICY, lora=LORA, spec=SPEC),
    JobFinished(
        tenant_id=TENANT,
        base=BASE,
        job_id=JOB,
        policy_id=POLICY,
        outcome="succeeded",
        reason="",
        steps_done=60,
        last_revision=DIGEST,
    ),
    WaveRequested(
        tenant_id=TENANT,
        base=BASE,
        wave_id=WAVE,
        job_id=JOB,
        policy_id=POLICY,
        step=2,
        revision=REVISION,
        prompts=make_claim(f"waves/{WAVE}/prompts"),
        lora=LORA,
        spec=SPEC,
    ),
    WaveCompleted(
        tenant_id=TENANT,
        base=BASE,
        wave_id=WAVE,
        job_id=JOB,
        policy_id=POLICY,
        step=2,
        revision=REVISION,
        record=make_claim(f"waves/{WAVE}/record"),
        validation=None,
        reward_mean=0.75,
        lora=LORA,
        spec=SPEC,
    ),
    WaveCancelled(
        tenant_id=TENANT,
        base=BASE,
        wave_id=WAVE,
        job_id=JOB,
        policy_id=POLICY,
        reason="job cancelled",
    ),
    TrainingFailed(
        tenant_id=TENANT,
        base=BASE,
        wave_id=WAVE,
        job_id=JOB,
        policy_id=POLICY,
        code="blob_corrupt",
        reason="Blob 'waves/x/record' is not what its claim says: expected 7 bytes, found 6.",
    ),
    RevisionExported(
        tenant_id=TENANT,
        base=BASE,
        export_id=WAVE,
        policy_id=POLICY,
        job_id=JOB,
        wave_id=WAVE,
        digest=DIGEST,
        manifest=MANIFEST,
        parent=PARENT,
        step=2,
        metrics=METRICS,
    ),
    RevisionPublished(
        tenant_id=TENANT,
        base=BASE,
        export_id=WAVE,
        policy_id=POLICY,
        job_id=JOB,
        wave_id=WAVE,
        revision=REVISION,
        parent=PARENT,
        step=2,
        metrics=METRICS,
    ),
    RevisionRejected(
        tenant_id=TENANT,
        base=BASE,
        export_id=WAVE,
        policy_id=POLICY,
        job_id=JOB,
        wave_id=WAVE,
        digest=DIGEST,
        code="adapter_invalid",
        reason="Adapter refused (rank): needs rank <= 16, found 32",
    ),
    RevisionRetired(tenant_id=TENANT, base=BASE, policy_id=POLICY, digest=PARENT, number=1, sequence=1),
    RevisionQuarantined(
        tenant_id=TENANT,
        base=BASE,
        policy_id=POLICY,
        digest=DIGEST,
        number=2,
        reason="non_finite_output",
        sequence=1,
    ),
    RevisionRestored(
        tenant_id=TENANT, base=BASE, policy_id=POLICY, digest=DIGEST, revision=REVISION, sequence=2
    ),
    RevisionLost(
        tenant_id=TENANT,
        base=BASE,
        policy_id=POLICY,
        digest=DIGEST,
        number=2,
        fault="missing",
        problem=f"No blob at '{MANIFEST.uri}'.",
        sequence=1,
    ),
    RevisionHealed(
        tenant_id=TENANT, base=BASE, policy_id=POLICY, digest=DIGEST, revision=REVISION, sequence=2
    ),
    AliasMoved(
        tenant_id=TENANT,
        base=BASE,
        policy_id=POLICY,
        alias="prod",
        sequence=2,
        previous=PARENT,
        revision=REVISION,
        actor="default",
        reason="best held-out accuracy",
    ),
    EvaluationRecorded(
        tenant_id=TENANT,
        base=BASE,
        evaluation_id=EvaluationId(derive_id("eval", POLICY, DIGEST)),
        policy_id=POLICY,
        digest=DIGEST,
        suite="held-out",
        metric="accuracy",
        value=0.8125,
        n=128,
        stderr=0.0345,
        actor="default",
    ),
    AdapterWanted(tenant_id=TENANT, base=BASE, request_id="req_1", revision=REVISION, priority="prewarm"),
    AdapterLoaded(
        tenant_id=TENANT,
        base=BASE,
        engine_id=ENGINE,
        epoch="run-1",
        sequence=7,
        digest=DIGEST,
        tier="slot",
        size_bytes=230_400,
        load_seconds=0.0625,
    ),
    AdapterEvicted(tenant_id=TENANT, base=BASE, engine_id=ENGINE, epoch="run-1", sequence=8, digest=DIGEST),
    AdapterNonFinite(tenant_id=TENANT, base=BASE, engine_id=ENGINE, epoch="run-1", sequence=9, digest=DIGEST),
    AdapterFailed(
        tenant_id=TENANT,
        base=BASE,
        engine_id=ENGINE,
        epoch="run-1",
        sequence=9,
        digest=DIGEST,
        code="blob_missing",
        reason="No blob at 'revisions/x'.",
    ),
)

ENGINE_INFO = EngineInfo(
    engine_id=ENGINE,
    epoch="run-1",
    base=BASE,
    base_digest=DIGEST,
    max_context=64,
    vocab_size=256,
    eos_token_id=0,
    slots=4,
    host_capacity=16,
    dtype="float32",
)
ADAPTER_STATUS = AdapterStatus(
    digest=DIGEST,
    tier="slot",
    readiness="ready",
    size_bytes=230_400,
    pinned=False,
    in_flight=0,
    last_used_at=0.0,
    load_seconds=0.0625,
)
EXAMPLES: Mapping[str, Event] = {event.type: event for event in _EVENTS}
"""Event type -> one valid event of it; all of them speak of the same job."""
