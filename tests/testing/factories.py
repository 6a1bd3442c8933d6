"""Valid examples of everything that travels, for tests and for the docs."""

from collections.abc import Mapping
from typing import TypedDict

from mint_common.claims import Claim, RevisionRef
from mint_common.events import (
    AdapterEvicted,
    AdapterFailed,
    AdapterLoaded,
    AdapterNonFinite,
    AdapterWanted,
    AliasMoved,
    AliasRemoved,
    EvaluationRecorded,
    Event,
    JobFinished,
    JobSpec,
    JobSubmitted,
    LoraSpec,
    MemberChanged,
    PolicyChanged,
    PolicyCreated,
    PolicyGradient,
    PolicyParked,
    PolicyRemoved,
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
    WaveCompared,
    WaveCompleted,
    WaveRequested,
)
from mint_common.events.member import NO_TENANT
from mint_common.generation import AdapterStatus, EngineInfo
from mint_common.ids import (
    BaseName,
    Digest,
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
    gradient=PolicyGradient(),
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


class _Owned(TypedDict):
    tenant_id: TenantId
    base: BaseName


class _OfPolicy(_Owned):
    policy_id: PolicyId


class _OfWave(_OfPolicy):
    job_id: JobId
    wave_id: WaveId


class _OnEngine(_Owned):
    engine_id: EngineId
    epoch: str
    digest: Digest


_OWNED: _Owned = {"tenant_id": TENANT, "base": BASE}
_OF_POLICY: _OfPolicy = {**_OWNED, "policy_id": POLICY}
_OF_WAVE: _OfWave = {**_OF_POLICY, "job_id": JOB, "wave_id": WAVE}
_ON_ENGINE: _OnEngine = {**_OWNED, "engine_id": ENGINE, "epoch": "run-1", "digest": DIGEST}

_EVENTS: tuple[Event, ...] = (
    PolicyCreated(
        **_OF_POLICY, name="copy", lora=LORA, description="", labels={"team": "search"}, retention=Retention()
    ),
    PolicyChanged(
        **_OF_POLICY,
        changed=1,
        name="copy",
        description="Copies its prompt.",
        labels={"team": "search"},
        retention=Retention(keep_last=100, keep_days=30),
    ),
    PolicyRemoved(**_OF_POLICY, name="copier", actor="default"),
    PolicyParked(
        **_OF_POLICY,
        at=1767225600,
        code="unavailable",
        reason="the blob folder does not answer: Input/output error",
        retry_seconds=2.0,
    ),
    JobSubmitted(**_OF_POLICY, job_id=JOB, lora=LORA, spec=SPEC),
    JobFinished(
        **_OF_POLICY, job_id=JOB, outcome="succeeded", reason="", steps_done=60, last_revision=DIGEST
    ),
    WaveRequested(
        **_OF_WAVE,
        step=2,
        revision=REVISION,
        prompts=make_claim(f"waves/{WAVE}/prompts"),
        lora=LORA,
        spec=SPEC,
    ),
    WaveCompleted(
        **_OF_WAVE,
        step=2,
        revision=REVISION,
        record=make_claim(f"waves/{WAVE}/record"),
        validation=None,
        reward_mean=0.75,
        lora=LORA,
        spec=SPEC,
    ),
    WaveCompared(**_OF_WAVE, logprobs=make_claim(f"waves/{POLICY}/{JOB}/{WAVE}-{'0' * 64}.logprobs")),
    WaveCancelled(**_OF_WAVE, reason="job cancelled"),
    TrainingFailed(
        **_OF_WAVE,
        code="blob_corrupt",
        reason="Blob 'waves/x/record' is not what its claim says: expected 7 bytes, found 6.",
    ),
    RevisionExported(
        **_OF_WAVE, export_id=WAVE, digest=DIGEST, manifest=MANIFEST, parent=PARENT, step=2, metrics=METRICS
    ),
    RevisionPublished(**_OF_WAVE, export_id=WAVE, revision=REVISION, parent=PARENT, step=2, metrics=METRICS),
    RevisionRejected(
        **_OF_WAVE,
        export_id=WAVE,
        digest=DIGEST,
        code="adapter_invalid",
        reason="Adapter refused (rank): needs rank <= 16, found 32",
    ),
    RevisionRetired(**_OF_POLICY, digest=PARENT, number=1, sequence=1),
    RevisionQuarantined(**_OF_POLICY, digest=DIGEST, number=2, reason="non_finite_output", sequence=1),
    RevisionRestored(**_OF_POLICY, digest=DIGEST, revision=REVISION, sequence=2),
    RevisionLost(
        **_OF_POLICY,
        digest=DIGEST,
        number=2,
        fault="missing",
        problem=f"No blob at '{MANIFEST.uri}'.",
        sequence=1,
    ),
    RevisionHealed(**_OF_POLICY, digest=DIGEST, revision=REVISION, sequence=2),
    AliasMoved(
        **_OF_POLICY,
        alias="prod",
        sequence=2,
        previous=PARENT,
        revision=REVISION,
        actor="default",
        reason="best held-out accuracy",
    ),
    AliasRemoved(**_OF_POLICY, alias="prdo", sequence=2, digest=DIGEST, actor="default", reason="misspelt"),
    EvaluationRecorded(
        **_OF_POLICY,
        evaluation_id=EvaluationId(derive_id("eval", POLICY, DIGEST)),
        digest=DIGEST,
        suite="held-out",
        metric="accuracy",
        value=0.8125,
        n=128,
        stderr=0.0345,
        actor="default",
    ),
    AdapterWanted(**_OWNED, request_id="req_1", revision=REVISION, priority="prewarm"),
    AdapterLoaded(**_ON_ENGINE, sequence=7, tier="slot", size_bytes=230_400, load_seconds=0.0625),
    AdapterEvicted(**_ON_ENGINE, sequence=8, reason="room"),
    AdapterNonFinite(**_ON_ENGINE, sequence=9),
    AdapterFailed(**_ON_ENGINE, sequence=9, code="blob_missing", reason="No blob at 'revisions/x'."),
    MemberChanged(
        tenant_id=NO_TENANT,
        base=BASE,
        change_id="change_1",
        kind="loader",
        member_id="engine-1",
        epoch="run-1",
        url="http://10.0.0.7:8104",
        state="ready",
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
