"""Requests, files and jobs for the tests of this folder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mint_common.algorithms import Algorithms
from mint_common.claims import Claim, RevisionRef
from mint_common.datasets import Format
from mint_common.events import JobSubmitted, LoraSpec
from mint_common.fine_tuning_requests import FineTuningBody
from mint_common.ids import BaseName, Digest, JobId, PolicyId, TenantId, WaveId
from services.rollout.core.files.records import FileRecord
from services.rollout.core.fine_tuning.plan import JobFiles, JobPlan, plan_fine_tuning
from services.rollout.core.fine_tuning.records import FineTuning
from services.rollout.core.job import Job, open_job
from services.rollout.core.job_view import JobProgress
from services.rollout.core.progress import Progress
from services.rollout.core.wave import Wave, WaveCounts, WaveState
from tests.testing.factories import EXACT

TENANT = TenantId("ten_a")
CLAIM = Claim(uri="m", sha256="0" * 64, size_bytes=1)
JOB = JobId("job_" + "a" * 26)
ALGORITHMS = Algorithms()
DPO = {"type": "dpo"}
REINFORCEMENT = {"type": "reinforcement", "reinforcement": {"grader": EXACT}}


def file(kind: Format = Format.CHAT, *, rows: int = 100, repeats: int = 0, name: str = "train") -> FileRecord:
    """Return a stored file of rows."""
    return FileRecord(
        file_id=f"file-{name}",
        tenant_id=TENANT,
        filename=f"{name}.jsonl",
        purpose="fine-tune",
        sha256=name.ljust(64, "0"),
        size_bytes=10 * rows,
        created_at=1.0,
        expires_at=None,
        format=kind,
        rows=rows,
        repeats=repeats,
    )


def body(**fields: Any) -> FineTuningBody:
    """Return a request as its JSON is read."""
    return FineTuningBody.model_validate({"model": "tiny", "training_file": "file-train", **fields})


def plan(
    asked: FineTuningBody,
    *,
    files: JobFiles | None = None,
    max_context: int = 256,
    algorithms: Algorithms = ALGORITHMS,
) -> JobPlan:
    """Return what becomes of a request."""
    files = files or JobFiles(training=file())
    return plan_fine_tuning(asked, files, algorithms, max_context=max_context, seed=7)


def submitted(planned: JobPlan, **fields: Any) -> Job:
    """Return the job of a plan."""
    lora = LoraSpec(rank=4, alpha=8.0, targets=("q_proj",), seed=7)
    told = FineTuning(
        model="tiny",
        suffix=None,
        metadata=None,
        method=planned.algorithm.method,
        hyperparameters=planned.hyperparameters,
        lora=lora,
    )
    event = JobSubmitted(
        tenant_id=TENANT,
        base=BaseName("tiny"),
        job_id=JOB,
        policy_id=PolicyId("pol_a"),
        lora=lora,
        spec=planned.spec,
    )
    warnings = fields.get("warnings", ())
    return open_job(event, policy="tiny-mine", warnings=warnings, fine_tuning=told, now=100.5)


def revision(number: int, digest: str) -> RevisionRef:
    """Return what a step led to."""
    return RevisionRef(digest=Digest(digest), number=number, manifest=CLAIM)


def step(
    number: int,
    *,
    led_to: RevisionRef | None,
    counts: WaveCounts | None = None,
    reward_mean: float | None = None,
    scored_at: float | None = None,
    **metrics: float,
) -> Wave:
    """Return a step that a revision followed, unless it is None."""
    return Wave(
        wave_id=WaveId(f"wave_{number}"),
        job_id=JOB,
        step=number,
        state=WaveState.COMPLETED if led_to is None else WaveState.PUBLISHED,
        sampled=None,
        prompts=CLAIM,
        requested_at=100.0 + number,
        published_at=None if led_to is None else 101.0 + number,
        revision=led_to,
        reward_mean=reward_mean,
        scored_at=scored_at,
        counts=counts or WaveCounts(),
        metrics=metrics,
    )


def progress(job: Job, *waves: Wave, of_job: Mapping[str, Any] | None = None, **fields: Any) -> JobProgress:
    """Return how far a job is; ``of_job`` are fields of its row, the others of its progress."""
    return JobProgress(job=replace(job, **(of_job or {})), progress=Progress(**fields), waves=waves)
