"""Requests, files and jobs for the tests of this folder."""

from typing import Any

from mint_common.algorithms import Algorithms
from mint_common.datasets import Format
from mint_common.events import LoraSpec
from mint_common.ids import BaseName, JobId, PolicyId, TenantId
from mint_common.testing.factories import EXACT
from services.gateway.core.files.records import FileRecord
from services.gateway.core.fine_tuning.bodies import FineTuningBody
from services.gateway.core.fine_tuning.plan import JobFiles, JobPlan, plan_fine_tuning
from services.gateway.core.fine_tuning.records import FineTuning
from services.gateway.core.mint.submission import SubmittedJob

TENANT = TenantId("ten_a")
JOB = JobId("job_" + "a" * 26)
DPO = {"type": "dpo"}
REINFORCEMENT = {"type": "reinforcement", "reinforcement": {"grader": EXACT}}

ALGORITHMS = Algorithms()


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


def submitted(planned: JobPlan, **fields: Any) -> SubmittedJob:
    """Return the job of a plan."""
    told = FineTuning(
        model="tiny",
        suffix=None,
        metadata=None,
        method=planned.algorithm.method,
        hyperparameters=planned.hyperparameters,
        lora=LoraSpec(rank=4, alpha=8.0, targets=("q_proj",), seed=7),
    )
    return SubmittedJob(
        job_id=JOB,
        policy_id=PolicyId("pol_a"),
        policy="tiny-mine",
        base=BaseName("tiny"),
        spec=planned.spec,
        submitted_at=100.5,
        warnings=fields.get("warnings", ()),
        fine_tuning=told,
    )
