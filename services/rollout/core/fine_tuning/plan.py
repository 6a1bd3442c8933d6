"""The plan of a job on a file: the request over its method's recommendations, completely checked.

Pure. A job has ``ceil((rows - floor(rows x holdout)) x n_epochs / batch_size)`` steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.algorithms import Algorithm, Algorithms
from mint_common.datasets import FORMATS, Repeats
from mint_common.errors import InvalidField, MintError
from mint_common.events import JobData, JobFile, JobSpec, LoraSpec
from mint_common.fine_tuning_requests import FineTuningBody, MintFields, Reinforcement
from mint_common.graders import GraderSpec, read_grader
from mint_common.job_errors import JobRefused
from mint_common.lora import plan_lora
from services.rollout.core.files.records import CHECKED_PURPOSE, FileRecord, job_file
from services.rollout.core.fine_tuning.evaluations import plan_evaluation, trained_rows
from services.rollout.core.fine_tuning.methods import algorithm_of_job, check_supported
from services.rollout.core.fine_tuning.numbers import Numbers, asked_for, choose_numbers
from services.rollout.core.fine_tuning.refusals import GRADER_FIELD, grader_refused
from services.rollout.core.gradient_plan import plan_gradient
from services.rollout.core.job_plan import check_staleness, plan_dynamic
from services.rollout.core.job_warnings import rate_warning

MAX_REWARD_ROWS = 50_000
MAX_GRADER_BYTES = 64 << 10
"""Maximum size of a job's grader as JSON: each event of a step contains it."""
FEW_ROWS = 10
RANK = 16
"""Default rank of a new policy."""
TOLD_LEAKS = 10
"""Rows in both files that are named; all are counted."""
NOT_COMPARED = "the rows of the validation file were not compared with those of the training file in time"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """The files of a job as they are stored, and where its request has the validation file."""

    training: FileRecord
    validation: FileRecord | None = None
    validation_field: str = "validation_file"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """A complete job. ``hyperparameters`` have OpenAI's names; ``warnings`` are for the user.

    ``grader`` is that of reinforcement, read from the request.
    """

    spec: JobSpec
    algorithm: Algorithm
    grader: GraderSpec | None
    hyperparameters: dict[str, float | str]
    warnings: tuple[str, ...]


def plan_fine_tuning(
    body: FineTuningBody, files: JobFiles, algorithms: Algorithms, *, max_context: int, seed: int
) -> JobPlan:
    """Return the complete job; it has ``seed`` unless the request has one.

    Raises JobRefused or InvalidField, which name the wrong field by its path in the body.
    """
    check_supported(body)
    algorithm, extras = algorithm_of_job(body, algorithms), body.mint or MintFields()
    training = _checked_file(files.training, algorithm, "training_file")
    found = files.validation
    validation = None if found is None else _checked_file(found, algorithm, files.validation_field)
    asked = asked_for(body, algorithm)
    rows = trained_rows(body, training.rows, repeats=files.training.repeats or 0)
    numbers = choose_numbers(asked, extras, algorithm, rows=rows, max_context=max_context)
    is_sampled = algorithm.samples_rows
    check_staleness("mint.staleness", extras.staleness, algorithm, is_sampled=is_sampled)
    settings = body.method.reinforcement if body.method else None
    grader = None if settings is None else _read_grader(settings)
    spec = JobSpec(
        algorithm=algorithm.name,
        task="",
        steps=numbers.steps,
        prompts_per_step=numbers.batch_size,
        group_size=numbers.group_size,
        max_new_tokens=numbers.max_new_tokens,
        temperature=1.0,
        learning_rate=numbers.learning_rate,
        kl_coefficient=numbers.pull,
        clip_norm=1.0,
        seed=seed if body.seed is None else body.seed,
        schedule=extras.schedule or algorithm.schedule,
        warmup_steps=extras.warmup_steps,
        optimizer=extras.optimizer,
        staleness=extras.staleness,
        dynamic_sampling=plan_dynamic(
            extras.dynamic_sampling, is_sampled=is_sampled, field="mint.dynamic_sampling"
        ),
        data=JobData(
            training=training,
            epochs=numbers.epochs,
            on_long=extras.on_long,
            grader=None if settings is None else settings.grader,
            evaluation=plan_evaluation(body, asked, algorithm, validation, steps=numbers.steps),
        ),
    )
    spec = replace(spec, gradient=plan_gradient(extras.gradient, algorithm, spec, field="mint.gradient"))
    return JobPlan(
        spec=spec,
        algorithm=algorithm,
        grader=grader,
        hyperparameters=_shown(numbers, spec, algorithm),
        warnings=tuple(_warnings(spec, files)),
    )


def _checked_file(file: FileRecord, algorithm: Algorithm, field: str) -> JobFile:
    if file.purpose != CHECKED_PURPOSE or file.format is None or not file.rows:
        problem = f"File {file.file_id} was uploaded for {file.purpose!r}, and must be for 'fine-tune'."
        raise JobRefused(reason="wrong_purpose", field=field, problem=problem)
    taken = FORMATS[algorithm.rows]
    if file.format not in taken:
        problem = (
            f"File {file.file_id} is in the format {file.format}, but the job is not using a method for it:"
            f" {algorithm.method} takes {', '.join(sorted(taken))}."
        )
        raise JobRefused(reason="wrong_format", field=field, problem=problem)
    if algorithm.samples_rows and field == "training_file" and file.rows > MAX_REWARD_ROWS:
        problem = f"File {file.file_id} has {file.rows} rows, and reinforcement takes {MAX_REWARD_ROWS}."
        raise JobRefused(reason="too_many_rows", field=field, problem=problem)
    return job_file(file)


def _read_grader(settings: Reinforcement) -> GraderSpec:
    """Return the grader of reinforcement. Raises InvalidField, JobRefused."""
    try:
        grader = read_grader(settings.grader)
    except MintError as error:
        raise grader_refused(error) from error
    size_bytes = len(msgspec.json.encode(settings.grader))
    if size_bytes > MAX_GRADER_BYTES:
        problem = f"has {size_bytes:,} bytes as JSON, that of a job has {MAX_GRADER_BYTES:,} at most"
        raise InvalidField(field=GRADER_FIELD, problem=problem)
    return grader


def _shown(numbers: Numbers, spec: JobSpec, algorithm: Algorithm) -> dict[str, float | str]:
    shown: dict[str, float | str] = {
        "n_epochs": numbers.epochs,
        "batch_size": numbers.batch_size,
        "learning_rate_multiplier": numbers.multiplier,
    }
    if algorithm.pull == "beta":
        shown["beta"] = numbers.pull
    if numbers.compute_multiplier is not None:
        shown |= {"compute_multiplier": numbers.compute_multiplier, "reasoning_effort": "default"}
        if spec.data is not None and spec.data.evaluation is not None:
            plan = spec.data.evaluation
            shown |= {"eval_interval": plan.every, "eval_samples": plan.rows}
    return shown


def _warnings(spec: JobSpec, files: JobFiles) -> Iterator[str]:
    training, validation = files.training, files.validation
    rate = rate_warning(spec)
    if rate:
        yield rate
    if (training.rows or 0) < FEW_ROWS:
        yield f"the training file has {training.rows} rows: with less than {FEW_ROWS} little is learnt"
    if training.repeats:
        yield f"{training.repeats} rows of the training file are equal to an earlier one"
    if validation is not None and validation.sha256 == training.sha256:
        yield "the validation file is the training file: its loss says nothing of other rows"


def leak_warnings(shared: Repeats) -> tuple[str, ...]:
    """Return warnings about rows of a validation file that the training file has too."""
    if not shared.count:
        return ()
    rows, are, lines = f"{shared.count} rows", "are", "lines"
    if shared.count == 1:
        rows, are, lines = "1 row", "is", "line"
    told = ", ".join(f"{line} ({other} there)" for line, other in shared.pairs[:TOLD_LEAKS])
    more = ", ..." if shared.count > TOLD_LEAKS else ""
    return (f"{rows} of the validation file {are} in the training file too: {lines} {told}{more}",)


def plan_shape(body: FineTuningBody, base: BaseFacts, *, seed: int) -> LoraSpec:
    """Return the shape of a new policy. Raises InvalidField."""
    wish = body.mint or MintFields()
    rank = min(RANK, base.max_rank) if wish.rank is None else wish.rank
    return plan_lora(base, rank=rank, alpha=wish.alpha, targets=wish.targets, seed=seed, field="mint")


def check_continues(body: FineTuningBody, lora: LoraSpec, *, policy: str) -> None:
    """Refuse settings of a new policy for an existing one. Raises InvalidField."""
    if body.suffix is not None:
        problem = f"names a new policy, and model is policy {policy}, which keeps its name"
        raise InvalidField(field="suffix", problem=problem)
    wish = body.mint or MintFields()
    targets = None if wish.targets is None else tuple(sorted(set(wish.targets)))
    for name, value, has in (
        ("rank", wish.rank, lora.rank),
        ("alpha", wish.alpha, lora.alpha),
        ("targets", targets, lora.targets),
    ):
        if value is not None and value != has:
            problem = f"is {has} of policy {policy}, whose shape stays as it was made"
            raise InvalidField(field=f"mint.{name}", problem=problem)
